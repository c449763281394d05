# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bytes of a volume a copy may leave out because they are the content of files that nobody wants back.

The content of a page file means nothing to a system that starts anew. So, when a person names such files, their
blocks are taken out of the used map: only those that hold content below the file's end as a whole, and only in a file
system whose map is proven and up to date.

The first 64 KiB of each file are kept. A swap file has its header there, without which it could not be used again.
And what says that a system sleeps in a file lies there: were these bytes left to what is on the target, an old mark
there could make a restored system wake up as another.

A file in which a system sleeps is not touched. Nor is any when a system sleeps anywhere on the disks, because it may
need what it has written into its swap files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from imager.blocks import BlockReader, MemoryReader, OutOfRange
from imager.errors import SourceUnreadable
from imager.extents import Extents
from imager.filesystems.base import HIBERNATED, NotTrusted
from imager.filesystems.ntfs.files import hibernation_magic
from imager.filesystems.registry import FINDERS
from imager.filesystems.root_files import RootFile
from imager.filesystems.swap import KEPT_BYTES, find_area
from imager.layout import Content, LeftOut

MOST_NAMES: Final = 64


@dataclass(frozen=True)
class FilesToSkip:
    """Files whose content a copy is to leave out.

    Attributes:
        names: Of files in root directories.
        refused: Why it may be left out nowhere; empty when nothing is known against it.
    """

    names: tuple[str, ...] = ()
    refused: str = ""


NO_FILES: Final = FilesToSkip()


@dataclass(frozen=True)
class _Decision:
    """What is left out of a file, why not more, and the sign of a system that sleeps in it."""

    left_out: Extents
    reason: str = ""
    asleep: str = ""


def leave_out(
    reader: BlockReader, content: Content, used: Extents, kept: Extents, skip: FilesToSkip
) -> tuple[Extents, Content]:
    """Take the content of files out of a volume's used map.

    Args:
        reader: The volume.
        content: What it holds.
        used: Its used bytes.
        kept: What stays used, whatever lies there.
        skip: Whose content is not wanted.

    Returns:
        The bytes that are still used, and the content with a record of each file.
    """
    finder = FINDERS.get(content.type)
    if not skip.names or finder is None:
        return used, content
    reason = skip.refused or ("its volume is copied whole" if content.whole_reason else "")
    found: dict[str, RootFile] = {}
    if not reason:
        try:
            found = finder.root_files(reader, skip.names)
        except NotTrusted as error:
            reason = error.reason
        except (OutOfRange, SourceUnreadable) as error:
            reason = f"its structures could not be read: {error}"
    if reason:
        return used, replace(content, left_out=tuple(LeftOut(name, reason=reason) for name in skip.names))
    return _leave_out_found(reader, content, used, kept, found)


def copied_anyway(content: Content) -> Content:
    """The content, with no claim that anything of a volume inside of it is left out when it is copied whole itself."""
    inside = tuple(copied_anyway(_all_copied(each) if content.whole_reason else each) for each in content.inside)
    return replace(content, inside=inside) if inside != content.inside else content


def _all_copied(content: Content) -> Content:
    why = "what its volume lies on is copied whole"
    records = tuple(replace(each, left_out_bytes=0, reason=why) for each in content.left_out)
    return replace(content, left_out=records, inside=tuple(_all_copied(each) for each in content.inside))


def _leave_out_found(
    reader: BlockReader, content: Content, used: Extents, kept: Extents, found: dict[str, RootFile]
) -> tuple[Extents, Content]:
    records: list[LeftOut] = []
    facts = dict(content.facts)
    for name, file in found.items():
        decided = _decide(reader, file, used, kept)
        used -= decided.left_out
        records.append(LeftOut(name, decided.left_out.total_bytes, decided.reason))
        if decided.asleep:
            facts[HIBERNATED] = f"{name} ({decided.asleep})"
    return used, replace(content, left_out=tuple(records), facts=facts, mapped_bytes=used.total_bytes)


def _decide(reader: BlockReader, file: RootFile, used: Extents, kept: Extents) -> _Decision:
    """What of a file may be left out."""
    reason = file.reason or next(_damage(file, used), "")
    if reason:
        return _Decision(Extents(), reason)
    asleep = _sign_of_sleep(reader, file)
    if asleep:
        return _Decision(Extents(), f"a system is hibernated in it ({asleep})", asleep)
    # Beyond the end of the file, in its last block too, a file system may rely on the zeros that it wrote there.
    content = file.pieces.clip(KEPT_BYTES, file.size_bytes // file.block_bytes * file.block_bytes).extents
    own = content - file.shared
    left_out = own - kept
    if not len(left_out):
        return _Decision(left_out, "it has no blocks of its own beyond its first 64 KiB")
    return _Decision(left_out, "what it shares with other files is copied" if own != content else "")


def _damage(file: RootFile, used: Extents) -> Iterator[str]:
    """What cannot be in a file system that is in order."""
    if not file.pieces.is_in_order:
        yield "two parts of it lie in one place"
    if len(file.pieces.extents - used):
        yield "not all of its blocks are in use, or another of the files has them"


def _sign_of_sleep(reader: BlockReader, file: RootFile) -> str:
    """The mark of a system that is hibernated in the file; empty when there is none."""
    head = bytearray(min(file.size_bytes, KEPT_BYTES))
    part = file.pieces.clip(0, len(head))
    rows = zip(part.offsets.tolist(), part.places.tolist(), part.lengths.tolist(), strict=True)
    for offset, place, length in rows:
        head[offset : offset + length] = reader.read(place, length)
    area = find_area(MemoryReader(bytes(head)))
    return area.name if area and area.hibernated else hibernation_magic(bytes(head[:4]))
