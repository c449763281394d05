# SPDX-License-Identifier: GPL-3.0-or-later
"""The image format, version 1: its structures, magic numbers and limits, and nothing that acts on them.

It knows what docs/reference/image-format.md specifies; names are that document's. A test compares the tables here
with the tables there. All integers are little-endian. Frames are those of RFC 8878 (Zstandard); the last one is the
seek table of zstd's contrib/seekable_format/zstd_seekable_compression_format.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20

FORMAT_VERSION: Final = 1
DIGEST_SIZE: Final = 32
"""BLAKE3, 256 bits, unkeyed."""

# Magic_Number of frames. RFC 8878 gives 0x184D2A50 to 0x184D2A5F to skippable frames, and this format takes three.
ZSTD_MAGIC: Final = 0xFD2FB528
SKIPPABLE_FIRST: Final = 0x184D2A50
SKIPPABLE_LAST: Final = 0x184D2A5F
COPY_MAGIC: Final = 0x184D2A5C
RECORD_MAGIC: Final = 0x184D2A5D
SEEK_TABLE_MAGIC: Final = 0x184D2A5E
SEEKABLE_MAGIC: Final = 0x8F92EAB1

# Records begin with their name: BMRI for bare-metal restore image, and four letters for what follows.
HEADER_MAGIC: Final = b"BMRIHEAD"
GROUP_MAGIC: Final = b"BMRIGRUP"
INDEX_MAGIC: Final = b"BMRIINDX"
TRAILER_MAGIC: Final = b"BMRITRLR"
TAIL_MAGIC: Final = b"BMRITAIL"

INCOMPATIBLE_PARENT: Final = 1 << 0
"""The image holds only what differs from its parent."""
INCOMPATIBLE_REPLACED: Final = 1 << 1
"""The trailer's Extents or Layout stand in for the header's."""
INCOMPATIBLE_NAMES: Final = {INCOMPATIBLE_PARENT: "incremental", INCOMPATIBLE_REPLACED: "replaced layout"}
INCOMPATIBLE_KNOWN: Final = 0
"""Version 1 has given meaning to the bits above and implements none of them."""

# Absolute limits: they hold where the size of the file is not known, too.
MAX_DISK_SIZE: Final = 2**63 - 1
MIN_CHUNK_SIZE: Final = 64 * KIB
MAX_CHUNK_SIZE: Final = 64 * MIB
MIN_WRITTEN_CHUNK_SIZE: Final = 256 * KIB
MAX_WRITTEN_CHUNK_SIZE: Final = 4 * MIB
DEFAULT_CHUNK_SIZE: Final = MIB
MAX_SECTOR_SIZE: Final = MIB
MAX_PREFIX_SIZE: Final = 4 * KIB
MAX_JSON_SIZE: Final = 4 * MIB
MAX_EXTENT_COUNT: Final = 1_000_000
MAX_EXTENTS_SIZE: Final = MAX_EXTENT_COUNT * 16 + MIB
MAX_GROUP_CHUNKS: Final = 32
MAX_GROUP_CONTENT: Final = 32 * MIB
WRITTEN_GROUP_CHUNKS: Final = 16
WRITTEN_GROUP_CONTENT: Final = 8 * MIB
MAX_SEGMENT_CHUNKS: Final = 16_384
MAX_FRAMES: Final = 2**27
MAX_ZERO_FRAME_CONTENT: Final = 64 * MIB
MAX_WINDOW_SIZE: Final = 8 * MIB


def frame_bound(content_length: int) -> int:
    """The longest that a data frame of so much content may be: raw blocks and their headers."""
    return content_length + (content_length >> 8) + 64


def chunks_per_group(chunk_size: int) -> int:
    """How many chunks this writer puts into every group but the last: few, as memory holds whole groups."""
    return max(1, min(WRITTEN_GROUP_CHUNKS, WRITTEN_GROUP_CONTENT // chunk_size))


@dataclass(frozen=True)
class Structure:
    """A fixed run of fields: a table of (name, type), the types those of the struct module."""

    name: str
    size: int
    rows: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        if self._codec.size != self.size:
            raise ValueError(f"{self.name} takes {self._codec.size} bytes, not {self.size}")

    @cached_property
    def _codec(self) -> struct.Struct:
        return struct.Struct("<" + "".join(kind for _, kind in self.rows))

    def pack(self, **values: Any) -> bytes:  # noqa: ANN401  # integers and bytes, checked by struct
        """The structure's bytes; every field must be given."""
        return self._codec.pack(*(values.pop(name) for name, _ in self.rows))

    def unpack(self, content: bytes | bytearray | memoryview, offset: int = 0) -> dict[str, Any]:
        """The fields by name; content must reach far enough."""
        values = self._codec.unpack_from(content, offset)
        return {name: value for (name, _), value in zip(self.rows, values, strict=True)}

    def offset_of(self, field: str) -> int:
        """Where a field starts."""
        names = [name for name, _ in self.rows]
        before = self.rows[: names.index(field)]
        return struct.calcsize("<" + "".join(kind for _, kind in before))


SKIPPABLE_HEADER: Final = Structure(
    "Skippable frame header",
    8,
    (
        ("Magic_Number", "I"),
        ("Frame_Size", "I"),
    ),
)

HEADER_PREFIX: Final = Structure(
    "Header prefix",
    256,
    (
        ("magic", "8s"),
        ("version", "H"),
        ("prefix_size", "H"),
        ("reserved", "I"),
        ("incompatible", "Q"),
        ("compatible", "Q"),
        ("image_id", "16s"),
        ("set_id", "16s"),
        ("parent_id", "16s"),
        ("parent_root_digest", "32s"),
        ("disk_size", "Q"),
        ("chunk_size", "I"),
        ("sector_size", "I"),
        ("chunk_count", "Q"),
        ("extent_count", "Q"),
        ("json_size", "I"),
        ("extents_size", "I"),
        ("reserved_2", "8s"),
        ("json_digest", "32s"),
        ("extents_digest", "32s"),
        ("prefix_digest", "32s"),
    ),
)

GROUP_FIELDS: Final = Structure(
    "Group fields",
    48,
    (
        ("magic", "8s"),
        ("image_id", "16s"),
        ("group_number", "Q"),
        ("chunk_count", "I"),
        ("reserved", "I"),
        ("trailing_zero_size", "Q"),
    ),
)
GROUP_COLUMNS: Final = (("chunk_number", "Q"), ("zero_size", "Q"), ("frame_size", "I"), ("digest", "32s"))

INDEX_FIELDS: Final = Structure(
    "Index segment fields",
    32,
    (
        ("magic", "8s"),
        ("image_id", "16s"),
        ("segment_number", "I"),
        ("chunk_count", "I"),
    ),
)
INDEX_COLUMNS: Final = (("chunk_number", "Q"), ("file_offset", "Q"), ("frame_size", "I"), ("digest", "32s"))

TRAILER_FIELDS: Final = Structure(
    "Trailer fields",
    136,
    (
        ("magic", "8s"),
        ("image_id", "16s"),
        ("index_offset", "Q"),
        ("index_size", "Q"),
        ("segment_count", "I"),
        ("json_size", "I"),
        ("extent_count", "Q"),
        ("extents_size", "I"),
        ("reserved", "I"),
        ("reserved_2", "8s"),
        ("file_digest", "32s"),
        ("root_digest", "32s"),
    ),
)
TRAILER_TAIL: Final = Structure(
    "Trailer tail",
    44,
    (
        ("frame_size", "I"),
        ("tail_magic", "8s"),
        ("digest", "32s"),
    ),
)

SEEK_TABLE_FOOTER: Final = Structure(
    "Seek table footer",
    9,
    (
        ("Number_Of_Frames", "I"),
        ("Seek_Table_Descriptor", "B"),
        ("Seekable_Magic_Number", "I"),
    ),
)

COLUMN_SIZE: Final = 52
"""Bytes of one chunk in a group's or an index segment's columns."""
SEEK_ENTRY_SIZE: Final = 8

MAX_HEADER_PAYLOAD: Final = MAX_PREFIX_SIZE + MAX_JSON_SIZE + MAX_EXTENTS_SIZE
MAX_GROUP_PAYLOAD: Final = GROUP_FIELDS.size + MAX_GROUP_CHUNKS * COLUMN_SIZE + DIGEST_SIZE
MAX_INDEX_PAYLOAD: Final = INDEX_FIELDS.size + MAX_SEGMENT_CHUNKS * COLUMN_SIZE + DIGEST_SIZE
MAX_TRAILER_PAYLOAD: Final = TRAILER_FIELDS.size + MAX_JSON_SIZE + TRAILER_TAIL.size
