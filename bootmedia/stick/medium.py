# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a medium matters for a stick: its size, its partition table, and whether it is one of ours.

References: ECMA-119 8.4 (primary volume descriptor); the MBR's entries as in UEFI 2.10, 5.2.1.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imager.errors import StoreError, UsageError

SECTOR_BYTES: Final = 512
HEAD_BYTES: Final = 64 << 10
"""Enough of a disk or an ISO file to know what it is."""
DATA_NUMBER: Final = 3
"""Of the entry that the data partition has; the medium itself has those before it."""
_DESCRIPTOR: Final = 16 * 2048
_VOLUME_NAME: Final = slice(_DESCRIPTOR + 40, _DESCRIPTOR + 72)
_VOLUME_NAMES: Final = (b"RECOVERY_BOOT", b"RECOVERY")
_TABLE: Final = 446
_DISK_SIGNATURE: Final = slice(440, 444)
_SIGNATURE: Final = slice(510, 512)
_EFI: Final = 0xEF
_UNFINISHED: Final = slice(16, 48)
_UNFINISHED_MARK: Final = b"bootmedia write: unfinished".ljust(32, b"\0")
_NOT_BOOTABLE: Final = b"\xcd\x18\xf4\xeb\xfd"  # int 18h: the BIOS tries the next disk; else the machine halts


@dataclass(frozen=True)
class Entry:
    """A partition of an MBR, in bytes."""

    kind: int
    start: int
    end: int


@dataclass(frozen=True)
class Medium:
    """An ISO file that `bootmedia build` made."""

    path: Path
    size_bytes: int
    head: bytes
    """Its first HEAD_BYTES."""


def is_medium(head: bytes) -> bool:
    """Whether a disk or file begins as our media do: ISO 9660 of our name, and a table with a partition for UEFI."""
    return (
        head[_DESCRIPTOR + 1 : _DESCRIPTOR + 6] == b"CD001"
        and head[_VOLUME_NAME].strip() in _VOLUME_NAMES
        and any(entry.kind == _EFI for entry in entries(head).values())
    )


def is_ours(head: bytes) -> bool:
    """Whether a disk was written by us, to its end or not."""
    return is_medium(head) or head[_UNFINISHED] == _UNFINISHED_MARK


def entries(head: bytes) -> dict[int, Entry]:
    """The partitions of an MBR by number."""
    if head[_SIGNATURE] != b"\x55\xaa":
        return {}
    found = {}
    for number in range(1, 5):
        kind, first, count = struct.unpack_from("<4xB3xII", head, _TABLE + 16 * (number - 1))
        if kind and count:
            found[number] = Entry(kind, first * SECTOR_BYTES, (first + count) * SECTOR_BYTES)
    return found


def with_data_entry(head: bytes, entry: Entry) -> bytes:
    """The same first bytes with an entry for the data partition, and a disk signature: Windows would write one else."""
    place = _TABLE + 16 * (DATA_NUMBER - 1)
    signature = hashlib.sha256(head).digest()[:4]
    packed = _packed(entry)
    return head[: _DISK_SIGNATURE.start] + signature + head[_DISK_SIGNATURE.stop : place] + packed + head[place + 16 :]


def unfinished_sector(entry: Entry) -> bytes:
    """The first sector while a medium is written before a data partition that is kept.

    It starts nothing, and still says where the data lies: a write that was cut short can be done again without losing
    them.
    """
    sector = bytearray(SECTOR_BYTES)
    sector[: len(_NOT_BOOTABLE)] = _NOT_BOOTABLE
    sector[_UNFINISHED] = _UNFINISHED_MARK
    sector[_SIGNATURE] = b"\x55\xaa"
    return with_data_entry(bytes(sector), entry)


def _packed(entry: Entry) -> bytes:
    first, count = entry.start // SECTOR_BYTES, (entry.end - entry.start) // SECTOR_BYTES
    # The old addresses of cylinder, head and sector say "too far for them".
    return struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", entry.kind, b"\xfe\xff\xff", first, count)


def read_medium(path: Path) -> Medium:
    """Look at an ISO file.

    Raises:
        StoreError: It cannot be read.
        UsageError: It is no medium of ours.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            size = file.seek(0, 2)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror}", hint="bootmedia build makes a medium.", path=str(path)
        ) from error
    reach = max((entry.end for entry in entries(head).values()), default=0)
    if not is_medium(head) or DATA_NUMBER in entries(head):
        raise UsageError(
            f"{path} is no medium that bootmedia build made",
            hint="Other ISO files are written as they are: dd if=FILE of=/dev/sdX bs=4M oflag=direct conv=fsync",
        )
    if size < reach:
        raise UsageError(
            f"{path} is incomplete: {size} bytes, and its partitions reach to {reach}", hint="Build it again."
        )
    return Medium(path, size, head)
