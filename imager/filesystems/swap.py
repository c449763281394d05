# SPDX-License-Identifier: GPL-3.0-or-later
"""Linux swap areas: only the header is kept, unless a hibernated system lies in one.

The signature is the last ten bytes of the first page, so it depends on the page size of the machine that made it:
4 KiB to 64 KiB. Hibernation replaces it by its own. The first 64 KiB are kept whatever the page size, because
boot loaders may lie there too.

An area whose last ten bytes are unknown, while the ten before them are those that the kernel saves there when it
hibernates, counts as hibernated: nobody else writes such a pair.

References:
    Linux include/linux/swap.h (union swap_header), kernel/power/swap.c (struct swsusp_header), mm/swapfile.c.
    Names of the fields are the kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final
from uuid import UUID

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import HIBERNATED, NotTrusted, ParserDoc, UsedMap
from imager.layout import Content

DOC: Final = ParserDoc(
    name="Linux swap",
    types=("swap", "swsuspend"),
    handled=("SWAPSPACE2 and SWAP-SPACE", "pages of 4, 8, 16, 32 and 64 KiB", "either byte order", "bad pages"),
    whole_when=(
        ("hibernated, at any page size", "it holds the memory of a sleeping system"),
        ("version other than 1", "an unknown header"),
        ("it reaches beyond the end of the volume", "the volume was cut or the header is another's"),
    ),
    references=("Linux include/linux/swap.h", "Linux kernel/power/swap.c"),
    copied="its header",
)

KEPT_BYTES: Final = 64 * 1024
PAGE_SIZES: Final = (4096, 8192, 16384, 32768, 65536)
SWAP_V0: Final = b"SWAP-SPACE"
SWAP_V1: Final = b"SWAPSPACE2"
SIGNATURE_BYTES: Final = 10
HIBERNATION_SIGNATURES: Final = (b"S1SUSPEND", b"S2SUSPEND", b"R1SUSPEND", b"ULSUSPEND", b"LINHIB0001")
TUX_ON_ICE_SIGNATURE: Final = bytes.fromhex("edc302e99856e50c")
"""TuxOnIce writes its mark at the start of the area and leaves the swap signature alone."""

_INFO_OFFSET: Final = 1024
_INFO: Final = {"little": Struct("<III16s16s"), "big": Struct(">III16s16s")}
_INFO_BYTES: Final = 512
_BAD_PAGE_BYTES: Final = 4


@dataclass(frozen=True)
class Area:
    """A swap signature: which, and where.

    Attributes:
        name: The signature as text.
        page_bytes: Size of a page of the machine that wrote it.
        offset: Where the signature lies.
        hibernated: Whether it is the mark of a sleeping system.
    """

    name: str
    page_bytes: int
    offset: int
    hibernated: bool


@dataclass(frozen=True)
class _Info:
    """The header of a SWAPSPACE2 area."""

    version: int
    last_page: int
    nr_badpages: int
    uuid: bytes
    volume_name: bytes


def find_area(reader: BlockReader) -> Area | None:
    """The swap signature of a volume; a hibernated system's comes before any other."""
    head = reader.read(0, min(reader.size, KEPT_BYTES))
    areas = [area for page in PAGE_SIZES if page <= len(head) and (area := _area_at(head, page))]
    if head.startswith(TUX_ON_ICE_SIGNATURE):
        page = areas[0].page_bytes if areas else PAGE_SIZES[0]
        areas.insert(0, Area("TuxOnIce", page, 0, hibernated=True))
    return min(areas, key=lambda area: not area.hibernated, default=None)


def _area_at(head: bytes, page_bytes: int) -> Area | None:
    offset = page_bytes - SIGNATURE_BYTES
    signature = head[offset:page_bytes]
    if signature in (SWAP_V0, SWAP_V1):
        return Area(signature.decode(), page_bytes, offset, hibernated=False)
    for mark in HIBERNATION_SIGNATURES:
        if signature.startswith(mark):
            return Area(mark.decode(), page_bytes, offset, hibernated=True)
    if head[offset - SIGNATURE_BYTES : offset] in (SWAP_V0, SWAP_V1):
        return Area("unknown signature", page_bytes, offset, hibernated=True)
    return None


def probe(reader: BlockReader) -> Content | None:
    """Recognise a swap area; `HIBERNATED` is among its facts when a system sleeps in it."""
    area = find_area(reader)
    return _describe(reader, area) if area else None


def used_map(reader: BlockReader) -> UsedMap:
    """The first 64 KiB: what lies behind them has no meaning once the system is down.

    Raises:
        NotTrusted: A system is hibernated in it, or its header says what cannot be.
    """
    area = find_area(reader)
    if area is None:
        raise NotTrusted("it has no swap signature")
    if area.hibernated:
        raise NotTrusted(f"it holds a hibernated system ({area.name}, pages of {area.page_bytes} bytes)")
    content = _describe(reader, area)
    _check_header(reader, area)
    if not content.size_bytes or content.size_bytes > reader.size:
        raise NotTrusted(f"it says that it has {content.size_bytes or 0} bytes, in a volume of {reader.size}")
    return UsedMap(Extents.single(0, min(KEPT_BYTES, reader.size)), content)


def _check_header(reader: BlockReader, area: Area) -> None:
    if area.name != SWAP_V1.decode():
        return
    info = _read_info(reader)
    if info is None:
        raise NotTrusted("its swap header is not of version 1, the only one that is known")
    most = (area.page_bytes - _INFO_OFFSET - _INFO_BYTES - SIGNATURE_BYTES) // _BAD_PAGE_BYTES
    if info.nr_badpages > most:
        raise NotTrusted(f"its swap header lists {info.nr_badpages} bad pages; it has room for {most}")


def _read_info(reader: BlockReader) -> _Info | None:
    """The header, in whichever byte order its version is 1; None when neither gives that."""
    content = reader.read(_INFO_OFFSET, _INFO_BYTES)
    for layout in _INFO.values():
        info = _Info(*layout.unpack_from(content))
        if info.version == 1:
            return info
    return None


def _describe(reader: BlockReader, area: Area) -> Content:
    info = _read_info(reader) if area.name != SWAP_V0.decode() else None
    facts = {"signature": area.name, "page_size_bytes": str(area.page_bytes)}
    if area.hibernated:
        facts[HIBERNATED] = area.name
    return Content(
        kind="swap",
        type="swsuspend" if area.hibernated else "swap",
        label=_text(info.volume_name) if info else "",
        uuid=str(UUID(bytes=info.uuid)) if info and any(info.uuid) else "",
        block_size_bytes=area.page_bytes,
        size_bytes=_size(reader, area, info),
        used_bytes=None if area.hibernated else area.page_bytes,
        facts=facts,
    )


def _size(reader: BlockReader, area: Area, info: _Info | None) -> int | None:
    if info:
        return (info.last_page + 1) * area.page_bytes
    if area.name != SWAP_V0.decode():
        return None
    # SWAP-SPACE: the page before the signature is a bitmap of usable pages, so its last bit is the last page.
    usable = int.from_bytes(reader.read(0, area.offset), "little")
    return usable.bit_length() * area.page_bytes


def _text(field: bytes) -> str:
    text = field.split(b"\0", 1)[0].decode(errors="replace")
    return "".join(char if char.isprintable() else "?" for char in text)
