# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON area of LUKS2: key slots, digests, segments, requirements.

Untrusted: everything is decoded into limited types first, and read only then. Unknown fields of known objects are
skipped, as the specification wants; unknown *requirements*, flags and types are not.

References:
    LUKS2 On-Disk Format Specification, version 1.1.4, chapter 3.
"""

from __future__ import annotations

import binascii
from typing import Annotated, Final

import msgspec

from imager.volumes.luks.ciphers import parse_cipher
from imager.volumes.luks.model import (
    MAX_PBKDF2_ITERATIONS,
    SECTOR_BYTES,
    Kdf,
    KeyDigest,
    KeySlot,
    NotOpenable,
    Opening,
    Payload,
    check_area,
    check_payload,
    shown,
)

_MAX_SLOTS: Final = 32
_SECTOR_SIZES: Final = (512, 1024, 2048, 4096)
_MIN_DIGEST_BYTES: Final = 16
_MIN_SALT_BYTES: Final = 8
_KNOWN_FLAGS: Final = frozenset(
    (
        "allow-discards",
        "same-cpu-crypt",
        "submit-from-crypt-cpus",
        "no-journal",
        "no-read-workqueue",
        "no-write-workqueue",
        "high_priority",
    )
)
"""How a system maps the container; none of them changes where what lies."""

Number = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,19}\Z")]
"""LUKS2 keeps 64-bit numbers as text."""
Name = Annotated[str, msgspec.Meta(max_length=4096)]
Int = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _Af(msgspec.Struct):
    type: Name
    stripes: Int = 0
    hash: Name = ""


class _Area(msgspec.Struct):
    type: Name
    offset: Number = "0"
    size: Number = "0"
    encryption: Name = ""
    key_size: Int = 0


class _Kdf(msgspec.Struct):
    type: Name
    salt: Name = ""
    hash: Name = ""
    iterations: Int = 0
    time: Int = 0
    memory: Int = 0
    cpus: Int = 0


class _Keyslot(msgspec.Struct):
    type: Name
    key_size: Int = 0
    priority: Int = 1
    area: _Area | None = None
    af: _Af | None = None
    kdf: _Kdf | None = None


class _Digest(msgspec.Struct):
    type: Name
    keyslots: tuple[Name, ...] = ()
    segments: tuple[Name, ...] = ()
    hash: Name = ""
    iterations: Int = 0
    salt: Name = ""
    digest: Name = ""


class _Segment(msgspec.Struct):
    type: Name
    offset: Number = "0"
    size: Name = ""
    encryption: Name = ""
    sector_size: Int = 0
    iv_tweak: Number = "0"
    integrity: msgspec.Raw = msgspec.Raw()
    flags: tuple[Name, ...] = ()


class _Token(msgspec.Struct):
    type: Name


class _Config(msgspec.Struct):
    keyslots_size: Number = "0"
    flags: tuple[Name, ...] = ()
    requirements: dict[Name, tuple[Name, ...]] = {}


class Metadata(msgspec.Struct):
    """The JSON area, decoded but not believed."""

    keyslots: dict[Number, _Keyslot]
    segments: dict[Number, _Segment]
    digests: dict[Number, _Digest]
    config: _Config
    tokens: dict[Number, _Token] = {}

    def facts(self) -> dict[str, str]:
        """What a person wants to know of it."""
        slots = [slot for slot in self.keyslots.values() if slot.type == "luks2"]
        ciphers = sorted({segment.encryption for segment in self.segments.values() if segment.encryption})
        facts = {"cipher": shown(", ".join(ciphers)), "key slots": str(len(slots))}
        sizes = sorted({segment.sector_size for segment in self.segments.values() if segment.encryption})
        if sizes:
            facts["encryption sectors"] = shown(", ".join(map(str, sizes)))
        tokens = sorted({token.type for token in self.tokens.values()})
        if tokens:
            facts["tokens"] = shown(", ".join(tokens))
        return facts

    def opening(self, header_end: int, container_bytes: int) -> Opening:
        """All that opening takes.

        Raises:
            NotOpenable: Something in it is not known here, or cannot be.
        """
        self._check_features()
        number, segment = next(iter(self.segments.items()))
        payload = _payload(segment, container_bytes)
        key_area_end = header_end + int(self.config.keyslots_size)
        if key_area_end > payload.offset:
            raise NotOpenable(f"its key slots end at byte {key_area_end} and its data start at byte {payload.offset}")
        bound = [digest for digest in self.digests.values() if number in digest.segments]
        if len(bound) != 1:
            raise NotOpenable(f"{len(bound)} key digests belong to its data")
        digest = _key_digest(bound[0])
        slots = tuple(
            _key_slot(int(name), slot, header_end, key_area_end)
            for name, slot in self.keyslots.items()
            if name in bound[0].keyslots
        )
        if not slots:
            raise NotOpenable("it has no key slot: its key was erased")
        for found in slots:
            parse_cipher(payload.cipher).check_key(found.key_bytes)
        return Opening(payload, slots, digest)

    def _check_features(self) -> None:
        required = sorted({text for texts in self.config.requirements.values() for text in texts})
        kinds = sorted({segment.type for segment in self.segments.values()})
        if any("reencrypt" in text for text in required) or any(s.type == "reencrypt" for s in self.keyslots.values()):
            raise NotOpenable("a re-encryption of it is under way")
        if required:
            raise NotOpenable(f"it requires what is not known here: {shown(', '.join(required))}")
        if set(self.config.requirements) - {"mandatory"}:
            raise NotOpenable(f"it has requirements of an unknown kind: {shown(', '.join(self.config.requirements))}")
        unknown = sorted(set(self.config.flags) - _KNOWN_FLAGS)
        if unknown:
            raise NotOpenable(f"it has flags that are not known here: {shown(', '.join(unknown))}")
        if kinds != ["crypt"] or len(self.segments) != 1:
            raise NotOpenable(f"its data are {len(self.segments)} segments of {shown(', '.join(kinds)) or 'nothing'}")
        if len(self.keyslots) > _MAX_SLOTS:
            raise NotOpenable(f"it has {len(self.keyslots)} key slots, more than {_MAX_SLOTS}")


def decode(text: bytes) -> Metadata:
    """Decode the JSON area.

    Raises:
        NotOpenable: It is no JSON, or not of LUKS2's form.
    """
    try:
        return msgspec.json.decode(text, type=Metadata)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise NotOpenable(f"its JSON area cannot be read: {shown(str(error))}") from error


def _payload(segment: _Segment, container_bytes: int) -> Payload:
    if bytes(segment.integrity):
        raise NotOpenable("it keeps a checksum of each sector (integrity)")
    if segment.flags:
        raise NotOpenable(f"its data have flags that are not known here: {shown(', '.join(segment.flags))}")
    if segment.sector_size not in _SECTOR_SIZES:
        raise NotOpenable(f"it encrypts sectors of {segment.sector_size} bytes")
    offset = int(segment.offset)
    if segment.size == "dynamic":
        size = max(0, container_bytes - offset) // segment.sector_size * segment.sector_size
    else:
        size = _number(segment.size, "size of its data")
    parse_cipher(segment.encryption)
    payload = Payload(offset, size, segment.encryption, segment.sector_size, int(segment.iv_tweak))
    check_payload(payload, container_bytes)
    return payload


def _number(text: str, what: str) -> int:
    try:
        return int(msgspec.convert(text, type=Number))
    except msgspec.ValidationError as error:
        raise NotOpenable(f"the {what} is no number: {shown(text)}") from error


def _key_digest(digest: _Digest) -> KeyDigest:
    if digest.type != "pbkdf2" or not 0 < digest.iterations <= MAX_PBKDF2_ITERATIONS:
        raise NotOpenable(f"its key digest is {shown(digest.type)} with {digest.iterations} iterations")
    value = _base64(digest.digest)
    if len(value) < _MIN_DIGEST_BYTES:
        raise NotOpenable(f"its key digest has only {len(value)} bytes")
    return KeyDigest(digest.hash, _base64(digest.salt), digest.iterations, value)


def _key_slot(number: int, slot: _Keyslot, first: int, end: int) -> KeySlot:
    if slot.type != "luks2" or slot.area is None or slot.af is None or slot.kdf is None:
        raise NotOpenable(f"key slot {number} is of the type {shown(slot.type)}")
    if slot.area.type != "raw" or slot.af.type != "luks1":
        raise NotOpenable(f"key slot {number} is kept as {shown(slot.area.type)} and {shown(slot.af.type)}")
    kdf = slot.kdf
    salt = _base64(kdf.salt)
    if len(salt) < _MIN_SALT_BYTES:
        raise NotOpenable(f"key slot {number} has a salt of {len(salt)} bytes")
    found = KeySlot(
        number,
        slot.key_size,
        Kdf(kdf.type, salt, kdf.hash, kdf.iterations or kdf.time, kdf.memory, kdf.cpus),
        slot.af.stripes,
        slot.af.hash,
        int(slot.area.offset),
        slot.area.encryption,
        slot.area.key_size,
        slot.priority,
    )
    area_bytes = int(slot.area.size) // SECTOR_BYTES * SECTOR_BYTES
    check_area(found, area_bytes, first, end)
    parse_cipher(found.area_cipher).check_key(found.area_key_bytes)
    return found


def _base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise NotOpenable("a salt or digest of it is not base64") from error
