# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM without device-mapper: real lvm commands on loop devices, with volumes filled at offsets that lvm tells.

Where a logical volume lies is computed here from what lvs prints, so that the tests' idea of it is not imager's.

    with volume_group(tmp_path, [32 * MIB] * 2) as group:
        group.lvm("lvcreate", "-n", "a", "-l", "10", "vg")
        group.put("a", content)
"""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.harness.files import sparse_file
from tests.harness.loop import loop_device
from tests.harness.programs import call

MIB = 2**20
_SETTINGS = (
    'devices {{ dir="/dev" scan=["/dev"] use_devicesfile=0 obtain_device_list_from_udev=0 '
    'external_device_info_source="none" filter=[ {filters} "r|.*|" ] }} '
    'global {{ activation=0 locking_type=1 thin_check_executable="" }} activation {{ udev_sync=0 udev_rules=0 }} '
    "backup {{ backup=0 archive=0 }}"
)


@contextmanager
def volume_group(folder: Path, sizes: list[int], *options: str, name: str = "vg", extent: str = "256k"):
    """A volume group on new files; the loop devices go when the `with` block ends, the files stay."""
    files = [sparse_file(folder / f"{name}-{number}.img", size) for number, size in enumerate(sizes)]
    with ExitStack() as stack:
        group = VolumeGroup(name, files, [stack.enter_context(loop_device(file)) for file in files])
        group.lvm("pvcreate", *options, *group.devices)
        group.lvm("vgcreate", "-s", extent, name, *group.devices)
        yield group


class VolumeGroup:
    """A volume group on loop devices."""

    def __init__(self, name: str, files: list[Path], devices: list[Path]) -> None:
        self.name = name
        self.files = files
        self.devices = devices

    def lvm(self, command: str, *words: str | Path) -> str:
        """Run an lvm command that sees these devices only."""
        filters = " ".join(f'"a|^{device}$|",' for device in self.devices)
        options = ["-y"] if command in ("lvcreate", "vgcreate", "pvcreate", "lvremove", "lvconvert", "pvremove") else []
        if command == "lvcreate":
            options += ["-an", "-Zn", "-Wn"]
        return call("lvm", command, *options, "--config", _SETTINGS.format(filters=filters), *words)

    def ranges(self, volume: str) -> list[list[tuple[int, int, int]]]:
        """For each segment of a volume, for each of its stripes: number of the file, first byte and length there."""
        fields = "seg_start,seg_pe_ranges"
        rows = self.lvm("lvs", "-a", "--noheadings", "--units", "b", "--nosuffix", "--segments", "-o", fields,
                        "-S", f"lv_name={volume}", self.name)  # fmt: skip
        found = []
        for row in sorted(filter(None, map(str.strip, rows.splitlines())), key=lambda row: int(row.split()[0])):
            found.append([self._range(word) for word in row.split()[1:]])
        return found

    def _range(self, word: str) -> tuple[int, int, int]:
        device, first, last = re.fullmatch(r"(.+):(\d+)-(\d+)", word).groups()
        number = [str(each) for each in self.devices].index(device)
        start, extent = self.first_extent(number), self.extent_bytes()
        return number, start + int(first) * extent, (int(last) - int(first) + 1) * extent

    def extent_bytes(self) -> int:
        return int(self.lvm("vgs", "--noheadings", "--units", "b", "--nosuffix", "-o", "vg_extent_size", self.name))

    def first_extent(self, number: int) -> int:
        device = self.devices[number]
        return int(self.lvm("pvs", "--noheadings", "--units", "b", "--nosuffix", "-o", "pe_start", device))

    def put(self, volume: str, content: Path, *, stripe: int = 0) -> None:
        """Write a file's bytes to where a volume lies."""
        self._move(volume, content, stripe, "in")

    def take(self, volume: str, target: Path, *, files: list[Path] | None = None, stripe: int = 0) -> Path:
        """Read a volume's bytes, from the group's own files or from copies of them."""
        self._move(volume, target, stripe, "out", files)
        return target

    def _move(self, volume: str, path: Path, stripe: int, way: str, files: list[Path] | None = None) -> None:
        at = 0
        with ExitStack() as stack:
            mode = "r+b" if way == "in" else "rb"
            places = [stack.enter_context(file.open(mode)) for file in files or self.files]
            other = stack.enter_context(path.open("rb" if way == "in" else "wb"))
            for stripes in self.ranges(volume):
                step = stripe if len(stripes) > 1 else stripes[0][2]
                for position in range(0, stripes[0][2], step):
                    for number, start, _ in stripes:
                        places[number].seek(start + position)
                        other.seek(at)
                        source, sink = (other, places[number]) if way == "in" else (places[number], other)
                        sink.write(source.read(step))
                        at += step

    def copy_files(self, folder: Path) -> list[Path]:
        """Copies of the physical volumes, still sparse."""
        folder.mkdir()
        return [Path(shutil.copy(file, folder / file.name)) for file in self.files]
