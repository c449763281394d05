# SPDX-License-Identifier: GPL-3.0-or-later
"""Captures of XFS, Btrfs and NTFS with this machine's files, each beside the partclone of that file system."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.captures import capture_command
from bench.data import copy_files, remove_some
from bench.loops import can_have_loops
from bench.measure import Contender, remove, run

Note = Callable[[str], object]

MAKE = {
    "XFS": ("mkfs.xfs -q -f {path}", "mount {device} {folder}", "partclone.xfs"),
    "Btrfs": ("mkfs.btrfs -q -f {path}", "mount {device} {folder}", "partclone.btrfs"),
    "NTFS": ("mkntfs -q -F -f {path}", "ntfs-3g -o big_writes {device} {folder}", "partclone.ntfs"),
}
"""How a volume is made, how it is mounted, and its peer, by name."""


def ours(name: str) -> str:
    """The row of this project."""
    return f"imager, {name}"


def rival(name: str) -> str:
    """The row of the peer."""
    return f"{MAKE[name][2]} -a0 | zstd -T0 -3"


PAIRS = tuple((ours(name), rival(name)) for name in MAKE)


def contenders(name: str, disk: Path, work: Path) -> list[Contender]:
    """Both rows of a file system."""
    mine, theirs = work / "ours.zst", work / "a0.zst"
    peer = f"{MAKE[name][2]} -c -a0 -f 0.1 -L /dev/null -q -s {disk} -o - | zstd -q -T0 -3 -o {theirs}"
    return [
        Contender(ours(name), capture_command(disk, mine, "--level 3"), mine, may_fail=False),
        Contender(rival(name), peer, theirs),
    ]


def make_disk(name: str, folder: Path, content_bytes: int, note: Note) -> Path | None:
    """A volume with so many bytes of files, made once; None where it cannot be made."""
    path = folder / f"files-{content_bytes >> 20}MiB.{name.lower()}"
    if path.exists():
        return path
    if not can_have_loops():
        note(f"no capture of {name}: filling it needs root")
        return None
    note(f"making {path} from files of this machine")
    new = path.with_suffix(".new")
    remove(new)
    run(f"truncate -s {2 * content_bytes} {new} && {MAKE[name][0].format(path=new)}")
    _fill(name, new, content_bytes)
    new.rename(path)
    return path


def _fill(name: str, path: Path, content_bytes: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="imager-bench-"))
    device = folder / "device"
    place = folder / "mounted"
    place.mkdir()
    run(f"ln -s $(losetup -f --show {path}) {device}")
    try:
        run(MAKE[name][1].format(device=f"$(readlink {device})", folder=place))
        try:
            remove_some(place, copy_files(place, content_bytes)[0])
        finally:
            run(f"umount {place}")
    finally:
        run(f"losetup -d $(readlink {device})")
        remove(folder)
