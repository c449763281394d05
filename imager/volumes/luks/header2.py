# SPDX-License-Identifier: GPL-3.0-or-later
"""LUKS2's header: two copies of a binary header and of an area of JSON, each under one checksum.

The valid copy with the newest sequence number counts. Where two valid copies put the data at different places,
neither is believed. Whatever the JSON says that is not known here keeps the container closed: a requirement, a flag,
another type of segment, an unfinished re-encryption.

Tokens are not used: they tell other programs where a passphrase may come from.

References:
    LUKS2 On-Disk Format Specification, version 1.1.4: chapter 2 (binary header), chapter 3 (JSON area).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import replace
from typing import Final, NamedTuple

from imager.blocks import BlockReader
from imager.volumes.luks import json_area
from imager.volumes.luks.model import MAGIC, Header, NotOpenable, text_of

MAGIC_2ND: Final = b"SKUL\xba\xbe"
SECOND_OFFSETS: Final = tuple(0x4000 << step for step in range(9))
"""Where a second header may lie; the sizes that a header may have."""

_HDR: Final = struct.Struct(">6sHQQ48s32s64s40s48sQ184s64s")
_HDR_BYTES: Final = 4096
_CSUM_OFFSET: Final = 448
_CSUM_BYTES: Final = 64
_CSUM_ALGORITHMS: Final = ("sha1", "sha224", "sha256", "sha384", "sha512")


class _BinaryHeader(NamedTuple):
    magic: bytes
    version: int
    hdr_size: int
    seqid: int
    label: bytes
    csum_alg: bytes
    salt: bytes
    uuid: bytes
    subsystem: bytes
    hdr_offset: int
    padding: bytes
    csum: bytes


class _Copy(NamedTuple):
    binary: _BinaryHeader
    json_text: bytes


def read(reader: BlockReader) -> Header | None:
    """Read the header from whichever copies are valid; None when there is no sign of one."""
    copies: list[_Copy] = []
    problems: list[str] = []
    seen = False
    for name, offsets, magic in (("first", (0,), MAGIC), ("second", SECOND_OFFSETS, MAGIC_2ND)):
        if name == "second" and copies:
            offsets = (copies[0].binary.hdr_size,)
        found = [offset for offset in offsets if _has_magic(reader, offset, magic)]
        seen = seen or bool(found)
        valid = [copy for copy in (_read_copy(reader, offset, magic) for offset in found) if copy]
        copies += valid[:1]
        if not valid:
            problems.append(f"its {name} header is damaged")
    if not seen:
        return None
    if not copies:
        return Header(0, obstacle="; ".join(problems), facts={"version": "2"})
    return _choose(copies, tuple(problems), reader.size)


def _choose(copies: list[_Copy], problems: tuple[str, ...], container_bytes: int) -> Header:
    newest = max(copies, key=lambda copy: copy.binary.seqid)
    headers = [_parse(copy, container_bytes) for copy in copies]
    header = replace(headers[copies.index(newest)], warnings=problems)
    if copies[0].binary.magic != MAGIC:
        # Programs that write to the start of a partition leave the second header, so it may be a leftover.
        return header.blocked(f"{problems[0]}: cryptsetup repair puts it back")
    places = {each.opening.payload if each.opening else None for each in headers}
    if header.opening and len(places) > 1:
        return header.blocked("its two headers do not say the same about where the data lie")
    return header


def _has_magic(reader: BlockReader, offset: int, magic: bytes) -> bool:
    return offset + _HDR_BYTES <= reader.size and reader.read(offset, len(magic) + 2) == magic + b"\0\2"


def _read_copy(reader: BlockReader, offset: int, magic: bytes) -> _Copy | None:
    """A copy of the header, if its checksum is right."""
    binary = _BinaryHeader(*_HDR.unpack_from(reader.read(offset, _HDR_BYTES)))
    name = text_of(binary.csum_alg)
    if binary.hdr_size not in SECOND_OFFSETS or offset + binary.hdr_size > reader.size or name not in _CSUM_ALGORITHMS:
        return None
    if binary.magic != magic or binary.hdr_offset != offset or offset not in (0, binary.hdr_size):
        return None
    content = reader.read(offset, binary.hdr_size)
    digest = hashlib.new(name)
    digest.update(content[:_CSUM_OFFSET] + bytes(_CSUM_BYTES) + content[_CSUM_OFFSET + _CSUM_BYTES :])
    if not hmac.compare_digest(digest.digest(), binary.csum[: digest.digest_size]):
        return None
    return _Copy(binary, content[_HDR_BYTES:].partition(b"\0")[0])


def _parse(copy: _Copy, container_bytes: int) -> Header:
    header = Header(2, text_of(copy.binary.uuid), text_of(copy.binary.label), facts={"version": "2"})
    try:
        metadata = json_area.decode(copy.json_text)
    except NotOpenable as error:
        return header.blocked(str(error))
    header = replace(header, facts={**header.facts, **metadata.facts()})
    try:
        opening = metadata.opening(2 * copy.binary.hdr_size, container_bytes)
    except NotOpenable as error:
        return header.blocked(str(error))
    return replace(header, opening=opening)
