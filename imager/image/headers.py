# SPDX-License-Identifier: GPL-3.0-or-later
"""The header: a Description as bytes, and back from bytes that nobody vouches for.

The order of the checks: the prefix is what its own digest says; its version and features are known; every field is
inside its limits; JSON and Extents are what the prefix's digests say; and what they mean fits together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from blake3 import blake3

from imager.errors import ImageDamaged, ImageUnsupported
from imager.image.beginning import LOOKED_AT_BYTES, no_image
from imager.image.columns import decode_extents, encode_extents
from imager.image.cursor import Cursor
from imager.image.description import Description, decode_header_json, encode_header_json
from imager.image.format import (
    COPY_MAGIC,
    DIGEST_SIZE,
    FORMAT_VERSION,
    HEADER_MAGIC,
    HEADER_PREFIX,
    INCOMPATIBLE_KNOWN,
    INCOMPATIBLE_NAMES,
    MAX_CHUNK_SIZE,
    MAX_DISK_SIZE,
    MAX_EXTENT_COUNT,
    MAX_EXTENTS_SIZE,
    MAX_FRAMES,
    MAX_JSON_SIZE,
    MAX_PREFIX_SIZE,
    MAX_SECTOR_SIZE,
    MIN_CHUNK_SIZE,
    RECORD_MAGIC,
    SKIPPABLE_HEADER,
)

_UPGRADE = "Use a newer version of imager. Until then, zstd -dc still gives a full image's raw disk."


def encode_header(description: Description) -> bytes:
    """The payload of the header record."""
    used = description.used.limit_count(MAX_EXTENT_COUNT)
    text, extents = encode_header_json(description), encode_extents(used)
    prefix = HEADER_PREFIX.pack(
        magic=HEADER_MAGIC,
        version=FORMAT_VERSION,
        prefix_size=HEADER_PREFIX.size,
        reserved=0,
        incompatible=0,
        compatible=0,
        image_id=description.image_id.bytes,
        set_id=description.set_id.bytes,
        parent_id=description.parent_id.bytes,
        parent_root_digest=description.parent_root_digest,
        disk_size=description.disk_size,
        chunk_size=description.chunk_size,
        sector_size=description.sector_size,
        chunk_count=description.data_chunk_count,
        extent_count=len(used),
        json_size=len(text),
        extents_size=len(extents),
        reserved_2=bytes(8),
        json_digest=blake3(text).digest(),
        extents_digest=blake3(extents).digest(),
        prefix_digest=bytes(DIGEST_SIZE),
    )[:-DIGEST_SIZE]
    return b"".join((prefix, blake3(prefix).digest(), text, extents))


def decode_prefix(payload: bytes | memoryview) -> dict[str, Any]:
    """The prefix's fields, each checked against its limits; payload may end after the prefix.

    Raises:
        ImageDamaged: It is not what was written, or holds a value that cannot be.
        ImageUnsupported: It was written by a newer version.
    """
    if len(payload) < HEADER_PREFIX.size or bytes(payload[:8]) != HEADER_MAGIC:
        raise ImageDamaged("the image's header does not begin as one", found=bytes(payload[:8]).hex())
    fields = HEADER_PREFIX.unpack(payload)
    _check_prefix_digest(payload, fields)
    _check_features(fields)
    _check_limits(fields)
    return fields


def _check_prefix_digest(payload: bytes | memoryview, fields: dict[str, Any]) -> None:
    size = fields["prefix_size"]
    if not 12 + DIGEST_SIZE <= size <= min(MAX_PREFIX_SIZE, len(payload)):
        raise ImageDamaged(f"the prefix of the image's header claims {size} bytes", found=size)
    found = blake3(payload[: size - DIGEST_SIZE]).digest()
    if found != bytes(payload[size - DIGEST_SIZE : size]):
        raise ImageDamaged("the prefix of the image's header is not the one that was written (BLAKE3 differs)")


def _check_features(fields: dict[str, Any]) -> None:
    version, bits = fields["version"], fields["incompatible"]
    if version != FORMAT_VERSION or fields["prefix_size"] != HEADER_PREFIX.size:
        raise ImageUnsupported(
            f"the image has format version {version}; this imager knows version {FORMAT_VERSION}",
            hint=_UPGRADE,
            expected=FORMAT_VERSION,
            found=version,
        )
    unknown = bits & ~INCOMPATIBLE_KNOWN
    if unknown:
        names = [INCOMPATIBLE_NAMES.get(1 << bit, f"bit {bit}") for bit in range(64) if unknown >> bit & 1]
        raise ImageUnsupported(
            f"the image needs features that this imager does not know: {', '.join(names)}",
            hint=_UPGRADE,
            found=f"{unknown:#x}",
        )


def _check_limits(fields: dict[str, Any]) -> None:
    chunk_size = fields["chunk_size"]
    limits = (
        ("reserved", 0, 0),
        ("disk_size", 1, MAX_DISK_SIZE),
        ("chunk_size", MIN_CHUNK_SIZE, MAX_CHUNK_SIZE),
        ("sector_size", 1, MAX_SECTOR_SIZE),
        ("chunk_count", 0, MAX_FRAMES),
        ("extent_count", 0, MAX_EXTENT_COUNT),
        ("json_size", 2, MAX_JSON_SIZE),
        ("extents_size", 1, MAX_EXTENTS_SIZE),
    )
    for name, least, most in limits:
        if not least <= fields[name] <= most:
            raise ImageDamaged(
                f"the image's header has {name} {fields[name]}; {least} to {most} are possible", found=fields[name]
            )
    if chunk_size & (chunk_size - 1):
        raise ImageDamaged(f"the image's header has chunk_size {chunk_size}, not a power of two", found=chunk_size)
    if any(fields["parent_id"]) or any(fields["parent_root_digest"]) or any(fields["reserved_2"]):
        raise ImageDamaged("the image's header fills fields that must be zero without their feature bits")


def decode_header(payload: bytes | memoryview) -> tuple[Description, bytes]:
    """The Description in a header's payload, and the prefix's digest.

    Raises:
        ImageDamaged: It is not what was written, or makes no sense.
        ImageUnsupported: It was written by a newer version.
    """
    fields = decode_prefix(payload)
    payload = memoryview(payload)
    json_end = HEADER_PREFIX.size + fields["json_size"]
    end = json_end + fields["extents_size"]
    if len(payload) != end:
        raise ImageDamaged(f"the image's header has {len(payload)} bytes; its prefix says {end}", expected=end)
    text, extents = payload[HEADER_PREFIX.size : json_end], payload[json_end:]
    for name, part in (("json", text), ("extents", extents)):
        if blake3(part).digest() != fields[f"{name}_digest"]:
            raise ImageDamaged(f"the {name} of the image's header is not what was written (BLAKE3 differs)")
    return _describe(fields, text, extents), fields["prefix_digest"]


def _describe(fields: dict[str, Any], text: memoryview, extents: memoryview) -> Description:
    content = decode_header_json(text, fields["disk_size"])
    return Description(
        image_id=UUID(bytes=fields["image_id"]),
        set_id=UUID(bytes=fields["set_id"]),
        disk_size=fields["disk_size"],
        sector_size=fields["sector_size"],
        chunk_size=fields["chunk_size"],
        chunk_count=fields["chunk_count"],
        layout=content.layout,
        used=decode_extents(extents, fields["extent_count"], fields["disk_size"]),
        created=content.created,
        tool=content.tool,
        compressor=content.compressor,
        level=content.level,
        comment=content.comment,
        options=content.options,
        set_members=content.set_members or (),
        answers=content.answers or "",
    )


def _check_chunks(description: Description) -> None:
    if description.data_chunk_count > description.chunks.count:
        raise ImageDamaged(
            f"the image's header claims {description.chunk_count} chunks; its disk has {description.chunks.count} "
            "in use",
            expected=description.chunks.count,
            found=description.chunk_count,
        )


@dataclass(frozen=True)
class Header:
    """The header as it was found."""

    description: Description
    prefix_digest: bytes
    payload_digest: bytes
    frame_size: int


def _check_beginning(cursor: Cursor) -> None:
    """Refuse what is no image, as far as it can be looked at without passing over it."""
    source = cursor.source
    if cursor.offset or not source.seekable:
        return
    head = bytearray(LOOKED_AT_BYTES)
    del head[source.read_at_into(0, memoryview(head)) :]
    is_cut_off = head and RECORD_MAGIC.to_bytes(4, "little").startswith(head[:4])
    if not is_cut_off:
        raise no_image(source.name, bytes(head))


def read_header(cursor: Cursor) -> Header:
    """The header record, which starts the image.

    Raises:
        ImageDamaged: This is no image, or its header is damaged.
        ImageIncomplete: It ends inside.
        ImageUnsupported: It needs a newer version.
    """
    name, start = cursor.source.name, cursor.offset
    _check_beginning(cursor)
    magic, size = cursor.take_frame_header("the header")
    head = cursor.take(min(size, 12), "the header")
    if magic not in (RECORD_MAGIC, COPY_MAGIC) or head[:8] != HEADER_MAGIC:
        raise ImageDamaged(
            f"{name} is not an image: no header at byte {start}",
            hint="If it should be one, its beginning is damaged: imager salvage looks for the header's copy.",
            path=name,
        )
    prefix_size = min(size, MAX_PREFIX_SIZE, int.from_bytes(head[10:12], "little"))
    head += cursor.take(max(0, prefix_size - len(head)), "the header")
    fields = decode_prefix(head)
    if HEADER_PREFIX.size + fields["json_size"] + fields["extents_size"] != size:
        raise ImageDamaged(f"the header of {name} and its frame differ in length", path=name, found=size)
    payload = bytearray(size)
    payload[: len(head)] = head
    cursor.take_into(memoryview(payload)[len(head) :], "the header")
    description, prefix_digest = decode_header(memoryview(payload))
    digest = blake3(payload).digest()
    # With a million ranges this is 16 MB, and so is what follows.
    del payload
    _check_chunks(description)
    return Header(description, prefix_digest, digest, SKIPPABLE_HEADER.size + size)
