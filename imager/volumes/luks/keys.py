# SPDX-License-Identifier: GPL-3.0-or-later
"""From a passphrase to the volume key: PBKDF2 and Argon2, the anti-forensic stripes, the digest.

A disk names its own costs, so each is limited before anything is computed. Secrets are kept in bytearrays that are
wiped, and the process is kept from dumping core; docs/explanation/encrypted-disks.md says what Python cannot promise.

References:
    LUKS On-Disk Format Specification, version 1.2.3, section 2.4 (anti-forensic splitter), section 4 (algorithms).
    RFC 8018, section 5.2 (PBKDF2); RFC 9106 (Argon2).
"""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import resource
from pathlib import Path
from typing import Final, NoReturn

from imager.blocks import BlockReader
from imager.volumes.luks.ciphers import parse_cipher
from imager.volumes.luks.model import (
    MAX_PBKDF2_ITERATIONS,
    SECTOR_BYTES,
    Kdf,
    KeyDigest,
    KeySlot,
    NotOpenable,
    Opening,
    shown,
)

MAX_ARGON2_MEMORY_KIB: Final = 4 * 1024 * 1024
"""The most that cryptsetup makes or accepts."""
MAX_ARGON2_WORK_KIB: Final = 128 * 1024 * 1024
"""Memory times passes: two to three minutes on a slow core; cryptsetup aims at two seconds of a fast machine."""
MAX_ARGON2_LANES: Final = 64
_HASHES: Final = {
    **{name: name for name in ("sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160")},
    **{f"sha3-{bits}": f"sha3_{bits}" for bits in (224, 256, 384, 512)},
    "blake2b-512": "blake2b",
    "blake2s-256": "blake2s",
}
"""The kernel's and Python's names; ripemd160 is not in every OpenSSL."""
_PR_SET_DUMPABLE: Final = 4

Secret = bytes | bytearray


class VolumeKey:
    """The key that the whole volume is encrypted with; it shows itself to nobody.

    Attributes:
        uuid: Of the container that it opens.
        slot: Number of the key slot that gave it.
    """

    __slots__ = ("_content", "slot", "uuid")

    def __init__(self, content: bytearray, *, uuid: str, slot: int) -> None:
        """Keep the content itself, not a copy: `wipe` clears it."""
        self._content = content
        self.uuid = uuid
        self.slot = slot

    @property
    def content(self) -> memoryview:
        """The key's bytes; empty after `wipe`."""
        return memoryview(self._content).toreadonly()

    @property
    def is_wiped(self) -> bool:
        """Whether the key is gone."""
        return not self._content

    def wipe(self) -> None:
        """Overwrite the key; what it opened cannot be read any more."""
        wipe(self._content)
        self._content = bytearray()

    def __enter__(self) -> VolumeKey:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"VolumeKey(uuid={self.uuid!r}, slot={self.slot}, content hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a volume key is not written anywhere")


def wipe(secret: bytearray) -> None:
    """Overwrite a secret with zeros."""
    secret[:] = bytes(len(secret))


def forbid_core_files() -> None:
    """Keep this process, from now on, from writing its memory into a core file, and other users from reading it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def volume_key(reader: BlockReader, opening: Opening, slot: KeySlot, passphrase: Secret) -> bytearray | None:
    """The volume key, if the passphrase opens this slot.

    Raises:
        NotOpenable: The slot asks for what is not known here, or for more than is reasonable.
    """
    hash_name = _known_hash(slot.af_hash)
    cipher = parse_cipher(slot.area_cipher)
    cipher.check_key(slot.area_key_bytes)
    sectors = -(-slot.material_bytes // SECTOR_BYTES)
    area_key = _derive(slot.kdf, passphrase, slot.area_key_bytes)
    try:
        stripes = cipher.decrypt(area_key, reader.read(slot.area_offset, sectors * SECTOR_BYTES), 0)
    finally:
        wipe(area_key)
    key = _merge(stripes[: slot.material_bytes], slot.key_bytes, hash_name)
    if is_right(key, opening.digest):
        return key
    wipe(key)
    return None


def check_cost(kdf: Kdf) -> None:
    """Refuse what a passphrase would have to be stretched by, where it is unknown or absurd.

    Raises:
        NotOpenable: It is.
    """
    if kdf.type == "pbkdf2":
        _known_hash(kdf.hash)
        if not 0 < kdf.iterations <= MAX_PBKDF2_ITERATIONS:
            raise NotOpenable(f"it asks for {kdf.iterations} iterations of PBKDF2")
        return
    if kdf.type not in ("argon2i", "argon2id"):
        raise NotOpenable(f"its key derivation {shown(kdf.type)} is not known here")
    if not 0 < kdf.lanes <= MAX_ARGON2_LANES or not 8 * kdf.lanes <= kdf.memory_kib <= MAX_ARGON2_MEMORY_KIB:
        raise NotOpenable(f"it asks for {kdf.memory_kib} KiB and {kdf.lanes} lanes of Argon2")
    if not 0 < kdf.iterations <= MAX_ARGON2_WORK_KIB // kdf.memory_kib:
        raise NotOpenable(f"it asks for {kdf.iterations} passes over {kdf.memory_kib} KiB of Argon2")
    available = _available_kib()
    if kdf.memory_kib > available:
        raise NotOpenable(f"it needs {kdf.memory_kib // 1024} MiB of memory, and {available // 1024} MiB are available")


def _available_kib() -> int:
    """Memory that can be had without starving others; no limit where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return MAX_ARGON2_MEMORY_KIB
    counts = {line.split(":")[0]: line.split()[1] for line in lines if line.count(" ")}
    found = [int(counts[name]) for name in ("MemAvailable", "SwapFree") if counts.get(name, "").isdecimal()]
    return sum(found) if found else MAX_ARGON2_MEMORY_KIB


def _derive(kdf: Kdf, passphrase: Secret, length: int) -> bytearray:
    check_cost(kdf)
    if kdf.type == "pbkdf2":
        return bytearray(hashlib.pbkdf2_hmac(_known_hash(kdf.hash), passphrase, kdf.salt, kdf.iterations, length))
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2i, Argon2id  # not on top: see ciphers

    argon2 = Argon2id if kdf.type == "argon2id" else Argon2i
    derived = bytearray(length)
    try:
        argon2(
            salt=kdf.salt, length=length, iterations=kdf.iterations, lanes=kdf.lanes, memory_cost=kdf.memory_kib
        ).derive_into(passphrase, derived)  # type: ignore[arg-type]  # any buffer will do
    except (MemoryError, ValueError) as error:
        raise NotOpenable(f"Argon2 with {kdf.memory_kib} KiB cannot be computed here") from error
    return derived


def _known_hash(name: str) -> str:
    """Python's name of a hash.

    Raises:
        NotOpenable: It is unknown, or missing in this Python's OpenSSL.
    """
    python_name = _HASHES.get(name.lower(), "")
    if python_name in hashlib.algorithms_available:
        return python_name
    raise NotOpenable(f"its hash {shown(name)} is not known here")


def _merge(stripes: bytes, key_bytes: int, hash_name: str) -> bytearray:
    """Put the stripes together: every one of them is needed, so that a key is erased by erasing any."""
    folded = 0
    last = len(stripes) - key_bytes
    for start in range(0, last, key_bytes):
        folded ^= int.from_bytes(stripes[start : start + key_bytes])
        folded = int.from_bytes(_diffuse(folded.to_bytes(key_bytes), hash_name))
    return bytearray((folded ^ int.from_bytes(stripes[last:])).to_bytes(key_bytes))


def _diffuse(block: bytes, hash_name: str) -> bytes:
    """H1: the block in pieces of a digest's length, each replaced by the digest of its number and itself."""
    step = hashlib.new(hash_name).digest_size
    pieces = []
    for number, start in enumerate(range(0, len(block), step)):
        piece = block[start : start + step]
        pieces.append(hashlib.new(hash_name, number.to_bytes(4) + piece).digest()[: len(piece)])
    return b"".join(pieces)


def is_right(key: bytearray | memoryview, digest: KeyDigest) -> bool:
    """Whether a volume key is the one that the header was made with."""
    found = hashlib.pbkdf2_hmac(_known_hash(digest.hash), key, digest.salt, digest.iterations, len(digest.digest))
    return hmac.compare_digest(found, digest.digest)
