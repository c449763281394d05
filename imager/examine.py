# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds out who owns a volume and which of its bytes are in use; in doubt, all of them.

Every probe always runs: our parsers, the table of signatures, and blkid where it is installed. A used map is trusted
only when all of them name one owner and the partition's type does not contradict it. A file system that still looks
clean under a newer RAID, ZFS or DRBD label would otherwise decide what is copied of somebody else's data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from imager.blocks import BlockReader, OutOfRange, Slice
from imager.errors import SourceUnreadable
from imager.extents import Extents
from imager.filesystems import registry
from imager.filesystems.base import HIBERNATED, NotTrusted, Parser, UsedMap
from imager.filesystems.expectations import contradiction
from imager.filesystems.leaving_out import NO_FILES, FilesToSkip, leave_out
from imager.filesystems.named import why_whole
from imager.filesystems.signatures import Signature, blkid_says, find_signatures
from imager.layout import Content, ContentKind

EDGE_BYTES: Final = 1024 * 1024
"""The first and last MiB of every volume is always used: boot sectors, labels and superblocks lie there."""


@dataclass(frozen=True)
class Volume:
    """A range of bytes that may hold a file system or something that holds one.

    Attributes:
        reader: Its bytes.
        path: The device or file in which blkid can look for it; empty when there is none, as inside an image.
        offset: First byte of the volume inside of path.
        partition_type: GPT type GUID or MBR type of the partition that it is; empty when it is none.
    """

    reader: BlockReader
    path: str = ""
    offset: int = 0
    partition_type: str = ""

    def part(self, start: int, end: int, partition_type: str = "") -> Volume:
        """The volume that lies at start up to end of this one."""
        return Volume(Slice(self.reader, start, end - start), self.path, self.offset + start, partition_type)


@dataclass(frozen=True)
class Examined:
    """What a volume holds, and its used bytes relative to its start."""

    content: Content
    used: Extents


@dataclass(frozen=True)
class _Claims:
    """Who says that the volume is theirs."""

    recognised: tuple[tuple[Parser, Content], ...]
    signatures: tuple[Signature, ...]
    blkid: tuple[str, ...]

    def names(self) -> tuple[str, ...]:
        named = [content.type for _, content in self.recognised]
        named += [signature.name for signature in self.signatures]
        return tuple(sorted({*named, *self.blkid}))


def examine(volume: Volume, *, all_blocks: bool = False, skip: FilesToSkip = NO_FILES) -> Examined:
    """Say what a volume holds and which of its bytes a capture must copy.

    Args:
        volume: Where to look.
        all_blocks: Copy every block even where the used map could be trusted.
        skip: Files whose content is not wanted.
    """
    found = _examine(volume, all_blocks=all_blocks)
    size = volume.reader.size
    used, content = leave_out(volume.reader, found.content, found.used, edges(size), skip)
    return Examined(content, used)


def _examine(volume: Volume, *, all_blocks: bool) -> Examined:
    try:
        claims = _Claims(
            registry.probe_all(volume.reader),
            find_signatures(volume.reader),
            blkid_says(volume.path, volume.offset, volume.reader.size) if volume.path else (),
        )
    except SourceUnreadable as error:
        return _whole(volume, Content("unknown", "unknown"), f"it could not be examined: {error}")
    content = _best_description(claims)
    reason = _reason_for_doubt(claims, content, volume)
    if reason:
        if content.kind == "unknown" and _has_blank_edges(volume.reader):
            content = replace(content, kind="blank", type="blank")
        return _whole(volume, content, reason)
    parser = claims.recognised[0][0]
    try:
        found = parser.used_map(volume.reader)
    except NotTrusted as error:
        return _whole(volume, replace(content, warnings=content.warnings + error.warnings), str(error))
    except (OutOfRange, SourceUnreadable) as error:
        return _whole(volume, content, f"its structures could not be read: {error}")
    if all_blocks:
        return _whole(volume, replace(found.content, claims=claims.names()), "every block was asked for")
    return trusted(volume, found, claims.names())


def trusted(volume: Volume, found: UsedMap, claims: tuple[str, ...]) -> Examined:
    """A parser's map with what is always used beside it: the edges, and what lies past the file system's end."""
    size = volume.reader.size
    ends_at = min(size if found.content.size_bytes is None else found.content.size_bytes, size)
    behind = Extents.single(ends_at, size) if found.behind is None else found.behind.clip(ends_at, size)
    used = Extents.union_of((found.used.clip(0, size), edges(size), behind))
    return Examined(replace(found.content, claims=claims, mapped_bytes=used.total_bytes), used)


def edges(size: int) -> Extents:
    """The first and last MiB of a volume."""
    return Extents.of(((0, min(EDGE_BYTES, size)), (max(0, size - EDGE_BYTES), size)))


def _best_description(claims: _Claims) -> Content:
    """The content as far as it is known, whether or not its map will be trusted."""
    names = claims.names()
    if not names:
        return Content("unknown", "unknown")
    if len(names) > 1:
        kind: ContentKind = "ambiguous"
        # That a system sleeps here stays true, whoever else claims the place.
        signs = [found.facts[HIBERNATED] for _, found in claims.recognised if HIBERNATED in found.facts]
        facts = {HIBERNATED: signs[0]} if signs else {}
        return Content(kind, " + ".join(names), claims=names, facts=facts)
    if claims.recognised:
        return replace(claims.recognised[0][1], claims=names)
    signature = next(iter(claims.signatures), None)
    return Content(signature.kind if signature else "unknown", names[0], claims=names)


def _reason_for_doubt(claims: _Claims, content: Content, volume: Volume) -> str:
    """Why no used map can be trusted; empty when one owner is undisputed and there is a parser for it."""
    if not claims.names():
        return "nothing known was recognised in it"
    if content.kind == "ambiguous":
        return f"more than one owner claims it: {', '.join(content.claims)}"
    if not claims.recognised:
        return why_whole(content.type)
    return contradiction(volume.partition_type, content) if volume.partition_type else ""


def _has_blank_edges(reader: BlockReader) -> bool:
    """Whether it looks like a new disk: a word for people, and no reason to copy less."""
    edge = min(EDGE_BYTES, reader.size)
    try:
        return not (reader.read(0, edge).strip(b"\0") or reader.read(reader.size - edge, edge).strip(b"\0"))
    except SourceUnreadable:
        return False


def _whole(volume: Volume, content: Content, reason: str) -> Examined:
    size = volume.reader.size
    return Examined(replace(content, mapped_bytes=size, whole_reason=reason), Extents.single(0, size))
