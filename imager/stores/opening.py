# SPDX-License-Identifier: GPL-3.0-or-later
"""From the name that a user gives to the store that it means: "-", a pipe, a file, a split image."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from imager.errors import ImageIncomplete, StoreError, UsageError
from imager.stores.base import Input, Output, store_error
from imager.stores.local import LocalOutput, open_files, refuse_unfinished
from imager.stores.parts import PARTIAL, base_of, parts_of
from imager.stores.stream import StreamInput, StreamOutput

STREAM_NAME = "-"


def open_output(name: str, *, overwrite: bool = False, resume: bool = False, split_size: int | None = None) -> Output:
    """A place for a new image.

    Args:
        name: A file's name, or "-" for standard output.
        overwrite: Replace an image of that name, but only once the new one is complete.
        resume: Take up what an interrupted capture left.
        split_size: Bytes of each part; None for one file.

    Raises:
        StoreError: The place is taken, missing, or cannot be written.
        UsageError: A stream can neither be split nor resumed.
    """
    try:
        return _output(name, overwrite=overwrite, resume=resume, split_size=split_size)
    except OSError as error:  # such as a name that is too long
        raise store_error(error, name, "cannot make") from error


def _output(name: str, *, overwrite: bool, resume: bool, split_size: int | None) -> Output:
    stream = name == STREAM_NAME or _is_pipe(name)
    if stream and (resume or split_size is not None):
        raise UsageError(f"{name} is a stream: it cannot be {'resumed' if resume else 'split'}")
    if name == STREAM_NAME:
        return StreamOutput(1, "standard output")
    if stream:
        return StreamOutput(_open(name, os.O_WRONLY), name)
    if _is_lost_in_dev(Path(name)) or (Path(name).exists() and not Path(name).is_file()):
        raise StoreError(
            f"{name} is not a file, and an image cannot be written there",
            hint="Give the name of a new file; to write a disk, use imager clone or restore.",
            path=name,
        )
    if name.endswith(PARTIAL):
        raise UsageError(
            f"{name} would be taken for an image that is not finished",
            hint=f"Choose a name that does not end in {PARTIAL}.",
        )
    if base_of(Path(name)) is not None:
        raise UsageError(
            f"{name} would be taken for a part of a split image",
            hint="Choose a name that does not end in three digits.",
        )
    return LocalOutput(Path(name), overwrite=overwrite, resume=resume, split_size=split_size)


def open_input(name: str, *, unfinished: bool = False) -> Input:
    """An image to read.

    Args:
        name: A file, any part of a split image or the name before its part numbers, a pipe, or "-".
        unfinished: To salvage what is there: take .partial files, too, and read lost parts as zeros.

    Raises:
        StoreError: It is missing or may not be read.
        ImageIncomplete: Its capture has not finished, or a part is missing.
    """
    try:
        return _input(name, unfinished=unfinished)
    except OSError as error:
        raise store_error(error, name, "cannot open") from error


def _input(name: str, *, unfinished: bool) -> Input:
    if name == STREAM_NAME:
        return StreamInput(0, "standard input")
    if _is_pipe(name):
        return StreamInput(_open(name, os.O_RDONLY), name)
    path = Path(name)
    if name.endswith(PARTIAL):
        return _open_partial(path, unfinished=unfinished)
    base = base_of(path)
    if base is not None and path.exists():
        return _open_parts(base, unfinished=unfinished)
    if not path.exists() and parts_of(path):
        return _open_parts(path, unfinished=unfinished)
    if not path.exists():
        refuse_unfinished(path)
    return open_files(name, [path])


def _open_partial(path: Path, *, unfinished: bool) -> Input:
    final = path.with_name(path.name.removesuffix(PARTIAL))
    base = base_of(final)
    if not unfinished and path.exists():
        refuse_unfinished(base if base and not final.exists() else final)
    if base is not None:
        return open_files(os.fspath(base), list(parts_of(base, PARTIAL).values()) or [path])
    return open_files(os.fspath(path), [path])


def _open_parts(base: Path, *, unfinished: bool) -> Input:
    refuse_unfinished(base)
    parts = parts_of(base)
    missing = sorted(set(range(max(parts))) - set(parts))
    # All parts but the last have the same size, which says how much is lost with one.
    part_size = max((path.stat().st_size for number, path in parts.items() if number != max(parts)), default=0)
    if missing and not (unfinished and part_size):
        raise ImageIncomplete(
            f"part {missing[0]:03d} of {base} is missing; {len(parts)} parts are there",
            hint="Put all parts into one folder. If it is lost, what the others hold can be got out: imager salvage.",
            path=os.fspath(base),
        )
    return open_files(os.fspath(base), [parts.get(number) for number in range(max(parts) + 1)], part_size)


def _is_pipe(name: str) -> bool:
    try:
        mode = Path(name).stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def _open(name: str, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_CLOEXEC)
    except OSError as error:
        raise store_error(error, name, "cannot open") from error


def _is_lost_in_dev(path: Path) -> bool:
    """Whether it would be a file among the devices: a mistyped disk, kept in memory until that is full."""
    folders = path.absolute().parts[1:-1]
    return folders[:1] == ("dev",) and folders[1:2] != ("shm",)
