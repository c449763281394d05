# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows the disk in a virtual disk's file in place of that file, for as long as it is worked with.

QEMU's storage daemon knows the formats, and shows by FUSE, at the very path of the file, the bytes of the disk in it.
Everything else then takes it for a raw image file, messages name it as the user did, and only what is in use takes
room in it. Virtual machines are kept out by QEMU's own locks.

The daemon ends with this process, however that ends: it is asked to when the process is gone (PR_SET_PDEATHSIG). A
Ctrl-C at the terminal does not reach it, because what was written must be flushed through it first.

References:
    qemu-storage-daemon(1), --export type=fuse; setpriv(1), --pdeathsig; qemu-img(1).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from imager import temporary
from imager.errors import NotConfirmed, SourceUnusable, TargetFailed, TargetRefused, TargetTooSmall, UsageError
from imager.process import ProgramFailed, Running, find_program, run, start
from imager.virtual.formats import DiskFormat, format_of, named_files

_DAEMON: Final = "qemu-storage-daemon"
_FLUSH_SECONDS: Final = 600.0
_START_SECONDS: Final = 60.0
_DESCRIPTOR_BYTES: Final = 64 * 1024
_SAID_BYTES: Final = 500
_UNWRITTEN: Final = (NotConfirmed, TargetRefused, TargetTooSmall, UsageError)


@contextmanager
def shown_disk(path: str, *, writable: bool = False, new_size_bytes: int | None = None) -> Iterator[None]:
    """While the block runs, a virtual disk's file has the bytes of its disk; any other path is left alone.

    Args:
        path: A device or file, which need not be there.
        writable: Whether it will be written.
        new_size_bytes: Make it with this size when it is missing or empty; None leaves it missing.

    Raises:
        UsageError: Its name and content contradict each other.
        SourceUnusable: It cannot be opened: damaged, in use, or content of it lies in other files.
        TargetRefused: The same, of one that is to be written.
    """
    kind = format_of(path)
    if kind is None or (_is_missing(path) and new_size_bytes is None):
        yield
        return
    kind_of_error = TargetRefused if writable else SourceUnusable
    with ExitStack() as stack:
        try:
            if _is_missing(path):
                stack.enter_context(_made(path, kind, new_size_bytes or 0))
            _check_alone(path, kind)
            stack.enter_context(_exported(path, kind, writable=writable))
        except ProgramFailed as error:
            raise kind_of_error(
                f"{path} cannot be opened as a virtual disk ({kind.name}): {error.message}",
                hint=_hint(error),
                path=path,
            ) from error
        yield


def _is_missing(path: str) -> bool:
    return not Path(path).exists() or Path(path).stat().st_size == 0


def _hint(error: ProgramFailed) -> str:
    if find_program(str(error.facts.get("program", ""))) is None:
        return "Debian has it in qemu-system-common and qemu-utils."
    if "lock" in error.message:
        return "A virtual machine is using it: shut that down first."
    return "qemu-img check shows what is wrong with it."


@contextmanager
def _made(path: str, kind: DiskFormat, size_bytes: int) -> Iterator[None]:
    """A new virtual disk, which is taken away again when nothing was written to it."""
    if not Path(path).absolute().parent.is_dir():
        raise TargetRefused(f"{path} cannot be made: there is no folder {Path(path).absolute().parent}", path=path)
    run(["qemu-img", "create", "-q", "-f", kind.name, _plain(path), str(size_bytes)])
    try:
        yield
    except _UNWRITTEN:
        with suppress(OSError):
            Path(path).unlink()
        raise


def _plain(path: str) -> str:
    """A path that QEMU does not take for the name of a protocol, such as nbd:."""
    return os.path.realpath(path)


def _check_alone(path: str, kind: DiskFormat) -> None:
    """Refuse a disk whose content lies in other files: whoever made it can name any file of this machine."""
    told: dict[str, Any] = json.loads(
        run(["qemu-img", "info", "--output=json", "-U", "-f", kind.name, _plain(path)]).output
    )
    own = told.get("format-specific", {}).get("data", {})
    others = [name for name in (told.get("backing-filename"), own.get("data-file")) if name]
    if others:
        raise UsageError(
            f"{path} has only a part of its disk, the rest lies in {', '.join(others)}",
            hint=f"Put it together first: qemu-img convert -O {kind.name} {path} whole{kind.suffix}.",
            path=path,
        )
    with Path(path).open("rb") as file:
        parts = named_files(file.read(_DESCRIPTOR_BYTES)) if kind.name == "vmdk" else []
    folder = Path(_plain(path)).parent
    far = [name for name in parts if "/" in name or "\\" in name or (folder / name).is_symlink()]
    if far:
        raise UsageError(
            f"{path} names files in other places as its content: {', '.join(far[:3])}",
            hint="Put them into its folder, or convert it with qemu-img convert.",
            path=path,
        )


@contextmanager
def _exported(path: str, kind: DiskFormat, *, writable: bool) -> Iterator[None]:
    with ExitStack() as stack:
        folder = stack.enter_context(temporary.folder("virtual"))
        said = stack.enter_context((folder / "said").open("w+b"))
        before = Path(path).stat().st_dev
        stack.callback(_uncovered, path, before)
        command = _command(_plain(path), kind, folder / "pid", writable=writable)
        running = stack.enter_context(start(command, errors_to=said, patience_seconds=_FLUSH_SECONDS))
        _wait(running, folder / "pid")
        if Path(path).stat().st_dev == before:
            said.seek(0)
            text = said.read()[-_SAID_BYTES:].decode(errors="replace").strip()
            raise ProgramFailed(text or "qemu-storage-daemon ended without a word", program=_DAEMON)
        yield
        if running.poll() is not None:
            kind_of_error = TargetFailed if writable else SourceUnusable
            raise kind_of_error(f"{path} was given up by {_DAEMON} while it was in use", path=path)


def _command(path: str, kind: DiskFormat, pid_file: Path, *, writable: bool) -> list[str]:
    if find_program(_DAEMON) is None:
        raise ProgramFailed(f"the program {_DAEMON} is not installed", program=_DAEMON)
    file = {"driver": "file", "node-name": "file", "filename": path, "read-only": not writable, "discard": "unmap"}
    disk = {"driver": kind.name, "node-name": "disk", "file": "file", "read-only": not writable, "discard": "unmap"}
    shown = {"type": "fuse", "id": "shown", "node-name": "disk", "mountpoint": path, "writable": writable}
    parts = ("--blockdev", json.dumps(file), "--blockdev", json.dumps(disk), "--export", json.dumps(shown))
    words = ("setpriv", "--pdeathsig", "TERM", "setsid", _DAEMON, "--pidfile", os.fspath(pid_file))
    return [*words, *parts]


def _wait(running: Running, pid_file: Path) -> None:
    """Until the daemon shows the disk, which is when it writes its number, or has ended."""
    deadline = time.monotonic() + _START_SECONDS
    while running.poll() is None and not pid_file.exists():
        if time.monotonic() > deadline:
            raise ProgramFailed(f"{_DAEMON} does not begin", program=_DAEMON)
        time.sleep(0.01)


def _uncovered(path: str, before: int) -> None:
    """The daemon takes its mount away when it ends, unless it was killed."""
    try:
        is_covered = Path(path).stat().st_dev != before
    except OSError:  # a mount without the program behind it
        is_covered = True
    if is_covered:
        run(["umount", "--lazy", path], allowed=range(256))
