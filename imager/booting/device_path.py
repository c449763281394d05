# SPDX-License-Identifier: GPL-3.0-or-later
"""EFI device paths: how firmware names a partition and a file on it.

Only the two kinds of node that a boot entry of an installed system has are understood; all others stay bytes. The
bytes come from the firmware's memory, which any program on the machine may have written: each length is checked.

References:
    UEFI Specification 2.10: 10.3.1 Generic Device Path Structures, 10.3.5.1 Hard Drive, 10.3.5.4 File Path.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from imager.booting.utf16 import Malformed, decoded, encoded

_HEADER: Final = Struct("<BBH")
_HARD_DRIVE: Final = Struct("<IQQ16sBB")
_MEDIA: Final = 0x04
_MEDIA_HARD_DRIVE: Final = 0x01
_MEDIA_FILE_PATH: Final = 0x04
_END: Final = 0x7F
_END_ENTIRE: Final = 0xFF
_MBR_FORMAT: Final = 1
_GPT_FORMAT: Final = 2
_NO_SIGNATURE, _MBR_SIGNATURE, _GUID_SIGNATURE = 0, 1, 2
MOST_NODES: Final = 256


@dataclass(frozen=True)
class HardDrive:
    """A partition, as firmware knows it.

    Attributes:
        number: Of the partition, from 1.
        start_lba: Its first logical block.
        size_lba: Its length in logical blocks.
        signature: GPT: the partition's unique GUID in lower case. MBR: the disk signature, 8 hexadecimal digits. Empty
            when the entry has none.
        is_gpt: Whether the partition is one of a GPT.
    """

    number: int
    start_lba: int
    size_lba: int
    signature: str
    is_gpt: bool

    def __str__(self) -> str:
        kind = "GPT," if self.is_gpt else "MBR,0x"
        return f"HD({self.number},{kind}{self.signature},{self.start_lba:#x},{self.size_lba:#x})"

    def to_bytes(self) -> bytes:
        """The node."""
        if not self.signature:
            kind, raw = _NO_SIGNATURE, bytes(16)
        elif self.is_gpt:
            kind, raw = _GUID_SIGNATURE, uuid.UUID(self.signature).bytes_le
        else:
            kind, raw = _MBR_SIGNATURE, int(self.signature, 16).to_bytes(16, "little")
        part_format = _GPT_FORMAT if self.is_gpt else _MBR_FORMAT
        body = _HARD_DRIVE.pack(self.number, self.start_lba, self.size_lba, raw, part_format, kind)
        return _HEADER.pack(_MEDIA, _MEDIA_HARD_DRIVE, _HEADER.size + len(body)) + body


@dataclass(frozen=True)
class FilePath:
    """A file on what the nodes before it name, with backslashes between the folders."""

    path: str

    def to_bytes(self) -> bytes:
        """The node."""
        body = encoded(self.path)
        return _HEADER.pack(_MEDIA, _MEDIA_FILE_PATH, _HEADER.size + len(body)) + body


@dataclass(frozen=True)
class OtherNode:
    """Any other node: a device, a message, a vendor's own."""

    type: int
    subtype: int
    body: bytes

    def to_bytes(self) -> bytes:
        """The node."""
        return _HEADER.pack(self.type, self.subtype, _HEADER.size + len(self.body)) + self.body


Node = HardDrive | FilePath | OtherNode


def parse_device_path(raw: bytes) -> tuple[Node, ...]:
    """The nodes of the first device path in some bytes, without its end.

    Raises:
        Malformed: A node is shorter than its kind or longer than what is left, or there is no end.
    """
    nodes: list[Node] = []
    offset = 0
    while len(nodes) <= MOST_NODES:
        if offset + _HEADER.size > len(raw):
            raise Malformed(f"a device path of {len(raw)} bytes has no end")
        kind, subtype, length = _HEADER.unpack_from(raw, offset)
        if length < _HEADER.size or offset + length > len(raw):
            raise Malformed(f"a node at byte {offset} of a device path says that it has {length} bytes")
        if kind == _END and subtype == _END_ENTIRE:
            return tuple(nodes)
        nodes.append(_node(kind, subtype, raw[offset + _HEADER.size : offset + length]))
        offset += length
    raise Malformed(f"a device path has more than {MOST_NODES} nodes")


def _node(kind: int, subtype: int, body: bytes) -> Node:
    if (kind, subtype) == (_MEDIA, _MEDIA_HARD_DRIVE):
        return _hard_drive(body)
    if (kind, subtype) == (_MEDIA, _MEDIA_FILE_PATH):
        return FilePath(decoded(body))
    return OtherNode(kind, subtype, body)


def _hard_drive(body: bytes) -> Node:
    if len(body) != _HARD_DRIVE.size:
        raise Malformed(f"a hard drive node has {len(body)} bytes, expected {_HARD_DRIVE.size}")
    number, start, size, raw, part_format, kind = _HARD_DRIVE.unpack(body)
    if part_format not in (_MBR_FORMAT, _GPT_FORMAT) or kind > _GUID_SIGNATURE:
        return OtherNode(_MEDIA, _MEDIA_HARD_DRIVE, body)  # of a table that nobody defined
    signature = {
        _NO_SIGNATURE: "",
        _MBR_SIGNATURE: f"{int.from_bytes(raw[:4], 'little'):08x}",
        _GUID_SIGNATURE: str(uuid.UUID(bytes_le=raw)),
    }[kind]
    return HardDrive(number, start, size, signature, part_format == _GPT_FORMAT)


def device_path_bytes(nodes: Sequence[Node]) -> bytes:
    """A device path with its end."""
    return b"".join(node.to_bytes() for node in nodes) + _HEADER.pack(_END, _END_ENTIRE, _HEADER.size)


def hard_drive_of(nodes: Sequence[Node]) -> HardDrive | None:
    """The partition that a path leads to; firmware leaves out what comes before it, or does not."""
    return next((node for node in nodes if isinstance(node, HardDrive)), None)


def file_of(nodes: Sequence[Node]) -> str:
    """The file that a path ends in, as one path with backslashes; empty when it names none."""
    pieces = [piece for node in nodes if isinstance(node, FilePath) for piece in _pieces(node.path)]
    return "".join(f"\\{piece}" for piece in pieces)


def _pieces(path: str) -> Iterator[str]:
    return (piece for piece in path.replace("/", "\\").split("\\") if piece)
