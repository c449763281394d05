# SPDX-License-Identifier: GPL-3.0-or-later
"""Is an image what was captured? Every structure, every chunk's content, and, when asked, every bit of the file.

A changed bit can be one that does not matter (zstd frames have some): then all content is still proven by its digests,
and only the strict comparison with the digest of the file itself tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from imager.crew import Crew
from imager.errors import ImageDamaged, ImageError, ImagerError
from imager.extents import Extents
from imager.image.cursor import SALVAGE_HINT
from imager.image.frames import Decoder, of_image
from imager.image.group import GROUPS_AHEAD, Group
from imager.image.reader import Image, StreamedImage
from imager.image.walk import Ending, Walk
from imager.progress import NullProgress, Progress

_MOST_NAMED = 1000
"""Damages that are listed one by one; further ones are only counted."""


@dataclass(frozen=True)
class Verified:
    """What was found whole.

    Attributes:
        chunk_count: Chunks with data.
        content_bytes: Bytes of the disk that these hold.
        missing: Bytes that were in use and that the image is known to lack: it was salvaged.
        unreadable: Bytes that the source could not deliver.
        warnings: What lowered trust while the capture ran.
        root_digest: What names the image's content.
        content_checked: False when only the structure was looked at.
        file_digest_checked: Whether every bit of the file is the one that was written.
    """

    chunk_count: int
    content_bytes: int
    missing: Extents
    unreadable: Extents
    warnings: tuple[str, ...]
    root_digest: bytes
    content_checked: bool
    file_digest_checked: bool


def verify(
    image: StreamedImage,
    *,
    quick: bool = False,
    strict: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Verified:
    """Check an image.

    Args:
        image: A file, or a stream that nothing was read from.
        quick: Only the structure: records, index, trailer, seek table.
        strict: The file's own digest, too.
        threads: How many decompress; by default one a core.
        progress: Told of bytes of content.

    Raises:
        ImageDamaged: Something is not as it was written; facts["damages"] lists all that was found.
        ImageIncomplete: The image ends too early, and what is there is whole.
        StoreError: It cannot be read.
    """
    progress = progress or NullProgress()
    walk = image.walk(data=not quick, zeros=not quick, hashed=strict)
    progress.start(image.description.data_chunk_count * image.description.chunk_size, "verify")
    tally = _Tally()
    try:
        for group, found in _checked(image, walk, quick=quick, threads=threads):
            tally.take(group, found)
            progress.advance(sum(group.lengths))
            group.release()
        if strict:
            _check_file_digest(image.name, walk)
    except ImageError as error:
        tally.note([error])
    progress.done()
    if tally.damages:
        raise _report(image.name, tally.damages, tally.damage_count)
    return tally.verified(image.ending, content_checked=not quick, file_digest_checked=strict)


@dataclass
class _Tally:
    """What was found so far."""

    chunk_count: int = 0
    content_bytes: int = 0
    damage_count: int = 0
    damages: list[ImageError] = field(default_factory=list)

    def take(self, group: Group, found: list[ImageError]) -> None:
        self.chunk_count += len(group.numbers)
        self.content_bytes += sum(group.lengths)
        self.note(found)

    def note(self, found: list[ImageError]) -> None:
        self.damage_count += len(found)
        self.damages.extend(found[: _MOST_NAMED - len(self.damages)])

    def verified(self, ending: Ending, *, content_checked: bool, file_digest_checked: bool) -> Verified:
        return Verified(
            self.chunk_count,
            self.content_bytes,
            ending.missing,
            ending.final.unreadable,
            ending.final.warnings,
            ending.root_digest,
            content_checked,
            file_digest_checked,
        )


_Checked = tuple[Group, list[ImageError]]


def _checked(image: StreamedImage, walk: Walk, *, quick: bool, threads: int | None) -> Iterator[_Checked]:
    """Every group with what is wrong with its chunks, which takes threads to find."""
    if quick:
        yield from ((group, []) for group in _groups(image, walk))
        return
    chunk_size = image.description.chunk_size
    with Crew(_groups(image, walk), lambda: _make_checker(chunk_size), threads=threads, ahead=GROUPS_AHEAD) as results:
        yield from results


def _groups(image: StreamedImage, walk: Walk) -> Iterator[Group]:
    done = 0
    for group in walk.groups():
        if isinstance(image, Image):
            image.index.compare(group, done)
        done += len(group.numbers)
        yield group


def _make_checker(chunk_size: int) -> Callable[[Group], _Checked]:
    decoder = Decoder(chunk_size)

    def check(group: Group) -> _Checked:
        damages: list[ImageError] = []
        rows = zip(group.numbers, group.frames, group.lengths, group.digests, group.offsets, strict=True)
        for number, frame, length, digest, offset in rows:
            try:
                decoder(number, frame, length, digest)
            except ImageDamaged as error:
                error.facts.setdefault("offset_bytes", offset)
                damages.append(error)
        return group, damages

    return check


def _check_file_digest(name: str, walk: Walk) -> None:
    ending = walk.ending
    if ending is not None and ending.found_file_digest != ending.file_digest:
        raise ImageDamaged(
            f"{name} is not the file that was written (BLAKE3 of the file differs), but all of its content is whole",
            hint="The image can be used. Copy it from where it is whole, if there is such a place.",
            path=name,
            expected=ending.file_digest.hex(),
            found=(ending.found_file_digest or b"").hex(),
        )


def _report(name: str, damages: list[ImageError], count: int) -> ImagerError:
    """One error for all."""
    listed = [{"message": error.message, **error.facts} for error in damages]
    if len(damages) == 1:
        only = of_image(damages[0], name)
        only.facts["damages"] = listed
        return only
    return ImageDamaged(
        f"{name} is damaged in {count} places; the first: {damages[0].message}",
        hint=SALVAGE_HINT,
        path=name,
        damage_count=count,
        damages=listed,
    )
