# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an interrupted capture may be continued: only when the result cannot differ from an uninterrupted one.

The machine may have been booted in between. So the new survey must equal the one that the partial image carries,
every choice that shapes the bytes must be the same, and every chunk that is there is compared with the source by
digest. Only the disk's name may have changed (/dev/sda is /dev/sdb after a boot): nothing rests on it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from imager.capture.chunks import used_chunks
from imager.capture.reading import ChunkReader, Range
from imager.capture.work import Hashed, make_hasher
from imager.crew import Crew
from imager.errors import ImagerError, SourceUnusable, UsageError
from imager.image.description import Description
from imager.image.resume import ResumePoint
from imager.layout import Layout
from imager.progress import Progress

_AGAIN: Final = "Capture again from the start with --overwrite."
_Choice = tuple[str, str, Callable[[Description], object]]
CHOICES: Final[tuple[_Choice, ...]] = (
    ("compression level", "--level", lambda description: description.level),
    ("chunk size", "--chunk-size", lambda description: description.chunk_size),
    ("comment", "--comment", lambda description: description.comment),
    ("file of answers", "--answers", lambda description: _told_apart(description.answers)),
    ("options", "", lambda description: description.options),
    ("sector size", "", lambda description: description.sector_size),
)
"""What a person asks for, and with which option."""
_VERSIONS: Final[tuple[_Choice, ...]] = (
    ("version of the compression library", "", lambda description: description.compressor),
    ("version of imager", "", lambda description: description.tool),
)


def continued(partial: Description, wanted: Description, *, named_id: bool, named_set: bool) -> Description:
    """The description that a continued image carries: that of the partial one, when all of it still holds.

    Args:
        partial: What the interrupted capture wrote.
        wanted: What an uninterrupted capture would write now.
        named_id: Whether the user named the image id; else the partial image keeps its own.
        named_set: Likewise for the set id.

    Raises:
        UsageError: Another level, chunk size or version would be needed.
        SourceUnusable: The disk has another layout or other blocks in use than then.
    """
    for what, option, value in (*CHOICES, *_VERSIONS):
        if value(partial) != value(wanted):
            raise _other_choice(what, option, value(partial), value(wanted))
    if named_id and partial.image_id != wanted.image_id:
        raise _other_choice("image id", "--image-id", partial.image_id, wanted.image_id)
    if named_set and partial.set_id != wanted.set_id:
        raise _other_choice("set id", "", partial.set_id, wanted.set_id)
    difference = source_difference(partial, wanted)
    if difference:
        raise SourceUnusable(
            f"the source is not what it was when the partial image was begun: {difference}", hint=_AGAIN
        )
    return partial


def _told_apart(answers: str) -> str:
    """A text that is too long for a message, as a name that tells it from others."""
    return f"one with the SHA-256 {hashlib.sha256(answers.encode()).hexdigest()}" if answers else ""


def _other_choice(what: str, option: str, found: object, wanted: object) -> ImagerError:
    hint = f"Give {option} {found} to continue it, or capture" if option else "Capture"
    return UsageError(
        f"the partial image cannot be continued: its {what} is {found or 'empty'}, now it is {wanted or 'empty'}",
        hint=f"{hint} again from the start with --overwrite.",
        what=what,
        expected=str(found),
        found=str(wanted),
    )


def source_difference(partial: Description, wanted: Description) -> str:
    """What of a disk is not as an image describes it, in words; "" when it still is that disk."""
    if partial.disk_size != wanted.disk_size:
        return f"it had {partial.disk_size} bytes, now it has {wanted.disk_size}"
    layout = _without_path(partial.layout)
    if layout != _without_path(wanted.layout):
        return _layout_difference(partial.layout, wanted.layout)
    if partial.used != wanted.used:
        changed = (partial.used - wanted.used) | (wanted.used - partial.used)
        return f"{changed.total_bytes} bytes changed between used and unused, the first at byte {changed.starts[0]}"
    return ""


def _without_path(layout: Layout) -> Layout:
    return replace(layout, identity=replace(layout.identity, path=""))


def _layout_difference(before: Layout, now: Layout) -> str:
    if _without_path(before).identity != _without_path(now).identity:
        return f"it was {before.identity.short_name()}, now it is {now.identity.short_name()}"
    if before.table != now.table:
        return "its partition table has changed"
    for then in before.partitions:
        if now.partition(then.number) != then:
            return f"partition {then.number} has changed"
    if len(before.partitions) != len(now.partitions):
        return f"it had {len(before.partitions)} partitions, now it has {len(now.partitions)}"
    return "what lies on it outside of partitions has changed"


def check_chunks(
    point: ResumePoint,
    description: Description,
    reader: ChunkReader,
    *,
    threads: int | None,
    progress: Progress,
) -> list[Range]:
    """Compare every chunk that is there with the source, on all cores.

    Returns:
        The ranges of the disk that could not be read, as `ChunkReader.read` does: they are zeros there, too.

    Raises:
        SourceUnusable: A chunk differs, or the partial image holds others than it should by now.
        SourceUnreadable: A chunk cannot be read and nothing may be lost.
    """
    lost: list[Range] = []
    numbers, digests = point.numbers, point.digests
    end = min((int(numbers[-1]) + 1) * description.chunk_size, description.disk_size)
    used = description.used.clip(0, end)
    chunks = used_chunks(used, disk_size=description.disk_size, chunk_size=description.chunk_size)
    make_worker = functools.partial(make_hasher, reader, description.chunk_size)
    progress.start(used.total_bytes, "compare with the partial image")
    with Crew(chunks, make_worker, threads=threads) as results:
        for position, hashed in enumerate(results):
            if position >= numbers.size or int(numbers[position]) != hashed.number:
                raise SourceUnusable(
                    f"the partial image lacks chunk {hashed.number} although it holds later ones", hint=_AGAIN
                )
            _compare(hashed, digests[position].tobytes())
            lost += hashed.lost
            progress.advance(hashed.used_bytes)
    progress.done()
    return lost


def _compare(hashed: Hashed, digest: bytes) -> None:
    if hashed.digest != digest:
        raise SourceUnusable(
            "the source has changed since the partial image was begun: "
            f"chunk {hashed.number} at byte {hashed.offset} holds other content now",
            hint=_AGAIN,
            chunk=hashed.number,
            offset_bytes=hashed.offset,
            expected=digest.hex(),
            found=hashed.digest.hex(),
        )
