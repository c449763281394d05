# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at a target before a restore: what it is, what is on it now, and what speaks against writing to it.

Reads and changes nothing; `imager.restore.plan` judges what is found here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from imager.blocks import BlockReader
from imager.devices import ioctls
from imager.devices.beneath import is_on_disk, running_system_disks
from imager.devices.inventory import identify, list_disks
from imager.devices.opening import open_source
from imager.devices.target import capabilities, refuse_among_devices
from imager.devices.usage import uses_of
from imager.errors import ImagerError, SourceError, TargetRefused, UsageError
from imager.layout import Content, Identity, Layout, Table
from imager.partitions.adding import find_room
from imager.partitions.mbr import SECTOR_BYTES
from imager.partitions.read import read_table
from imager.restore.guards import TargetState
from imager.restore.scope import RestoreScope, wanted_partition


def look_at_target(
    path: str,
    *,
    image_files: Sequence[str],
    sector_size: int | None,
    new_file_bytes: int,
    twins_of: Layout | None = None,
) -> TargetState:
    """Everything that a plan must know of a target.

    Args:
        path: A block device, a raw image file, or a file that does not exist yet.
        image_files: The image, or the source of a clone: what must not lie on the target.
        sector_size: Logical sector size of the image; files are read with it. None: with what their table says.
        new_file_bytes: The size that a new file will get.
        twins_of: Look for other connected disks that carry this layout's identifiers; None when nothing would clash.

    Raises:
        TargetRefused: It is neither a disk nor a file, or must not be opened.
    """
    try:
        return _look_at(path, image_files, sector_size, new_file_bytes, twins_of)
    except SourceError as error:  # in being read, which it is here; the user sees a target
        raise TargetRefused(error.message, hint=error.hint, **error.facts) from error
    except OSError as error:  # such as a name that is too long
        raise TargetRefused(
            f"{path} cannot be looked at: {error.strerror}",
            hint="Check the path, and who may look there.",
            path=path,
            errno=error.errno,
        ) from error


def new_partition(state: TargetState, image: Layout, number: int) -> RestoreScope:
    """A partition of the image as a new one in the free space of a target.

    Raises:
        UsageError: The image has no such partition.
        TargetRefused: The target has no sound table, or no entry left in it.
        TargetTooSmall: It has no gap that is large enough.
    """
    wanted = wanted_partition(image, number)
    if not state.exists or state.layout is None:
        raise TargetRefused(
            f"{state.name} has no partition table, so that no partition can be added to it",
            hint="Restore the table of the image first, with --table-only.",
            path=state.name,
        )
    return RestoreScope.into_free_space(number, find_room(state.layout, wanted, state.name))


def refuse_shared_targets(paths: Sequence[str], hint: str = "Give every image a target of its own.") -> None:
    """Refuse targets that share a byte: the same disk twice, or a disk and a partition of it.

    Raises:
        UsageError: Two of them do.
    """
    for later, path in enumerate(paths):
        for other in paths[:later]:
            is_same = os.path.realpath(path) == os.path.realpath(other)
            if is_same or is_on_disk(path, other) or is_on_disk(other, path):
                raise UsageError(
                    f"{other} and {path} are the same disk, or one is a part of the other",
                    hint=hint,
                )


def _look_at(
    path: str, image_files: Sequence[str], sector_size: int | None, new_file_bytes: int, twins_of: Layout | None
) -> TargetState:
    target = Path(path)
    if target.is_symlink() and not target.exists():
        raise TargetRefused(
            f"{path} is a link to {target.readlink()}, which is not there", hint="Name the file itself.", path=path
        )
    if not target.exists() or (target.is_file() and target.stat().st_size == 0):
        _check_can_be_made(target)
        identity = Identity(path=path, transport="file")
        free = _free_bytes(target.absolute().parent)
        sector = sector_size or SECTOR_BYTES
        return TargetState(identity, new_file_bytes, sector, is_block_device=False, exists=False, free_bytes=free)
    is_device = target.is_block_device()
    layout, size_bytes, sector_bytes = _present_layout(path, sector_size, is_device=is_device)
    return TargetState(
        identity=identify(path),
        size_bytes=size_bytes,
        logical_sector_bytes=sector_bytes,
        is_block_device=is_device,
        layout=layout,
        uses=uses_of(path),
        clearing=capabilities(path),
        holds_image=any(is_on_disk(name, path) for name in image_files if Path(name).exists()),
        holds_running_system=str(target.resolve()) in running_system_disks(),
        read_only=_is_read_only(target, is_device=is_device),
        twin_disks=tuple(_twins(path, image_files, twins_of)) if twins_of else (),
        free_bytes=None if is_device else _free_bytes(target.absolute().parent),
    )


def _check_can_be_made(target: Path) -> None:
    """Refuse what could not be made when everything is agreed to.

    Raises:
        TargetRefused: It is a disk that is not there, or its folder is missing or may not be written.
    """
    refuse_among_devices(target)
    folder = target.absolute().parent
    if not folder.is_dir():
        raise TargetRefused(
            f"{target} cannot be made: there is no folder {folder}", hint="Check the path.", path=str(target)
        )
    if not os.access(target if target.exists() else folder, os.W_OK):
        raise TargetRefused(
            f"{target} cannot be made: Permission denied",
            hint="Run imager as a user who may write there, or choose another place.",
            path=str(target),
        )


def _present_layout(path: str, sector_size: int | None, *, is_device: bool) -> tuple[Layout | None, int, int]:
    """What is on the target now, its size and its sector size; no layout when that cannot be told."""
    with open_source(path, exclusive_check=False, sector_size=None if is_device else sector_size) as reader:
        found = _blank(reader) if not is_device and _is_hole(Path(path)) else _surveyed(reader, path)
        return found, reader.size, reader.sector_size


def _is_hole(path: Path) -> bool:
    """Whether a file has nothing but a size."""
    with path.open("rb") as file:
        try:
            os.lseek(file.fileno(), 0, os.SEEK_DATA)
        except OSError as error:
            return error.errno == errno.ENXIO
        return False


def _blank(reader: BlockReader) -> Layout:
    nothing = Content("blank", "blank")
    return Layout(Identity(), reader.size, reader.sector_size, reader.sector_size, Table("none"), content=nothing)


def _surveyed(reader: BlockReader, path: str) -> Layout | None:
    """Whatever can be told of the target."""
    from imager.survey import Disk, survey  # not on top: all parsers, which a blank target does not need

    try:
        return survey([Disk(reader, path)])[0].layout
    except ImagerError:
        return None


def _is_read_only(target: Path, *, is_device: bool) -> bool:
    if not os.access(target, os.W_OK):
        return True
    if not is_device:
        return False
    fd = os.open(target, os.O_RDONLY)
    try:
        return ioctls.is_read_only(fd)
    finally:
        os.close(fd)


def _free_bytes(folder: Path) -> int | None:
    try:
        state = os.statvfs(folder)
    except OSError:
        return None
    return state.f_bavail * state.f_frsize


def _twins(path: str, image_files: Sequence[str], layout: Layout) -> Iterator[str]:
    """Connected disks that will have the same identifiers as the restored one."""
    if not layout.table.id:
        return
    for disk in list_disks():
        if Path(disk.identity.path).resolve() == Path(path).resolve():
            continue
        try:
            with open_source(disk.identity.path, exclusive_check=False, write_back=False) as reader:
                same = read_table(reader).table.id == layout.table.id
        except ImagerError:
            continue
        if same:
            yield f"{disk.identity.path} ({disk.identity.short_name()}) carries the same disk identifier"
