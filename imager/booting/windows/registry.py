# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads registry files of Windows (hives): SYSTEM, SOFTWARE, and the boot menu's BCD, which is one too.

A hive is a tree of keys in cells, which name each other by offsets. Every offset, count and length is checked when it
is followed: a hive comes from an image. Nothing here walks the tree by itself, so a key that is its own child leads to
no endless loop: whoever asks for a path gets as deep as the path is.

References:
    M. Suhanov, Windows registry file format specification: "Base block", "Cells", "Key node", "Key value".
    libyal/libregf, Windows NT Registry File (REGF) format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct, error
from typing import Final, Protocol

from imager.errors import VolumeFailed

BASE_BLOCK_BYTES: Final = 4096
MOST_BYTES: Final = 2**31
"""Larger hives cannot be: an offset's top bit has another meaning."""
_SUM_WORDS: Final = Struct("<127I")
_CHECKSUM_AT: Final = 508
_BASE_FIELDS: Final = Struct("<4xII8xII8xII")
_NODE: Final = Struct("<2sH16xI4xI4xII28xH")
_NODE_NAME_AT: Final = 76
_VALUE: Final = Struct("<2sHIIIH")
_VALUE_NAME_AT: Final = 20
_NONE: Final = 0xFFFFFFFF
_NAME_IS_LATIN: Final = 0x0020
_VALUE_NAME_IS_LATIN: Final = 0x0001
_DATA_IS_INLINE: Final = 0x80000000
_SEGMENT_BYTES: Final = 16344
_MOST_VALUE_BYTES: Final = 64 * 1024 * 1024

REG_SZ, REG_EXPAND_SZ, REG_BINARY, REG_DWORD, REG_MULTI_SZ = 1, 2, 3, 4, 7


class HiveDamaged(VolumeFailed):
    """A registry file that is not what its format says."""


@dataclass(frozen=True)
class Value:
    """A value of a key.

    Attributes:
        name: "" for the key's default value.
        type: REG_SZ and its like.
        data: As it is stored.
    """

    name: str
    type: int
    data: bytes

    @property
    def text(self) -> str:
        """Of a string: up to its zero."""
        return self.data[: len(self.data) & ~1].decode("utf-16-le", errors="replace").split("\0", 1)[0]

    @property
    def number(self) -> int | None:
        """Of a REG_DWORD; None for another value."""
        return int.from_bytes(self.data, "little") if self.type == REG_DWORD and len(self.data) == 4 else None


class Raw(Protocol):
    """The bytes of a registry file, wherever they are."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, place: slice, /) -> bytes:
        """Some of them."""


class Hive:
    """A registry file.

    Attributes:
        is_clean: Whether all changes are in the file. Else some are in its log only, and Windows adds them when it
            starts next.
    """

    def __init__(self, raw: Raw, name: str) -> None:
        """Check the file's first block.

        Args:
            raw: All of it.
            name: What people call it.

        Raises:
            HiveDamaged: It is no hive, or its first block is damaged.
        """
        self._raw = raw
        self._name = name
        head = raw[:BASE_BLOCK_BYTES]
        if len(head) < BASE_BLOCK_BYTES or not head.startswith(b"regf"):
            raise HiveDamaged(f"{name} is no registry file: expected regf at its start, found {head[:4]!r}", path=name)
        first, second, major, minor, root, size = _BASE_FIELDS.unpack_from(head)
        expected = _checksum(head)
        found = int.from_bytes(head[_CHECKSUM_AT : _CHECKSUM_AT + 4], "little")
        if found != expected:
            raise self.damaged(f"the checksum of its first block is {found:#010x}, expected {expected:#010x}")
        if major != 1 or not 3 <= minor <= 6:
            raise self.damaged(f"version {major}.{minor} of the format is not known")
        self._end = BASE_BLOCK_BYTES + size
        if self._end > len(raw):
            raise self.damaged(f"it should have {self._end} bytes and has {len(raw)}: it was cut short")
        self.is_clean = first == second
        self._has_segments = minor > 3
        self._root = root

    def damaged(self, what: str) -> HiveDamaged:
        """An error about this file."""
        return HiveDamaged(f"the registry file {self._name} is damaged: {what}", path=self._name)

    @property
    def root(self) -> Key:
        """The top of the tree."""
        return Key(self, self._root)

    def key(self, path: str) -> Key | None:
        """The key at a path with backslashes, in any case; None when there is none."""
        found: Key | None = self.root
        for name in filter(None, path.split("\\")):
            found = found.subkey(name) if found else None
        return found

    def cell(self, offset: int) -> bytes:
        """The content of a cell that is in use.

        Raises:
            HiveDamaged: There is none.
        """
        start = BASE_BLOCK_BYTES + offset
        if offset % 8 or start + 4 > self._end:
            raise self.damaged(f"a cell is said to lie at {offset:#x}")
        size = -int.from_bytes(self._raw[start : start + 4], "little", signed=True)
        if size < 8 or size % 8 or start + size > self._end:
            raise self.damaged(f"the cell at {offset:#x} is not in use, or says that it has {size} bytes")
        return self._raw[start + 4 : start + size]

    def unpack(self, layout: Struct, cell: bytes, signature: bytes) -> tuple[int, ...]:
        """The fields of a cell behind its signature.

        Raises:
            HiveDamaged: It is a cell of another kind, or too short.
        """
        try:
            found, *fields = layout.unpack_from(cell)
        except error as problem:
            raise self.damaged(f"a cell {signature!r} has {len(cell)} bytes") from problem
        if found != signature:
            raise self.damaged(f"a cell starts with {found!r}, expected {signature!r}")
        return tuple(fields)

    def offsets(self, cell: bytes, count: int, *, at: int = 0, step: int = 4) -> list[int]:
        """Offsets of other cells that lie in a cell.

        Raises:
            HiveDamaged: It is too short for so many.
        """
        if at + count * step > len(cell):
            raise self.damaged(f"a list of {len(cell)} bytes is said to have {count} entries")
        places = range(at, at + count * step, step)
        return [int.from_bytes(cell[place : place + 4], "little") for place in places]

    def data(self, size: int, offset: int) -> bytes:
        """The data of a value.

        Raises:
            HiveDamaged: It is longer than what is there.
        """
        if size & _DATA_IS_INLINE:
            return offset.to_bytes(4, "little")[: size & ~_DATA_IS_INLINE]
        if size == 0:
            return b""
        if size > _MOST_VALUE_BYTES:
            raise self.damaged(f"a value is said to have {size} bytes")
        cell = self.cell(offset)
        if self._has_segments and size > _SEGMENT_BYTES and cell.startswith(b"db"):
            cell = self._segments(cell)
        if len(cell) < size:
            raise self.damaged(f"a value of {size} bytes lies in a cell of {len(cell)}")
        return cell[:size]

    def _segments(self, cell: bytes) -> bytes:
        count, listed = int.from_bytes(cell[2:4], "little"), int.from_bytes(cell[4:8], "little")
        if count * _SEGMENT_BYTES > _MOST_VALUE_BYTES:
            raise self.damaged(f"a value is said to have {count} pieces")
        return b"".join(self.cell(each)[:_SEGMENT_BYTES] for each in self.offsets(self.cell(listed), count))


def _checksum(head: bytes) -> int:
    """Of the first block: its first 127 words, combined by exclusive or; 0 and -1 have other meanings."""
    total = 0
    for word in _SUM_WORDS.unpack_from(head):
        total ^= word
    return {0: 1, _NONE: _NONE - 1}.get(total, total)


class Key:
    """A key of a hive."""

    def __init__(self, hive: Hive, offset: int) -> None:
        self._hive = hive
        self._cell = hive.cell(offset)
        fields = hive.unpack(_NODE, self._cell, b"nk")
        self._flags, self._subkey_count, self._subkeys, self._value_count, self._values, self._name_bytes = fields

    @property
    def name(self) -> str:
        """As it is stored."""
        raw = self._cell[_NODE_NAME_AT : _NODE_NAME_AT + self._name_bytes]
        return _text(raw, is_latin=bool(self._flags & _NAME_IS_LATIN))

    def subkeys(self) -> Iterator[Key]:
        """All of them.

        Raises:
            HiveDamaged: The list of them is damaged.
        """
        if not self._subkey_count:
            return
        offsets = self._listed(self._hive.cell(self._subkeys), is_top=True)
        if len(offsets) != self._subkey_count:
            raise self._hive.damaged(f"a key should have {self._subkey_count} subkeys and lists {len(offsets)}")
        yield from (Key(self._hive, each) for each in offsets)

    def _listed(self, cell: bytes, *, is_top: bool) -> list[int]:
        kind, count = cell[:2], int.from_bytes(cell[2:4], "little")
        if kind in (b"lf", b"lh"):
            return self._hive.offsets(cell, count, at=4, step=8)
        if kind == b"li":
            return self._hive.offsets(cell, count, at=4)
        if kind == b"ri" and is_top:
            found: list[int] = []
            for each in self._hive.offsets(cell, count, at=4):
                found += self._listed(self._hive.cell(each), is_top=False)
                if len(found) > self._subkey_count:
                    break
            return found
        raise self._hive.damaged(f"a list of subkeys is of the kind {kind!r}")

    def subkey(self, name: str) -> Key | None:
        """The subkey of that name, in any case."""
        wanted = name.upper()
        return next((each for each in self.subkeys() if each.name.upper() == wanted), None)

    def values(self) -> tuple[Value, ...]:
        """All of them.

        Raises:
            HiveDamaged: One of them is damaged.
        """
        if not self._value_count:
            return ()
        offsets = self._hive.offsets(self._hive.cell(self._values), self._value_count)
        return tuple(self._value(self._hive.cell(each)) for each in offsets)

    def _value(self, cell: bytes) -> Value:
        name_bytes, size, offset, kind, flags = self._hive.unpack(_VALUE, cell, b"vk")
        raw = cell[_VALUE_NAME_AT : _VALUE_NAME_AT + name_bytes]
        name = _text(raw, is_latin=bool(flags & _VALUE_NAME_IS_LATIN))
        return Value(name, kind, self._hive.data(size, offset))

    def value(self, name: str) -> Value | None:
        """The value of that name, in any case."""
        wanted = name.upper()
        return next((each for each in self.values() if each.name.upper() == wanted), None)


def _text(raw: bytes, *, is_latin: bool) -> str:
    return raw.decode("latin-1") if is_latin else raw[: len(raw) & ~1].decode("utf-16-le", errors="replace")
