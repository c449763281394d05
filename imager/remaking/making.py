# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes what lies in a volume anew in another one: which way for which content."""

from __future__ import annotations

from imager.blocks import BlockReader
from imager.devices.opening import open_source
from imager.errors import VolumeFailed
from imager.layout import Content
from imager.progress import NullProgress, Progress
from imager.remaking import exfat, ext, f2fs, fat, swap, volumes, xfs
from imager.remaking.carry import look, make, missing_bytes, obstacles, room_sentence
from imager.remaking.model import CannotRemake, Found, Place, Remake
from imager.remaking.programs import known_options


def plan_remake(content: Content, old: str, size_bytes: int, sector_bytes: int) -> Remake:
    """What will be made, and what will not be identical; it only reads.

    Args:
        content: What lies in the old volume.
        old: A file or device with the old volume.
        size_bytes: The new size.
        sector_bytes: Logical sector of the disk that it comes to.

    Raises:
        CannotRemake: It would lose something, or cannot be as small.
    """
    if content.kind == "swap":
        return swap.plan(content, sector_bytes, size_bytes)
    with open_source(old, exclusive_check=False, write_back=False) as reader:
        if content.type == "xfs":
            return xfs.plan(reader, sector_bytes, size_bytes, known_options("mkfs.xfs"))
        if content.type == "f2fs":
            return f2fs.plan(reader, sector_bytes, size_bytes)
        if content.type == "vfat":
            return fat.plan(reader, sector_bytes, size_bytes)
        if content.type == "exfat":
            return exfat.plan(reader, sector_bytes, size_bytes)
        if content.type in ("ext2", "ext3", "ext4"):
            return ext.plan(reader, content.type, sector_bytes, size_bytes)
    raise CannotRemake(f"nothing makes {content.type} anew")


def check_remake(content: Content, old: str, size_bytes: int, sector_bytes: int) -> tuple[Remake, Found | None]:
    """See that the content of a volume can be made anew: it is in order, and fits. Only a journal is written, into old.

    Args:
        content: What lies in the old volume.
        old: A file or device with the old volume, a copy or an overlay.
        size_bytes: The new size.
        sector_bytes: Logical sector of the disk that it comes to.

    Returns:
        How, and what was found in it if it is filled by files.

    Raises:
        VolumeFailed: It is damaged, or does not fit.
        CannotRemake: It would lose something, or cannot be as small.
    """
    planned = plan_remake(content, old, size_bytes, sector_bytes)
    if missing := obstacles([planned]):
        raise CannotRemake(f"{content.type} cannot be made anew here: {'; '.join(missing)}")
    if planned.way == "volume":
        return planned, None
    seen = look(planned, _whole(old))
    if short := missing_bytes(planned, seen):
        raise VolumeFailed(room_sentence(planned, short), hint="Give it more room, or choose a larger disk.")
    return planned, seen


def _whole(path: str) -> Place:
    with open_source(path, exclusive_check=False, write_back=False) as reader:
        return Place(path, 0, reader.size)


def remake(
    content: Content, old: str, new: str, size_bytes: int, sector_bytes: int, progress: Progress | None = None
) -> tuple[str, ...]:
    """Make the content of a volume anew in another one; what is not as it was, in sentences.

    Args:
        content: What lies in the old volume.
        old: A file or device with the old volume; a journal may be replayed into it, so it is a copy or an overlay.
        new: A file or device of the new size; what lies in it is lost. Unless it is filled by files, it reads as zeros.
        size_bytes: The new size.
        sector_bytes: Logical sector of the disk that it comes to.
        progress: Is told how far it is.

    Raises:
        VolumeFailed: It failed, and what lies in the new volume is of no use.
        CannotRemake: It would lose something, or cannot be as small; the new volume was not touched.
    """
    planned, seen = check_remake(content, old, size_bytes, sector_bytes)
    if seen is None:
        with open_source(old, exclusive_check=False, write_back=False) as reader:
            _make_volume(planned, reader, new)
        return planned.changes
    shown = progress or NullProgress()
    shown.start(seen.content_bytes, f"copy the files of the {content.type}")
    return planned.changes + make(planned, _whole(old), Place(new, 0, size_bytes, sector_bytes), progress=shown)


def _make_volume(planned: Remake, reader: BlockReader, new: str) -> None:
    if planned.type == "vfat":
        volumes.make_fat(planned, reader, new)
    elif planned.type == "exfat":
        volumes.make_exfat(planned, reader, new)
    else:
        volumes.make_swap(planned, new)
