# SPDX-License-Identifier: GPL-3.0-or-later
"""LUKS1 and LUKS2: what a container holds, and, with a passphrase, which of its sectors are in use.

The image gets ciphertext, never plain text: an opened container is read to find out which sectors the file system
inside uses, and those sectors are copied as they lie on the disk::

    container   [ headers, key slots | ciphertext ......................................... | rest ]
    used          all of it            sectors that the volume inside uses                    all of it

Opening takes no device-mapper and no root: the volume key is derived and the sectors are decrypted in this process.
A mapping that the system has already set up serves as well. Locked, being re-encrypted, with integrity tags, or with
anything that is not known here, a container is copied whole.

References:
    LUKS On-Disk Format Specification, version 1.2.3; LUKS2 On-Disk Format Specification, version 1.1.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from imager.blocks import BlockReader, OutOfRange
from imager.errors import SourceUnusable, UsageError
from imager.extents import Extents
from imager.layout import Content
from imager.volumes.base import Assembly, Member
from imager.volumes.luks import header1, header2
from imager.volumes.luks.ciphers import parse_cipher
from imager.volumes.luks.keys import VolumeKey, forbid_core_files, is_right, volume_key, wipe
from imager.volumes.luks.model import MAGIC, SECTOR_BYTES, Header, KeySlot, NotOpenable, Opening, Payload

__all__ = (
    "TYPES",
    "Containers",
    "OpenContainer",
    "VolumeKey",
    "assemble",
    "describe",
    "forbid_core_files",
    "mapped",
    "obstacle",
    "opened",
    "payload",
    "unlock",
    "wipe",
)

TYPES: Final = ("crypto_LUKS",)

LOCKED: Final = "it is encrypted and locked"


class DecryptingReader(BlockReader):
    """The plain text of a container, decrypted as it is read."""

    def __init__(self, below: BlockReader, place: Payload, key: VolumeKey) -> None:
        self._below = below
        self._place = place
        self._cipher = parse_cipher(place.cipher)
        self._key = key
        self.size = place.size
        self.sector_size = max(below.sector_size, place.sector_bytes)

    def _read(self, offset: int, length: int) -> bytes:
        if self._key.is_wiped:
            raise SourceUnusable(f"the volume of the container {self._key.uuid} was closed")
        grain = self._place.sector_bytes
        start = offset // grain * grain
        end = -(-(offset + length) // grain) * grain
        content = self._below.read(self._place.offset + start, end - start)
        first_iv = self._place.iv_tweak + start // SECTOR_BYTES
        plain = self._cipher.decrypt(self._key.content, content, first_iv, grain)
        return plain[offset - start : offset - start + length]


class Sealer:
    """Encrypts what is to lie in the plain text of a container, with the key that the container has."""

    def __init__(self, place: Payload, key: VolumeKey) -> None:
        self.sector_bytes = place.sector_bytes
        self._place = place
        self._cipher = parse_cipher(place.cipher)
        self._key = key

    def sealed(self, offset: int, content: bytes) -> bytes:
        """The ciphertext of whole sectors that begin at an offset of the plain text."""
        first_iv = self._place.iv_tweak + offset // SECTOR_BYTES
        return self._cipher.encrypt(self._key.content, content, first_iv, self.sector_bytes)

    def opened(self, offset: int, content: bytes) -> bytes:
        """The plain text of what was sealed for an offset."""
        first_iv = self._place.iv_tweak + offset // SECTOR_BYTES
        return self._cipher.decrypt(self._key.content, content, first_iv, self.sector_bytes)


@dataclass(frozen=True)
class OpenContainer:
    """The volume inside of a container.

    Attributes:
        key: The member's number.
        name: luks- and the UUID.
        readers: Its plain text.
        place: Where its ciphertext lies on the member.
    """

    key: int
    name: str
    readers: tuple[BlockReader, ...]
    place: Payload
    has_parity: ClassVar[bool] = False

    def back(self, used: Extents) -> dict[int, Extents]:
        """Where the ciphertext of the used bytes lies: whole sectors, because a part of one cannot be decrypted."""
        sectors = used.clip(0, self.place.size).align_outward(self.place.sector_bytes, self.place.size)
        return {self.key: sectors.shift(self.place.offset)}

    def touched_by(self, places: Mapping[int, Extents]) -> Extents:
        """The plain text of these bytes of the container."""
        found = places.get(self.key, Extents()).clip(self.place.offset, self.place.end).shift(-self.place.offset)
        return found.align_outward(self.place.sector_bytes, self.place.size)


def describe(reader: BlockReader) -> Content:
    """What a container says of itself without a passphrase.

    Raises:
        SourceUnreadable: The medium could not be read; nothing else escapes on any content.
    """
    return _describe(_read_header(reader), reader.size)


def obstacle(reader: BlockReader) -> str:
    """Why no passphrase can open the container here; empty when one could.

    Raises:
        SourceUnreadable: The medium could not be read.
    """
    return _read_header(reader).obstacle


def payload(reader: BlockReader) -> Payload | None:
    """Where the ciphertext lies; None when the container cannot be opened here.

    Raises:
        SourceUnreadable: The medium could not be read.
    """
    opening = _read_header(reader).opening
    return opening.payload if opening else None


def unlock(reader: BlockReader, passphrase: bytes | bytearray) -> VolumeKey:
    """Derive the volume key; from now on this process writes no core file.

    Args:
        reader: The container.
        passphrase: As cryptsetup takes it: typed, without the newline; a key file, every byte of it.

    Raises:
        UsageError: The passphrase opens no key slot.
        SourceUnusable: No passphrase could open the container here.
        SourceUnreadable: The medium could not be read.
    """
    forbid_core_files()
    header = _read_header(reader)
    opening = header.opening
    if opening is None:
        raise SourceUnusable(f"the container cannot be unlocked: {header.obstacle}", uuid=header.uuid)
    skipped: list[str] = []
    tried = 0
    for slot in _in_order(opening.slots):
        try:
            content = volume_key(reader, opening, slot, passphrase)
        except NotOpenable as error:
            skipped.append(f"key slot {slot.number} was not tried: {error}")
            continue
        tried += 1
        if content is not None:
            return VolumeKey(content, uuid=header.uuid, slot=slot.number)
    raise UsageError(
        f"the passphrase opens none of the {tried} key slots that were tried of container {header.uuid}",
        hint="; ".join(skipped) if skipped else "Check the passphrase and the keyboard layout, or name a key file.",
        uuid=header.uuid,
        slots_tried=tried,
        slots_skipped=len(skipped),
    )


def opened(member: Member, key: VolumeKey) -> OpenContainer:
    """The volume inside, decrypted with a key that `unlock` gave for the same container.

    Raises:
        SourceUnusable: The key belongs to another container, or this one cannot be opened.
        SourceUnreadable: The medium could not be read.
    """
    header, opening = _openable(member)
    try:
        fits = key.uuid == header.uuid and is_right(key.content, opening.digest)
    except NotOpenable as error:
        raise SourceUnusable(f"{_name(member)} cannot be opened: {error}") from error
    if not fits:
        raise SourceUnusable(f"the key of container {key.uuid} does not open {_name(member)} ({header.uuid})")
    place = opening.payload
    reader = DecryptingReader(member.reader, place, key)
    return OpenContainer(member.key, f"luks-{header.uuid}", (reader,), place)


def mapped(member: Member, mapping: BlockReader) -> OpenContainer:
    """The volume inside, read through a mapping that the system has set up for this member.

    Raises:
        SourceUnusable: The mapping does not show the container's data from end to end.
        SourceUnreadable: The medium could not be read.
    """
    header, opening = _openable(member)
    place = opening.payload
    if mapping.size != place.size:
        raise SourceUnusable(f"the mapping of {_name(member)} has {mapping.size} bytes, its data have {place.size}")
    return OpenContainer(member.key, f"luks-{header.uuid}", (mapping,), place)


@dataclass(frozen=True)
class Containers:
    """The manager of containers: opens those for which there is a key or a mapping.

    Attributes:
        keys: What `unlock` gave; each opens the container of its UUID.
        find_mapping: Reader of the mapping that the system has set up for a UUID, or None.
    """

    keys: tuple[VolumeKey, ...] = ()
    find_mapping: Callable[[str], BlockReader | None] = lambda _: None
    TYPES: tuple[str, ...] = TYPES

    def assemble(self, members: Sequence[Member]) -> Assembly:
        """Open what can be opened; everything else is to be copied whole.

        Raises:
            SourceUnreadable: The medium could not be read; nothing else escapes on any content.
        """
        found = Assembly()
        volumes: list[OpenContainer] = []
        headers = {member.key: _read_header(member.reader) for member in members}
        uuids = Counter(header.uuid for header in headers.values())
        for member in members:
            header = headers[member.key]
            content = found.contents[member.key] = _describe(header, member.reader.size)
            try:
                volume = self._open(member, header, is_only=uuids[header.uuid] == 1)
            except SourceUnusable as error:
                found.whole[member.key] = str(error)
                continue
            volumes.append(volume)
            found.own[member.key] = _around(volume.place, member.reader.size)
            content.facts["state"] = "unlocked"
        return replace(found, volumes=tuple(volumes))

    def _open(self, member: Member, header: Header, *, is_only: bool) -> OpenContainer:
        if header.obstacle:
            raise SourceUnusable(header.obstacle)
        keys = [key for key in self.keys if key.uuid == header.uuid and not key.is_wiped]
        if keys:
            return opened(member, keys[0])
        mapping = self.find_mapping(header.uuid) if header.uuid else None
        if mapping is None:
            raise SourceUnusable(LOCKED)
        if not is_only:
            raise SourceUnusable("there are two containers with its UUID, and one of them is mapped")
        return mapped(member, mapping)


def assemble(members: Sequence[Member]) -> Assembly:
    """Take every container as locked; see Containers for those that can be opened."""
    return Containers().assemble(members)


def _around(place: Payload, container_bytes: int) -> Extents:
    """Headers and key slots, and what lies behind the data."""
    return Extents.of(((0, place.offset), (place.end, container_bytes)))


def _openable(member: Member) -> tuple[Header, Opening]:
    header = _read_header(member.reader)
    if header.opening is None:
        raise SourceUnusable(f"{_name(member)} cannot be opened: {header.obstacle}")
    return header, header.opening


def _name(member: Member) -> str:
    return member.name or "the container"


def _in_order(slots: Sequence[KeySlot]) -> Iterator[KeySlot]:
    """Preferred ones first; those that other programs skip unless they are named come last."""
    yield from sorted(slots, key=lambda slot: (-slot.priority, slot.number))


def _read_header(reader: BlockReader) -> Header:
    try:
        start = reader.read(0, min(header1.PHDR_BYTES, reader.size))
        if start.startswith(MAGIC + b"\0\1") and len(start) == header1.PHDR_BYTES:
            return header1.parse(start, reader.size)
        header = header2.read(reader)
    except OutOfRange as error:
        return Header(0, obstacle=f"its header points outside of it: {error}")
    return header or Header(0, obstacle="it has no header of LUKS")


def _describe(header: Header, container_bytes: int) -> Content:
    place = header.opening.payload if header.opening else None
    state = "locked" if header.opening else f"cannot be unlocked: {header.obstacle}"
    facts = {"data_offset_bytes": str(place.offset)} if place else {}
    if place and place.end <= container_bytes - place.sector_bytes:
        facts["data_size_bytes"] = str(place.size)  # else it reaches to the end, whatever the container's size
    return Content(
        "encrypted",
        TYPES[0],
        label=header.label,
        uuid=header.uuid,
        size_bytes=place.end if place else container_bytes,
        warnings=header.warnings,
        facts={**header.facts, **facts, "state": state},
    )
