# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot entries as the firmware keeps them: load options, and the order in which they are tried.

References:
    UEFI Specification 2.10: 3.1.3 Load Options, 3.3 Globally Defined Variables (Boot####, BootOrder, BootCurrent).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from imager.booting.device_path import (
    FilePath,
    HardDrive,
    Node,
    device_path_bytes,
    file_of,
    hard_drive_of,
    parse_device_path,
)
from imager.booting.utf16 import Malformed, decoded, encoded, end_of_string

_HEAD: Final = Struct("<IH")
ACTIVE: Final = 0x00000001
"""LOAD_OPTION_ACTIVE: the boot manager may choose the entry by itself."""
MOST_BYTES: Final = 64 * 1024
"""No firmware keeps a variable as large."""


@dataclass(frozen=True)
class LoadOption:
    """What a Boot#### variable says.

    Attributes:
        description: The name that a person chooses by.
        path: What is loaded: the nodes of the first device path.
        attributes: LOAD_OPTION_ACTIVE and its like.
        arguments: What the loaded program gets, as bytes: only it knows their meaning.
    """

    description: str
    path: tuple[Node, ...]
    attributes: int = ACTIVE
    arguments: bytes = b""

    @property
    def partition(self) -> HardDrive | None:
        """The partition that it points to; None for what is no installed system (a drive, the network, the shell)."""
        return hard_drive_of(self.path)

    @property
    def file(self) -> str:
        """The file that it loads, with backslashes; empty when it names none."""
        return file_of(self.path)

    @property
    def is_active(self) -> bool:
        """Whether the boot manager may choose it."""
        return bool(self.attributes & ACTIVE)

    def to_bytes(self) -> bytes:
        """The variable's content."""
        path = device_path_bytes(self.path)
        return _HEAD.pack(self.attributes, len(path)) + encoded(self.description) + path + self.arguments


def load_option(label: str, partition: HardDrive, file: str, arguments: bytes = b"") -> LoadOption:
    """An entry for a file on a partition."""
    return LoadOption(label, (partition, FilePath(file)), ACTIVE, arguments)


def parse_load_option(raw: bytes) -> LoadOption:
    """A boot entry from the content of its variable.

    Raises:
        Malformed: It is none.
    """
    if not _HEAD.size <= len(raw) <= MOST_BYTES:
        raise Malformed(f"a boot entry has {len(raw)} bytes")
    attributes, path_bytes = _HEAD.unpack_from(raw)
    start = end_of_string(raw, _HEAD.size)
    if start + path_bytes > len(raw):
        raise Malformed(f"a boot entry of {len(raw)} bytes says that its path has {path_bytes}")
    return LoadOption(
        description=decoded(raw[_HEAD.size : start]),
        path=parse_device_path(raw[start : start + path_bytes]),
        attributes=attributes,
        arguments=raw[start + path_bytes :],
    )


def parse_boot_order(raw: bytes) -> tuple[int, ...]:
    """The numbers of the entries, the first to be tried first.

    Raises:
        Malformed: It is no list of 16-bit numbers.
    """
    if len(raw) % 2 or len(raw) > MOST_BYTES:
        raise Malformed(f"the boot order has {len(raw)} bytes")
    return tuple(int.from_bytes(raw[at : at + 2], "little") for at in range(0, len(raw), 2))


def boot_order_bytes(numbers: Sequence[int]) -> bytes:
    """The variable of an order."""
    return b"".join(number.to_bytes(2, "little") for number in numbers)
