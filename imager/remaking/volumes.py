# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes volumes anew whose structures are simple enough to be written here: FAT, exFAT; and swap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from imager.blocks import BlockReader, OutOfRange
from imager.devices.opening import open_source
from imager.errors import VolumeFailed
from imager.opening.nodes import loop_device
from imager.process import ProgramFailed, run
from imager.remaking import exfat, fat, fat_tree
from imager.remaking.model import Remake

_SECONDS: Final = 24 * 3600.0
_FILE_SECTOR_BYTES: Final = 512
"""What programs take a file's sectors for."""


def run_on(command: tuple[str, ...], path: str, kind: str, what: str) -> None:
    """Run a program on a volume.

    Raises:
        VolumeFailed: It failed.
    """
    try:
        run([*command, path], timeout_seconds=_SECONDS)
    except ProgramFailed as error:
        raise VolumeFailed(f"{what} ({kind}) failed: {error.message}") from error


@contextmanager
def _damage(kind: str) -> Iterator[None]:
    """Tell of a structure that points to nowhere as of damage."""
    try:
        yield
    except OutOfRange as error:
        raise VolumeFailed(f"the {kind} is damaged: {error.message}", hint=f"Check it with fsck.{kind}.") from error


def make_fat(remake: Remake, reader: BlockReader, new: str) -> None:
    """A FAT with everything that the old one has.

    Raises:
        VolumeFailed: The old one is damaged, or does not fit.
    """
    old = fat.old_volume(reader)
    run_on(remake.command, new, remake.type, "making the new file system")
    with open_source(new, exclusive_check=False, write_back=False) as ours, Path(new).open("r+b") as file:
        made = fat.old_volume(ours)
        fat.keep_boot_code(reader, old, made, file)
        target = fat_tree.Target(ours, made, file)
        entries = made.geometry.root_bytes // fat_tree.ENTRY_BYTES
        source = fat_tree.Source(reader, old.geometry)
        copy = fat_tree.Copy(source, target, wide=old.geometry.bits == 32, root_entries=entries)
        with _damage(remake.type):
            copy.carry_out()
        target.finish()
    run_on(remake.check, new, remake.type, "checking the new file system")


def make_exfat(remake: Remake, reader: BlockReader, new: str) -> None:
    """An exFAT with everything that the old one has.

    Raises:
        VolumeFailed: The old one is damaged, or does not fit.
    """
    old = exfat.old_boot(reader)
    with ExitStack() as stack:
        place = _with_sectors(stack, remake, new)
        run_on(remake.command, place, remake.type, "making the new file system")
        run_on(exfat.serial_command(reader), place, remake.type, "giving it its serial number")
    with (
        open_source(new, exclusive_check=False, write_back=False, sector_size=remake.sector_bytes) as ours,
        Path(new).open("r+b") as file,
    ):
        target = exfat.Target(ours, exfat.old_boot(ours), file)
        with _damage(remake.type):
            exfat.Copy(exfat.Source(reader, old), target).carry_out()
        target.finish()
    run_on(remake.check, new, remake.type, "checking the new file system")


def _with_sectors(stack: ExitStack, remake: Remake, new: str) -> str:
    """The volume as a device with the right sectors: mkfs.exfat has no option for them."""
    if remake.sector_bytes == _FILE_SECTOR_BYTES:
        return new
    return loop_device(stack, new, 0, remake.size_bytes, writable=True, sector_size=remake.sector_bytes)


def make_swap(remake: Remake, new: str) -> None:
    """A swap area.

    Raises:
        VolumeFailed: It cannot be made.
    """
    run_on(remake.command, new, remake.type, "making the swap area")
