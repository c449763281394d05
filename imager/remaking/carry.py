# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a file system on its place and fills it with every file of another one.

All of it happens in one program with namespaces of its own: its mounts are gone when it ends, and it ends when we do,
however that is. Its loop devices are given back by the kernel when the last mount is gone. So a run that was killed
leaves nothing that keeps the next one from the disk.

The old file system is mounted for reading, the new one for writing, both without devices, set-user-ids and programs:
what is in them comes from an image. A journal is replayed into what the old one is shown from, which must be a copy or
an overlay, never the image.

References:
    unshare(1), setpriv(1), losetup(8), mount(8), rsync(1).
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

import imager
from imager import temporary
from imager.errors import VolumeFailed
from imager.pictures.sizes import size_text
from imager.process import PIPE, Running, find_program, start
from imager.progress import NullProgress, Progress
from imager.remaking.model import Found, Place, Remake
from imager.remaking.programs import kernel_knows

_WALLS: Final = (
    *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"),
    *("--pid", "--fork", "--kill-child", "sh", "-c"),
)
_PROGRAMS: Final = ("setpriv", "unshare", "losetup", "mount", "umount")
_FILL: Final = (sys.executable, "-P", "-m", "imager.remaking.fill")
_SAFE: Final = "nosuid,nodev,noexec,noatime"
_RSYNC: Final = ("rsync", "-aHAXX", "--numeric-ids", "--whole-file", "--inplace")
_INODE_BYTES: Final = 1024
_MOST_ERRORS: Final = 2000
_MOST_TOLD: Final = 20
_TRIES: Final = 200
_PAUSE_SECONDS: Final = 0.05
# A loop device is held open and detached at once: the kernel gives it back when the last who has it open ends.
_HEAD: Final = """
set -e
hold() { made=$(losetup --find --show "$@"); echo "loop $made"; }
"""
_STEPS: Final = {
    "mkfs": "making the new file system",
    "mount-old": "mounting the old file system",
    "mount-new": "mounting the new file system",
    "look": "reading the old file system",
    "check-old": "checking the old file system",
    "before": "copying files whose blocks matter",
    "rsync": "copying files",
    "after": "giving files their flags",
    "unmount": "unmounting",
    "check": "checking the new file system",
}


def obstacles(remakes: Sequence[Remake]) -> list[str]:
    """Why this machine cannot do it, to be told before anything is written."""
    names = {name for remake in remakes for name in remake.programs}
    filled = [remake for remake in remakes if remake.way == "files"]
    names |= set(_PROGRAMS) if filled else set()
    found = [f"{name} is not installed" for name in sorted(names) if find_program(name) is None]
    kinds = {remake.type for remake in filled}
    return found + [f"this system's kernel cannot mount {kind}" for kind in sorted(kinds) if not kernel_knows(kind)]


def look(remake: Remake, source: Place) -> Found:
    """Mount the old file system, read every folder of it, and check it.

    Raises:
        VolumeFailed: It cannot be mounted, is damaged, or holds what cannot be copied.
    """
    with temporary.folder("remaking") as folder:
        old = f"{folder}/old"
        Path(old).mkdir()
        lines = [
            *_attach("old", source, 8),
            *_mount(remake, "old", old, "ro"),
            *_step("look", _python("look", old)),
            f"umount {old}",
            *_step("check-old", f'{shlex.join(remake.check)} "$old" > /dev/null'),
        ]
        listener = _Listener(NullProgress())
        _carry_out(lines, remake, listener)
    if listener.found is None:
        raise VolumeFailed(f"nothing was found out about the old {remake.type}")
    if listener.problems:
        raise VolumeFailed(f"not all files of the old {remake.type} can be copied: {'; '.join(listener.problems)}")
    return listener.found


def missing_bytes(remake: Remake, found: Found) -> int:
    """How much the new file system lacks to hold what was found; 0 when it fits."""
    content = found.content_bytes + found.files * _INODE_BYTES
    # What it counts as used has shared blocks once, and what it sets aside, too.
    return max(0, min(content, found.used_bytes) + remake.least_free_bytes - remake.size_bytes)


def make(
    remake: Remake,
    source: Place,
    target: Place,
    *,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Make the file system on its place and fill it; what was not kept, in sentences.

    Args:
        remake: What is made.
        source: The old one: a copy or an overlay, which a journal may be replayed into.
        target: Where the new one comes to; what lies there is lost.
        progress: Is told of the bytes that were copied.

    Raises:
        VolumeFailed: It failed, and what lies in the place is of no use.
    """
    listener = _Listener(progress or NullProgress())
    with temporary.folder("remaking") as folder:
        old, new = f"{folder}/old", f"{folder}/new"
        Path(old).mkdir()
        Path(new).mkdir()
        lines = [
            *_attach("new", target, 9),
            *_step("mkfs", f'{shlex.join(remake.command)} "$new" > /dev/null'),
            *_attach("old", source, 8),
            *_mount(remake, "old", old, "ro"),
            *_mount(remake, "new", new, "rw"),
            f"if [ -d {new}/lost+found ] && [ ! -e {old}/lost+found ]; then rmdir {new}/lost+found; fi",
            *_step("before", _python("before", old, new)),
            *_step("rsync", _rsync(old, new, "--out-format=copied %l")),
            *_step("after", _python("after", old, new)),
            *_step("unmount", f"umount {new}"),
            f"umount {old}",
            *_step("check", f'{shlex.join(remake.check)} "$new" > /dev/null'),
            "sync",
        ]
        _carry_out(lines, remake, listener)
    return tuple(listener.not_kept)


def _attach(name: str, place: Place, number: int) -> list[str]:
    words = ["hold", "--offset", str(place.start), "--sizelimit", str(place.size)]
    words += ["--sector-size", str(place.sector_bytes), place.path]
    return [shlex.join(words), f'{name}=$made; exec {number}<"${name}"; losetup --detach "${name}"']


def _mount(remake: Remake, name: str, folder: str, mode: str) -> list[str]:
    options = ",".join((mode, _SAFE, *remake.mount_options))
    return _step(f"mount-{name}", f'mount -t {remake.type} -o {options} "${name}" {folder}')


def _step(name: str, command: str) -> list[str]:
    return [f"echo step {name}", command]


def _python(*words: str) -> str:
    return shlex.join([*_FILL, *words])


def _rsync(old: str, new: str, *options: str) -> str:
    return shlex.join([*_RSYNC, *options, f"{old}/", f"{new}/"])


class _Listener:
    """Hears what the program says.

    Attributes:
        step: The last one that began.
        found: What a look has found.
        problems: What cannot be copied.
        not_kept: What the new file system did not take.
        loops: Its loop devices.
    """

    def __init__(self, progress: Progress) -> None:
        self.step = "mkfs"
        self.found: Found | None = None
        self.problems: tuple[str, ...] = ()
        self.not_kept: list[str] = []
        self.loops: list[str] = []
        self._progress = progress

    def hear(self, line: str) -> None:
        """Take a line."""
        kind, _, rest = line.partition(" ")
        if kind == "copied" and rest.isdecimal():
            self._progress.advance(int(rest))
        elif kind == "step" and rest in _STEPS:
            self.step = rest
        elif kind == "loop":
            self.loops.append(rest)
        elif line.startswith("not kept ") and self.step in ("before", "after"):
            self._hear_not_kept(json.loads(line.removeprefix("not kept ")))
        elif kind == "found" and self.step == "look":
            told = json.loads(rest)
            self.problems = tuple(told.pop("problems"))
            self.found = Found(**told)

    def _hear_not_kept(self, text: str) -> None:
        if len(self.not_kept) < _MOST_TOLD:
            self.not_kept.append(f"flags or project id of {text}")


def _carry_out(lines: Sequence[str], remake: Remake, listener: _Listener) -> None:
    with tempfile.TemporaryFile() as errors:
        try:
            with start(
                [*_WALLS, "\n".join([_HEAD, *lines])],
                output_to=PIPE,
                errors_to=errors,
                environment={"PYTHONPATH": str(Path(imager.__file__).parent.parent)},
                patience_seconds=0.5,
            ) as running:
                status = _listen(running, listener)
        finally:
            _wait_for(listener.loops)
        if status:
            raise VolumeFailed(
                f"{_STEPS[listener.step]} ({remake.type}) failed: {_end_of(errors) or f'status {status}'}",
                step=listener.step,
            )


def _listen(running: Running, listener: _Listener) -> int:
    for line in running.stdout or ():
        listener.hear(line.decode(errors="replace").rstrip("\n"))
    return running.wait()


def _end_of(errors: IO[bytes]) -> str:
    size = errors.seek(0, 2)
    errors.seek(max(0, size - _MOST_ERRORS))
    text = errors.read().decode(errors="replace").strip()
    said = text.partition("Usage:")[0] or text  # mkfs.xfs explains all of its options after each error
    return " / ".join(line.strip() for line in said.splitlines() if line.strip())


def _wait_for(loops: Sequence[str]) -> None:
    """Until the kernel has given the loop devices back: only then is the last byte written."""
    for device in loops:
        shown = Path("/sys/block", Path(device).name, "loop/backing_file")
        for _ in range(_TRIES):
            if not shown.exists():
                break
            time.sleep(_PAUSE_SECONDS)


def room_sentence(remake: Remake, missing: int) -> str:
    """That it does not fit, and by how much."""
    return (
        f"the files of the {remake.type} do not fit into {size_text(remake.size_bytes)}: "
        f"{size_text(missing)} are missing, with what the new file system needs for itself"
    )
