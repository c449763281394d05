# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies behind the end of a read-only image in its volume: nothing, or something that must not get lost.

A squashfs, erofs or ISO 9660 image is written to a partition that is larger, and the rest is nobody's. Or it is
somebody's: OpenWrt keeps all that its user changed in a JFFS2, ext4 or F2FS right behind the squashfs, a dm-verity
hash tree and a signature follow the image that they protect, a second session of an optical disc follows the first.
No field of the image tells. So the rest is left out only when it was read and holds nothing but zeros; else all of it
is used, zeros among the rest, because they may be somebody's content.

Even then its first bytes stay used: a restore writes them, so that on a disk that was in use before, no old overlay
that began there comes back to life.

References:
    OpenWrt fstools, libfstools/rootdisk.c (the overlay begins at the next 64 KiB); Linux
    Documentation/admin-guide/device-mapper/verity.rst; Android Verified Boot 2.0 (footer at the partition's end).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from imager.blocks import BlockReader, Slice
from imager.errors import SourceUnreadable
from imager.extents import Extents
from imager.filesystems.signatures import find_signatures

KEPT_BYTES: Final = 1024 * 1024
"""So much behind the end is used in any case."""
MOST_READ_BYTES: Final = 1024 * 1024 * 1024
"""A longer rest is not read: that would take longer than a survey may, and zeros cost an image next to nothing."""

_PIECE_BYTES: Final = 4 * 1024 * 1024
_GRAINS_BYTES: Final = (4096, 64 * 1024, 128 * 1024, 1024 * 1024)
"""What begins behind an image begins at a multiple of one of these."""


@dataclass(frozen=True)
class Behind:
    """The bytes from an image's end to its volume's end.

    Attributes:
        used: Those that are copied.
        facts: For people: what was found, when there is a rest at all.
        warnings: Why the rest is copied although the image does not count it as its own.
    """

    used: Extents
    facts: dict[str, str]
    warnings: tuple[str, ...] = ()


def look_behind(reader: BlockReader, end: int) -> Behind:
    """Find out what lies behind an image.

    Args:
        reader: The volume.
        end: The byte after the image's last one.
    """
    rest = reader.size - end
    if rest <= KEPT_BYTES:
        return Behind(Extents.single(end, reader.size), {})
    state = _state_of(reader, end)
    if not state:
        return Behind(Extents.single(end, end + KEPT_BYTES), {"behind_its_end": "zeros"})
    found = ", ".join(_owners(reader, end))
    named = f", with {found} among them" if found else ""
    warning = f"behind its end, at byte {end}, lie {rest} bytes, {state}{named}: all of them are copied"
    return Behind(Extents.single(end, reader.size), {"behind_its_end": found or state}, (warning,))


def _state_of(reader: BlockReader, end: int) -> str:
    """Why the rest cannot be called blank; empty when all of it is zero."""
    if reader.size - end > MOST_READ_BYTES:
        return "too many to be read beforehand"
    try:
        return "" if all(_is_zero(piece) for piece in _pieces(reader, end)) else "not all zero"
    except SourceUnreadable:
        return "not all readable"


def _pieces(reader: BlockReader, start: int) -> Iterator[bytes]:
    """The last piece comes first: footers and superblocks at the end spare the reading of all between."""
    last = max(start, reader.size - KEPT_BYTES)
    yield reader.read(last, reader.size - last)
    for at in range(start, last, _PIECE_BYTES):
        yield reader.read(at, min(_PIECE_BYTES, last - at))


_ZEROS: Final = bytes(_PIECE_BYTES)


def _is_zero(piece: bytes) -> bool:
    return piece == _ZEROS[: len(piece)]


def _owners(reader: BlockReader, end: int) -> list[str]:
    """Names of what begins behind the end, with its place."""
    names: dict[int, str] = {}
    for start in sorted({-(-end // grain) * grain for grain in _GRAINS_BYTES}):
        if start >= reader.size:
            continue
        try:
            marks = find_signatures(Slice(reader, start, reader.size - start))
        except SourceUnreadable:
            continue
        for mark in marks:
            names.setdefault(start + mark.offset_bytes, f"{mark.name} at byte {start + mark.offset_bytes}")
    return [names[at] for at in sorted(names)][:4]
