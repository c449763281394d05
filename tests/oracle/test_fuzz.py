# SPDX-License-Identifier: GPL-3.0-or-later
"""Every byte that a parser reads of a volume is changed: a map inside of the volume comes out, or a reason.

For file systems whose structures carry no checksums, or few; those with checksums everywhere have tests of their own
that correct them. `IMAGER_RANDOM=1 IMAGER_FUZZ_SECONDS=900` draws other ones, and goes on for so long with each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from imager.filesystems import exfat, ext, fat, ntfs, swap
from tests.harness.files import sparse_file
from tests.harness.hostile import fuzz, places_read
from tests.harness.programs import call, missing_tools

MIB = 1024 * 1024

_OLD_EXT = "^metadata_csum,^uninit_bg"
CASES: dict[str, tuple[ModuleType, int, str]] = {
    "ext2": (ext, 16, "mke2fs -q -F -t ext2 -b 1024"),
    "ext4, no checksums": (ext, 32, f"mke2fs -q -F -t ext4 -b 1024 -O {_OLD_EXT}"),
    "ext4, bigalloc": (ext, 64, f"mke2fs -q -F -t ext4 -b 4096 -O bigalloc,{_OLD_EXT}"),
    "ext4, meta_bg": (ext, 64, f"mke2fs -q -F -t ext4 -b 1024 -O meta_bg,^resize_inode,{_OLD_EXT}"),
    "ext4, its checksums": (ext, 32, "mke2fs -q -F -t ext4"),
    "FAT12": (fat, 2, "mkfs.fat -F 12"),
    "FAT16": (fat, 16, "mkfs.fat -F 16"),
    "FAT32": (fat, 40, "mkfs.fat -F 32"),
    "exFAT": (exfat, 16, "mkfs.exfat"),
    "NTFS": (ntfs, 8, "mkntfs -q -F -f -c 1024"),
    "swap": (swap, 4, "mkswap -q"),
}


def _exfat_boot_checksum(content: bytearray) -> None:
    """exFAT specification, 3.4: the first eleven sectors without VolumeFlags and PercentInUse."""
    for region in (0, 12 * 512):
        checksum = 0
        for index, value in enumerate(content[region : region + 11 * 512]):
            if index not in (106, 107, 112):
                checksum = ((checksum << 31 | checksum >> 1) + value) & 0xFFFFFFFF
        content[region + 11 * 512 : region + 12 * 512] = checksum.to_bytes(4, "little") * 128


CORRECT: dict[str, Callable[[bytearray], None]] = {"exFAT": _exfat_boot_checksum}


@pytest.mark.parametrize("case", CASES)
def test_changed_structures_end_in_a_map_or_a_refusal(case: str, tmp_path: Path) -> None:
    parser, size_mib, command = CASES[case]
    if missing := missing_tools(command.split()[0]):
        pytest.skip(f"not installed: {missing}")
    image = sparse_file(tmp_path / "volume", size_mib * MIB)
    call(*command.split(), image)
    volume = image.read_bytes()
    places = places_read(parser, volume)
    if case == "exFAT":
        places = [*places, (0, 12 * 512), (12 * 512, 12 * 512)]
    outcomes = fuzz(parser, volume, places, CORRECT.get(case, lambda _content: None), rounds=60)
    assert outcomes["reason"] > 0
