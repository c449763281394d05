# SPDX-License-Identifier: GPL-3.0-or-later
"""What LUKS1 and LUKS2 have in common, as their parsers hand it on; every number in it was checked.

Knows neither bytes on disk nor how keys are made.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

MAGIC: Final = b"LUKS\xba\xbe"
SECTOR_BYTES: Final = 512
"""Key areas are encrypted in this unit, and IVs count in it, whatever the payload's sectors are."""
MAX_KEY_BYTES: Final = 128
"""Twice what any cipher here takes; cryptsetup's own limit is 512."""
MAX_STRIPES: Final = 4000
"""Both specifications know no other number; fewer are harmless."""
MAX_PBKDF2_ITERATIONS: Final = 100_000_000
"""Half a minute to minutes; two seconds on a fast machine are five millions."""


class NotOpenable(Exception):
    """Nobody can open the container here, whatever passphrase there is; str() is the reason, as a clause."""


@dataclass(frozen=True)
class Kdf:
    """How a passphrase becomes the key of a key slot's area.

    Attributes:
        type: pbkdf2, argon2i or argon2id.
        salt: As it is.
        hash: Of pbkdf2; empty for Argon2.
        iterations: Of pbkdf2; passes over memory of Argon2.
        memory_kib: Of Argon2.
        lanes: Of Argon2.
    """

    type: str
    salt: bytes
    hash: str = ""
    iterations: int = 0
    memory_kib: int = 0
    lanes: int = 0


@dataclass(frozen=True)
class KeySlot:
    """A copy of the volume key, encrypted with what one passphrase yields and spread over stripes."""

    number: int
    key_bytes: int
    kdf: Kdf
    stripes: int
    af_hash: str
    area_offset: int
    area_cipher: str
    area_key_bytes: int
    priority: int = 1
    """0: only when it is asked for; 2: before the others."""

    @property
    def material_bytes(self) -> int:
        """Length of the stripes."""
        return self.key_bytes * self.stripes


@dataclass(frozen=True)
class KeyDigest:
    """What proves that a volume key is the right one."""

    hash: str
    salt: bytes
    iterations: int
    digest: bytes


@dataclass(frozen=True)
class Payload:
    """Where the ciphertext lies, and how it is encrypted."""

    offset: int
    size: int
    cipher: str
    sector_bytes: int = SECTOR_BYTES
    iv_tweak: int = 0

    @property
    def end(self) -> int:
        """The byte after the last sector."""
        return self.offset + self.size


@dataclass(frozen=True)
class Opening:
    """All that opening a container takes, beside a passphrase."""

    payload: Payload
    slots: tuple[KeySlot, ...]
    digest: KeyDigest


@dataclass(frozen=True)
class Header:
    """A container's header.

    Attributes:
        version: 1 or 2; 0 when no copy of the header could be read.
        uuid: As text.
        label: Of LUKS2.
        opening: None when it cannot be opened here.
        obstacle: Why not.
        warnings: What lowers trust, such as a damaged copy.
        facts: For people.
    """

    version: int
    uuid: str = ""
    label: str = ""
    opening: Opening | None = None
    obstacle: str = ""
    warnings: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)

    def blocked(self, reason: str) -> Header:
        """The same header, of a container that cannot be opened."""
        return replace(self, opening=None, obstacle=reason)


def text_of(field_bytes: bytes) -> str:
    """A text that ends at the first zero byte."""
    return shown(field_bytes.partition(b"\0")[0].decode(errors="replace"))


def shown(text: str) -> str:
    """A text of the disk as it may be shown: not long, and nothing that moves the cursor."""
    cut = text[:200]
    return cut if cut.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in cut)


def check_payload(payload: Payload, container_bytes: int) -> None:
    """Refuse a payload that does not lie in the container in whole sectors.

    Raises:
        NotOpenable: It does not.
    """
    if payload.offset <= 0:
        raise NotOpenable("its header belongs to data that lies elsewhere (detached)")
    if payload.offset % SECTOR_BYTES or payload.size <= 0 or payload.size % payload.sector_bytes:
        raise NotOpenable(f"its data at byte {payload.offset}, {payload.size} bytes, are not whole sectors")
    if payload.end > container_bytes:
        raise NotOpenable(f"its data end at byte {payload.end} of {container_bytes}")


def check_area(slot: KeySlot, area_bytes: int, first: int, end: int) -> None:
    """Refuse a key slot whose stripes do not lie where key slots do, or that asks for absurd amounts.

    Raises:
        NotOpenable: It does.
    """
    name = f"key slot {slot.number}"
    if not 0 < slot.key_bytes <= MAX_KEY_BYTES or not 0 < slot.area_key_bytes <= MAX_KEY_BYTES:
        raise NotOpenable(f"{name} has keys of {slot.key_bytes} and {slot.area_key_bytes} bytes")
    if not 0 < slot.stripes <= MAX_STRIPES:
        raise NotOpenable(f"{name} has {slot.stripes} stripes")
    if slot.material_bytes > area_bytes:
        raise NotOpenable(f"{name} needs {slot.material_bytes} bytes and has {area_bytes}")
    if not first <= slot.area_offset <= slot.area_offset + area_bytes <= end:
        raise NotOpenable(
            f"{name} lies in bytes {slot.area_offset}-{slot.area_offset + area_bytes} and not in {first}-{end}"
        )
