# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening the disks that a command names, and surveying them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from imager.blocks import BlockReader
from imager.cli.options import parse_file_names, parse_numbers
from imager.cli.output import Console
from imager.cli.refusing import refuse_images
from imager.cli.unlock import Request, unlock
from imager.devices.beneath import beneath
from imager.devices.inventory import disk_info, identify
from imager.devices.mappings import live_mapping
from imager.devices.opening import DiskReader, open_source
from imager.errors import UsageError
from imager.survey import Disk, Survey, SurveyOptions, survey
from imager.virtual.show import shown_disk
from imager.volumes.registry import managers


@dataclass(frozen=True)
class Opened:
    """A source that is open, and what was found on it."""

    path: str
    reader: DiskReader
    survey: Survey


def survey_options(
    *,
    all_blocks: bool,
    gaps: bool,
    partitions: Sequence[str] | None,
    exclude: Sequence[str] | None,
    skip_files: Sequence[str] | None = None,
) -> SurveyOptions:
    """What the options of a command ask survey to take.

    Raises:
        UsageError: They contradict each other.
    """
    if partitions and exclude:
        raise UsageError("--partition and --exclude contradict each other", hint="Give only one of them.")
    if all_blocks and skip_files:
        raise UsageError("--all-blocks and --skip-file-content contradict each other", hint="Give only one of them.")
    only = parse_numbers(partitions, "--partition") if partitions else None
    excluded, names = parse_numbers(exclude, "--exclude"), parse_file_names(skip_files)
    return SurveyOptions(all_blocks=all_blocks, gaps=gaps, only=only, exclude=excluded, skip_files=names)


@contextmanager
def opened_and_surveyed(
    paths: Sequence[str],
    options: SurveyOptions,
    *,
    sector_size: int | None,
    exclusive: bool,
    unlocking: Sequence[Request] = (),
    keep: dict[str, bytes] | None = None,
) -> Iterator[list[Opened]]:
    """Open disks, survey them together, and close them at the end.

    Args:
        paths: Block devices, raw image files or virtual disks.
        options: What survey takes.
        sector_size: Sector size of disks in files; None to find out.
        exclusive: Refuse a disk that is in use for writing.
        unlocking: Encrypted partitions to look into.
        keep: Takes their passphrases, by the UUIDs of the containers, for who has to open copies of them.
    """
    if len(set(paths)) < len(paths):
        raise UsageError(f"the same source is named twice: {', '.join(paths)}")
    refuse_images(paths)
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(shown_disk(path))
        readers = [
            stack.enter_context(open_source(path, exclusive_check=exclusive, sector_size=sector_size)) for path in paths
        ]
        disks = [
            Disk(reader, path, identify(path), reader.physical_sector_size, _known_beforehand(path, reader))
            for path, reader in zip(paths, readers, strict=True)
        ]
        with ExitStack() as keys_held:  # wiped as soon as the maps are known
            keys = [keys_held.enter_context(key) for key in unlock(unlocking, paths, readers, keep)]
            found = survey(disks, options, managers(keys, partial(_plain_text, paths, keys_held)))
        yield [Opened(*each) for each in zip(paths, readers, found, strict=True)]


def _plain_text(paths: Sequence[str], stack: ExitStack, uuid: str) -> BlockReader | None:
    """The inside of a container that is unlocked on this machine, open until the stack is closed."""
    mapping = live_mapping(uuid, paths)
    return stack.enter_context(open_source(mapping, exclusive_check=False)) if mapping else None


def tell_of_missing_files(opened: Sequence[Opened], names: Sequence[str], console: Console) -> None:
    """Warn of files whose content should be left out and that are in no file system."""
    known = {file.name for each in opened for _, content in each.survey.layout.contents() for file in content.left_out}
    for name in names:
        if name not in known:
            console.warn(
                f"no file {name} was found: it is looked for in the root directories of NTFS, ext2 to ext4 and XFS"
            )


def refuse_replacing(place: str, sources: Sequence[str]) -> None:
    """Keep what is read from being replaced by what is made of it.

    Args:
        place: Where a file will be written.
        sources: What it is made from: files and block devices.

    Raises:
        UsageError: It is one of them, or the file that a loop device among them shows.
    """
    try:
        status = Path(place).stat()
        is_read = any((status.st_dev, status.st_ino) in beneath(source).files for source in sources)
    except (OSError, ValueError):
        return  # nothing is there that could be replaced; what else is wrong with it is found when it is opened
    if is_read:
        raise UsageError(f"{place} is what is to be read: it would be replaced", hint="Choose another name.")


def _known_beforehand(path: str, reader: DiskReader) -> tuple[str, ...]:
    """What lowers trust before a byte is looked at: hidden areas, reads that could not go around the cache."""
    disk = disk_info(path)
    return tuple(reader.warnings) + (disk.warnings if disk else ())
