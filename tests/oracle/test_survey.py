# SPDX-License-Identifier: GPL-3.0-or-later
"""What survey keeps and leaves of whole disks made by others' programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from imager.blocks import Slice
from imager.errors import UsageError
from imager.extents import Extents
from imager.survey import Disk, Survey, SurveyOptions, survey
from tests.harness.disks import Part, gpt_disk, mbr_disk, needs_table_tools
from tests.harness.files import FileReader, sparse_file
from tests.harness.programs import call

pytestmark = needs_table_tools
MIB = 1024 * 1024
SECTORS = MIB // 512


def ext4_at(disk: Path, start: int, size: int) -> None:
    call("mke2fs", "-q", "-t", "ext4", "-E", f"offset={start}", disk, f"{size // 1024}k")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Two ext4 partitions of 64 MiB with a gap of 96 MiB between them, and 60 MiB behind."""
    parts = [Part(64 * MIB, start_bytes=1 * MIB), Part(64 * MIB, start_bytes=161 * MIB)]
    path = gpt_disk(tmp_path / "disk", 285 * MIB, parts)
    ext4_at(path, 1 * MIB, 64 * MIB)
    ext4_at(path, 161 * MIB, 64 * MIB)
    return path


def look(path: Path, **options: object) -> Survey:
    return survey([Disk(FileReader(path), str(path))], SurveyOptions(**options))[0]  # type: ignore[arg-type]


def test_edges_of_disk_and_partitions_are_always_used(disk):
    used = look(disk).used
    for edge in (0, 1, 64, 161, 224, 284):
        assert used.holds(edge * MIB, (edge + 1) * MIB)


def test_free_space_of_a_trusted_file_system_is_left_out(disk):
    found = look(disk)
    content = found.layout.partitions[0].content
    assert content is not None
    assert content.whole_reason == ""
    assert found.used.clip(1 * MIB, 65 * MIB).total_bytes == content.mapped_bytes < 20 * MIB


def test_of_a_gap_both_ends_are_used_and_the_middle_is_recorded(disk):
    found = look(disk)
    gap = next(gap for gap in found.layout.gaps if gap.start == 65 * MIB)
    assert (gap.end, gap.captured_bytes) == (161 * MIB, 32 * MIB)
    assert found.used.clip(65 * MIB, 161 * MIB) == Extents.of([(65 * MIB, 81 * MIB), (145 * MIB, 161 * MIB)])


def test_gaps_takes_all_of_the_gaps(disk):
    assert look(disk, gaps=True).used.holds(65 * MIB, 161 * MIB)


def test_all_blocks_takes_every_block_of_every_partition(disk):
    found = look(disk, all_blocks=True)
    assert found.used.holds(1 * MIB, 65 * MIB)
    assert found.used.holds(161 * MIB, 225 * MIB)
    assert not found.used.holds(65 * MIB, 161 * MIB)


@pytest.mark.parametrize("options", [{"only": frozenset({1})}, {"exclude": frozenset({2})}])
def test_a_partition_that_is_left_out_is_unused_and_the_layout_says_so(disk, options):
    found = look(disk, **options)
    assert not found.used.touches(161 * MIB, 225 * MIB)
    assert [entry.captured for entry in found.layout.partitions] == [True, False]


def test_a_partition_that_does_not_exist_cannot_be_left_out(disk):
    with pytest.raises(UsageError, match="no partition 7"):
        look(disk, exclude=frozenset({7}))


def test_the_extended_partition_itself_cannot_be_named(tmp_path):
    path = mbr_disk(tmp_path / "disk", 64 * MIB, [Part(20 * MIB)], [Part(8 * MIB)])
    numbers = {entry.kind: entry.number for entry in look(path).layout.partitions}
    with pytest.raises(UsageError, match="extended"):
        look(path, exclude=frozenset({numbers["extended"]}))


def test_a_second_owner_makes_the_whole_partition_used(disk, tmp_path):
    """An ext4 that still looks clean under a swap signature: whose blocks are free nobody can tell."""
    with disk.open("r+b") as file:
        file.seek(1 * MIB + 4086)
        file.write(b"SWAPSPACE2")
    found = look(disk)
    content = found.layout.partitions[0].content
    assert content is not None
    assert content.kind == "ambiguous"
    assert set(content.claims) >= {"ext4", "swap"}
    assert found.used.holds(1 * MIB, 65 * MIB)


def test_what_lies_past_the_end_of_a_file_system_is_used(disk):
    """A file system that was shrunk, its partition not: the rest may hold anything."""
    call("mke2fs", "-q", "-F", "-t", "ext4", "-E", f"offset={MIB}", disk, "32768k")
    assert look(disk).used.holds(33 * MIB, 65 * MIB)


def test_a_file_system_directly_on_the_disk(tmp_path):
    path = tmp_path / "disk"
    call("mke2fs", "-q", "-t", "ext4", path, "64M")
    found = look(path)
    assert found.layout.table.kind == "none"
    assert found.layout.content is not None
    assert found.layout.content.type == "ext4"
    assert found.used.total_bytes < 20 * MIB


def test_an_unknown_disk_is_copied_whole_with_the_reason(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(range(256)) * 4096)
    found = look(path)
    assert list(found.used) == [(0, MIB)]
    assert "nothing known" in found.layout.content.whole_reason


def test_overlapping_partitions_make_the_whole_disk_used(tmp_path):
    path = mbr_disk(tmp_path / "disk", 64 * MIB, [Part(20 * MIB), Part(20 * MIB)])
    # The second entry's first sector (MBR, offset 446 + 16 + 8) moves into the first partition.
    with path.open("r+b") as file:
        file.seek(446 + 16 + 8)
        file.write((10 * SECTORS).to_bytes(4, "little"))
    found = look(path)
    assert "overlap" in found.layout.whole_reason
    assert list(found.used) == [(0, 64 * MIB)]


def md_superblock_1_0(size_bytes: int) -> tuple[int, bytes]:
    """Where mdadm's metadata 1.0 lies (8 KiB before the end, on a 4 KiB boundary), and its beginning."""
    offset = (size_bytes // 512 - 16) // 8 * 8 * 512
    return offset, (0xA92B4EFC).to_bytes(4, "little") + (1).to_bytes(4, "little")


def test_a_disk_that_is_a_raid_member_is_copied_whole_although_it_shows_a_table(disk):
    """Two mirrored disks with metadata 1.0 at their end show the array's own table at their start."""
    size = disk.stat().st_size
    offset, superblock = md_superblock_1_0(size)
    content = bytearray(256)
    content[: len(superblock)] = superblock
    content[128:136] = (0).to_bytes(8, "little")  # data_offset
    content[144:152] = (offset // 512).to_bytes(8, "little")  # super_offset
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(content)
    found = look(disk)
    assert "linux_raid_member" in found.layout.whole_reason
    assert list(found.used) == [(0, size)]


def test_hibernation_on_one_disk_warns_of_every_volume_of_the_set(disk, tmp_path):
    sleeping = tmp_path / "swap"
    sleeping.touch()
    sparse_file(sleeping, 64 * MIB)
    call("mkswap", sleeping)
    with sleeping.open("r+b") as file:
        file.seek(4086)
        file.write(b"S1SUSPEND\0")
    disks = [Disk(FileReader(path), str(path)) for path in (disk, sleeping)]
    first, second = survey(disks)
    assert list(second.used) == [(0, 64 * MIB)]
    assert all("hibernated" in entry.content.warnings[-1] for entry in first.layout.partitions)


def test_hibernation_is_seen_even_when_something_else_claims_the_swap_area(tmp_path):
    path = tmp_path / "swap"
    call("truncate", "-s", "64M", path)
    call("mke2fs", "-q", "-t", "ext4", path)
    with path.open("r+b") as file:
        file.write(bytes(1024))
        file.seek(4086)
        file.write(b"S1SUSPEND\0")
    content = look(path).layout.content
    assert content is not None
    assert content.kind == "ambiguous"
    assert "hibernated" in content.warnings[-1]


def test_the_same_disk_inside_a_larger_file_gives_the_same_layout(disk, tmp_path):
    """A parser that reads a disk reads the same disk inside of anything else."""
    shifted = tmp_path / "shifted"
    shifted.write_bytes(bytes(4096) + disk.read_bytes())
    inner = Slice(FileReader(shifted), 4096, disk.stat().st_size)
    direct = survey([Disk(FileReader(disk))])[0]
    inside = survey([Disk(inner)])[0]
    assert inside.used == direct.used
    assert inside.layout == direct.layout
