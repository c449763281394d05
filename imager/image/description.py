# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image says of itself: its header's content before the data, and its final facts after it.

Values only; how they become bytes is in headers.py and records.py. JSON comes from outside: unknown fields are
ignored, wrong types and impossible values are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Final, TypeVar
from uuid import UUID

import msgspec

from imager.errors import ImageDamaged
from imager.extents import Extents
from imager.image.columns import ChunkRuns
from imager.image.format import DIGEST_SIZE, MAX_JSON_SIZE
from imager.layout import Bytes, Identity, Layout, Text

NIL: Final = UUID(int=0)
NO_DIGEST: Final = bytes(DIGEST_SIZE)
_MOST_RANGES: Final = 50_000
"""Ranges of the final facts: more would not fit into 4 MiB of JSON; the smallest gaps between them are closed."""

_T = TypeVar("_T")
Pair = tuple[Bytes, Bytes]


@dataclass(frozen=True)
class SetMember:
    """A disk that was captured together with others.

    Attributes:
        image: Name of the file that its image was written to, without the folder.
        identity: The disk.
        size_bytes: Its size.
    """

    image: Text
    identity: Identity
    size_bytes: Bytes


SetMembers = Annotated[tuple[SetMember, ...], msgspec.Meta(max_length=1024)]


@dataclass(frozen=True)
class Description:
    """The header: what is in the image, and how it is cut.

    Attributes:
        chunk_count: Chunks with data; None for all used ones. Fewer when salvage found some lost.
        compressor: Library and version that made the frames: resuming needs the same.
        options: What else the capture was told, for people.
        set_members: All disks of the set, this one too; empty when it was captured alone.
        answers: A recovery.toml for the machine that the disk comes from; empty for none.
    """

    image_id: UUID
    disk_size: int
    sector_size: int
    chunk_size: int
    layout: Layout
    used: Extents
    chunk_count: int | None = None
    set_id: UUID = NIL
    parent_id: UUID = NIL
    parent_root_digest: bytes = NO_DIGEST
    created: str = ""
    tool: str = ""
    compressor: str = ""
    level: str = ""
    comment: str = ""
    options: dict[str, str] = field(default_factory=dict)
    set_members: tuple[SetMember, ...] = ()
    answers: str = ""

    @cached_property
    def chunks(self) -> ChunkRuns:
        """The used chunks."""
        return ChunkRuns.of(self.used, self.chunk_size)

    @property
    def data_chunk_count(self) -> int:
        """How many chunks have data in this image."""
        return self.chunks.count if self.chunk_count is None else self.chunk_count

    @property
    def lacks_chunks(self) -> bool:
        """Whether some used chunks have no data here."""
        return self.data_chunk_count < self.chunks.count


@dataclass(frozen=True)
class FinalFacts:
    """The trailer: what is known only at the end.

    Attributes:
        unreadable: Bytes that the source could not deliver; they are zero in the image.
        missing: Chunks that a damaged image has lost; restore leaves them untouched.
        warnings: What lowered trust while the capture ran.
        salvaged_from: Id of the damaged image that this one was made from.
    """

    unreadable: Extents = field(default_factory=Extents)
    missing: Extents = field(default_factory=Extents)
    warnings: tuple[str, ...] = ()
    salvaged_from: str = ""


@dataclass(frozen=True)
class HeaderJson:
    """The header's JSON, as it is written."""

    layout: Layout
    created: Text = ""
    tool: Text = ""
    compressor: Text = ""
    level: Text = ""
    comment: Text = ""
    options: dict[Text, Text] = field(default_factory=dict)
    # Not written when they are empty: images without them have the same bytes as before there were any.
    set_members: SetMembers | msgspec.UnsetType = msgspec.UNSET
    answers: Text | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class FinalJson:
    """The trailer's JSON, as it is written."""

    unreadable: Annotated[tuple[Pair, ...], msgspec.Meta(max_length=2 * _MOST_RANGES)] = ()
    missing: Annotated[tuple[Pair, ...], msgspec.Meta(max_length=2 * _MOST_RANGES)] = ()
    warnings: tuple[Text, ...] = ()
    salvaged_from: Text = ""


def encode_header_json(description: Description) -> bytes:
    """The header's JSON.

    Raises:
        ValueError: It is longer than 4 MiB.
    """
    text = msgspec.json.encode(
        HeaderJson(
            description.layout,
            description.created,
            description.tool,
            description.compressor,
            description.level,
            description.comment,
            description.options,
            description.set_members or msgspec.UNSET,
            description.answers or msgspec.UNSET,
        ),
        order="deterministic",
    )
    if len(text) > MAX_JSON_SIZE:
        raise ValueError(f"the header's JSON takes {len(text)} bytes; at most {MAX_JSON_SIZE} are possible")
    return text


def decode_header_json(text: bytes | memoryview, disk_size: int) -> HeaderJson:
    """The header's JSON, checked."""
    content = _decode(text, HeaderJson, "header")
    # The layout checks itself, and it must be about the disk that the prefix is about.
    Layout.from_json(content.layout.to_json())
    if content.layout.size_bytes != disk_size:
        raise ImageDamaged(
            f"the image's layout is that of a disk of {content.layout.size_bytes} bytes; its header says {disk_size}",
            expected=disk_size,
            found=content.layout.size_bytes,
        )
    return content


def encode_final_json(final: FinalFacts) -> bytes:
    """The trailer's JSON; with very many ranges, those next to each other are joined, and warnings are cut short."""
    content = FinalJson(_pairs(final.unreadable), _pairs(final.missing), final.warnings, final.salvaged_from)
    text = msgspec.json.encode(content, order="deterministic")
    if len(text) <= MAX_JSON_SIZE:
        return text
    room = MAX_JSON_SIZE // 2
    warnings: list[str] = []
    for warning in final.warnings:
        room -= len(msgspec.json.encode(warning)) + 1
        if room < 0:
            break
        warnings.append(warning)
    lost = f"{len(final.warnings) - len(warnings)} further warnings did not fit"
    return encode_final_json(FinalFacts(final.unreadable, final.missing, (*warnings, lost), final.salvaged_from))


def decode_final_json(text: bytes | memoryview, disk_size: int) -> FinalFacts:
    """The trailer's JSON, checked."""
    content = _decode(text, FinalJson, "trailer")
    return FinalFacts(
        _ranges(content.unreadable, disk_size),
        _ranges(content.missing, disk_size),
        content.warnings,
        content.salvaged_from,
    )


def _decode(text: bytes | memoryview, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ImageDamaged(f"the JSON of the image's {where} cannot be read: {error}") from error


def _pairs(extents: Extents) -> tuple[Pair, ...]:
    return tuple(extents.limit_count(_MOST_RANGES))


def _ranges(pairs: tuple[Pair, ...], disk_size: int) -> Extents:
    if any(not start < end <= disk_size for start, end in pairs):
        raise ImageDamaged(f"the image's trailer names a range outside of a disk of {disk_size} bytes")
    return Extents.of(pairs)


def check_missing(description: Description, final: FinalFacts, skipped: list[tuple[int, int]]) -> Extents:
    """The bytes of the disk whose chunks were in use but are not in the image.

    Args:
        description: The header's.
        final: The trailer's, which must name all of them.
        skipped: Ranges of chunk numbers that the image passes over.

    Raises:
        ImageDamaged: A chunk is missing and the trailer does not say so.
    """
    lost = description.chunks.within(skipped)
    missing = lost.as_extents(description.chunk_size, description.disk_size)
    unnamed = missing - final.missing if len(missing) else missing
    if len(unnamed):
        raise ImageDamaged(
            f"{unnamed.total_bytes} bytes that were in use are not in the image, first at byte {unnamed.starts[0]} "
            "of the disk",
            offset_bytes=int(unnamed.starts[0]),
        )
    return missing
