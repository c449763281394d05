# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the disk that everything is measured on: an ext4 file system with real files of this machine.

Some files are deleted again at the end, so that free space has holes and old content in it, as on any used disk. The
files are this machine's, so images of two machines differ in size: ratios are what can be compared.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.measure import BenchError, remove

GIB = 1 << 30
_FOLDERS = ("/usr/share", "/usr/bin", "/usr/include", "/usr/lib", "/usr/libexec", "/usr/local", "/opt", "/var/lib")
_DELETED_SHARE = 16
_READ_BYTES = 4 << 20


@dataclass(frozen=True)
class Disk:
    """A disk in a file.

    Attributes:
        used_bytes: As the file system counts them.
        copies: How often the machine's files had to be taken to fill it.
    """

    path: Path
    size_bytes: int
    used_bytes: int
    copies: int


def make_disk(folder: Path, content_bytes: int, note: Callable[[str], object]) -> Disk:
    """The disk, made once and used again in later runs."""
    path = folder / f"files-{content_bytes >> 20}MiB.ext4"
    copies = path.with_suffix(".copies")
    if not copies.exists():
        note(f"making {path} from files of this machine")
        copies_needed = _build(path, content_bytes)
        copies.write_text(str(copies_needed), encoding="ascii")
    used = sum(length for _, length in used_ranges(path))
    return Disk(path, path.stat().st_size, used, int(copies.read_text(encoding="ascii")))


def _build(path: Path, content_bytes: int) -> int:
    stage = path.with_suffix(".stage")
    for each in (stage, path):
        remove(each)
    stage.mkdir(parents=True)
    copied, copies = copy_files(stage, content_bytes)
    _call("truncate", "-s", str(2 * content_bytes), path.as_posix())
    _call("mke2fs", "-q", "-F", "-t", "ext4", "-d", stage.as_posix(), path.as_posix())
    remove(stage)
    commands = path.with_suffix(".rm")
    commands.write_text("".join(f'rm "/{each}"\n' for each in copied[::_DELETED_SHARE]), encoding="utf-8")
    _call("debugfs", "-w", "-f", commands.as_posix(), path.as_posix())
    commands.unlink()
    _call("e2fsck", "-fn", path.as_posix())
    return copies


def copy_files(stage: Path, content_bytes: int) -> tuple[list[str], int]:
    """Copy files until there are so many bytes of them, and those that will be removed again.

    Returns:
        Their names, and how often all of the machine's were taken.
    """
    copied: list[str] = []
    missing = content_bytes + content_bytes // (_DELETED_SHARE - 1)
    for copies in range(1, 100):
        before = missing
        for source in _real_files():
            name = f"{copies}/{source.as_posix().lstrip('/')}"
            missing -= _copy(source, stage / name)
            copied.append(name)
            if missing <= 0:
                return [name for name in copied if '"' not in name and "\n" not in name], copies
        if missing == before:
            break
    raise BenchError(f"there are no files to copy in {', '.join(_FOLDERS)}")


def remove_some(stage: Path, copied: list[str]) -> None:
    """Leave holes, and old content in them."""
    for name in copied[::_DELETED_SHARE]:
        (stage / name).unlink()


def _real_files() -> Iterator[Path]:
    for folder in _FOLDERS:
        for place, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                path = Path(place, name)
                if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                    yield path


def _copy(source: Path, target: Path) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except OSError:
        return 0  # it went away, or may not be read: there are others
    target.chmod(stat.S_IRUSR | stat.S_IWUSR)
    return target.stat().st_size


def used_ranges(path: Path) -> list[tuple[int, int]]:
    """Used ranges (start, length) in the words of another program, so that no peer is measured by our own map."""
    text = subprocess.run(
        ["partclone.extfs", "-D", "-s", path, "-o", "-", "-L", "/dev/null", "-q"],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ).stdout.decode()
    rows = re.findall(r"^(0x[0-9A-Fa-f]+)\s+(0x[0-9A-Fa-f]+)\s+\+", text, flags=re.MULTILINE)
    return [(int(start, 16), int(length, 16)) for start, length in rows]


def write_used_bytes(disk: Disk, output: Path) -> None:
    """All used bytes of a disk, one after the other, in a file."""
    with disk.path.open("rb") as source, output.open("wb") as target:
        for start, length in used_ranges(disk.path):
            source.seek(start)
            while length:
                block = source.read(min(length, _READ_BYTES))
                target.write(block)
                length -= len(block)


def warm(path: Path) -> None:
    """Bring a file into the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(_READ_BYTES):
            pass


def _call(*words: str) -> None:
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise BenchError(f"{words[0]} ended with {done.returncode}: {done.stdout[-600:].decode(errors='replace')}")
