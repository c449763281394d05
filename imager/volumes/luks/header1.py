# SPDX-License-Identifier: GPL-3.0-or-later
"""LUKS1's header: one sector and a bit, big-endian, with no checksum and no copy.

References:
    LUKS On-Disk Format Specification, version 1.2.3: section 2.2 (phdr), section 6 (constants).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from imager.volumes.luks.ciphers import parse_cipher
from imager.volumes.luks.model import (
    MAX_PBKDF2_ITERATIONS,
    SECTOR_BYTES,
    Header,
    Kdf,
    KeyDigest,
    KeySlot,
    NotOpenable,
    Opening,
    Payload,
    check_area,
    check_payload,
    text_of,
)

_PHDR: Final = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT: Final = struct.Struct(">II32sII")
_SLOTS: Final = 8
_SLOT_ENABLED: Final = 0x00AC71F3
_SLOT_DISABLED: Final = 0x0000DEAD

PHDR_BYTES: Final = _PHDR.size + _SLOTS * _SLOT.size
assert PHDR_BYTES == 592  # noqa: S101 - the specification's size, checked once when this is imported


class _Phdr(NamedTuple):
    magic: bytes
    version: int
    cipherName: bytes
    cipherMode: bytes
    hashSpec: bytes
    payloadOffset: int
    keyBytes: int
    mkDigest: bytes
    mkDigestSalt: bytes
    mkDigestIterations: int
    uuid: bytes

    @property
    def cipher(self) -> str:
        return f"{text_of(self.cipherName)}-{text_of(self.cipherMode)}"


class _Slot(NamedTuple):
    active: int
    iterations: int
    salt: bytes
    keyMaterialOffset: int
    stripes: int


def parse(content: bytes, container_bytes: int) -> Header:
    """Read a header that starts with LUKS1's magic and version; content holds at least PHDR_BYTES."""
    phdr = _Phdr(*_PHDR.unpack_from(content))
    slots = [_Slot(*_SLOT.unpack_from(content, _PHDR.size + number * _SLOT.size)) for number in range(_SLOTS)]
    enabled = sum(slot.active == _SLOT_ENABLED for slot in slots)
    header = Header(
        1,
        text_of(phdr.uuid),
        facts={"version": "1", "cipher": phdr.cipher, "key slots": f"{enabled} of {_SLOTS}"},
    )
    try:
        return Header(1, header.uuid, opening=_opening(phdr, slots, container_bytes), facts=header.facts)
    except NotOpenable as error:
        return header.blocked(str(error))


def _opening(phdr: _Phdr, slots: list[_Slot], container_bytes: int) -> Opening:
    offset = phdr.payloadOffset * SECTOR_BYTES
    size = max(0, container_bytes - offset) // SECTOR_BYTES * SECTOR_BYTES
    payload = Payload(offset, size, phdr.cipher)
    check_payload(payload, container_bytes)
    parse_cipher(phdr.cipher).check_key(phdr.keyBytes)
    digest = KeyDigest(text_of(phdr.hashSpec), phdr.mkDigestSalt, phdr.mkDigestIterations, phdr.mkDigest)
    if not 0 < digest.iterations <= MAX_PBKDF2_ITERATIONS:
        raise NotOpenable(f"its key digest takes {digest.iterations} iterations")
    found = [_key_slot(phdr, number, slot, offset) for number, slot in enumerate(slots) if _is_enabled(number, slot)]
    if not found:
        raise NotOpenable("it has no key slot: its key was erased")
    return Opening(payload, tuple(found), digest)


def _is_enabled(number: int, slot: _Slot) -> bool:
    if slot.active not in (_SLOT_ENABLED, _SLOT_DISABLED):
        raise NotOpenable(f"key slot {number} is in the unknown state {slot.active:#x}")
    return slot.active == _SLOT_ENABLED


def _key_slot(phdr: _Phdr, number: int, slot: _Slot, payload_offset: int) -> KeySlot:
    hash_name = text_of(phdr.hashSpec)
    found = KeySlot(
        number,
        phdr.keyBytes,
        Kdf("pbkdf2", slot.salt, hash_name, slot.iterations),
        slot.stripes,
        hash_name,
        slot.keyMaterialOffset * SECTOR_BYTES,
        phdr.cipher,
        phdr.keyBytes,
    )
    sectors = -(-found.material_bytes // SECTOR_BYTES)
    check_area(found, sectors * SECTOR_BYTES, PHDR_BYTES, payload_offset)
    return found
