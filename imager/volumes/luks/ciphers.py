# SPDX-License-Identifier: GPL-3.0-or-later
"""Decrypting and encrypting runs of sectors: AES in XTS and CBC mode, with the IVs of dm-crypt.

Every sector has an IV of its own, so that a library that decrypts message by message is called once for each 512
bytes. Here the modes are taken apart, and all sectors of a run go through AES in one call::

    XTS   plain = D1(cipher xor T) xor T      T of block j in a sector: E2(IV) times alpha to the j, in GF(2^128)
    CBC   plain = D(cipher) xor before        before: the block of ciphertext in front, or the IV

Encrypting is the same with E1 and E. Knows no key slots and no headers.

References:
    IEEE Std 1619-2018, section 5 (XTS-AES); Linux Documentation/admin-guide/device-mapper/dm-crypt.rst.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from imager.volumes.luks.model import SECTOR_BYTES, NotOpenable, shown

Key = bytes | bytearray | memoryview
Words = npt.NDArray[np.uint64]

_PIECE_BYTES: Final = 256 * 1024
"""Decrypted at once: arrays of this size stay in a core's cache, and larger ones take up to twice as long."""
_RUN: Final = 32
"""Blocks of the smallest sector: so many tweaks are made in one step."""
_BLOCK_BYTES: Final = 16
_AES_KEY_BYTES: Final = (16, 24, 32)
_XTS_KEY_BYTES: Final = tuple(2 * size for size in _AES_KEY_BYTES)


@dataclass(frozen=True)
class SectorCipher:
    """A cipher as the header names it, such as aes-xts-plain64.

    Attributes:
        name: The header's name for it.
        mode: xts or cbc.
        iv: plain, plain64, plain64be, or essiv with SHA-256.
    """

    name: str
    mode: str
    iv: str

    def check_key(self, key_bytes: int) -> None:
        """Refuse a length that the cipher does not have.

        Raises:
            NotOpenable: It has none of that length.
        """
        if key_bytes not in (_XTS_KEY_BYTES if self.mode == "xts" else _AES_KEY_BYTES):
            raise NotOpenable(f"{self.name} has no keys of {key_bytes} bytes")

    def decrypt(self, key: Key, content: bytes, first_iv: int, sector_bytes: int = SECTOR_BYTES) -> bytes:
        """Decrypt whole sectors.

        Args:
            key: Of a length that check_key accepts.
            content: Ciphertext, whole sectors.
            first_iv: Number of the first sector, in units of 512 bytes.
            sector_bytes: What was encrypted at once.
        """
        work = _decrypt_xts if self.mode == "xts" else _decrypt_cbc
        return self._by_pieces(work, key, content, first_iv, sector_bytes)

    def encrypt(self, key: Key, content: bytes, first_iv: int, sector_bytes: int = SECTOR_BYTES) -> bytes:
        """Encrypt whole sectors; as decrypt."""
        work = _encrypt_xts if self.mode == "xts" else _encrypt_cbc
        return self._by_pieces(work, key, content, first_iv, sector_bytes)

    def _by_pieces(
        self,
        work: Callable[[SectorCipher, Key, Words, Words], bytes],
        key: Key,
        content: bytes,
        first_iv: int,
        sector_bytes: int,
    ) -> bytes:
        step = max(_PIECE_BYTES // sector_bytes, 1) * sector_bytes
        pieces = []
        for start in range(0, len(content), step):
            piece = np.frombuffer(content, dtype=np.uint64, count=min(step, len(content) - start) // 8, offset=start)
            numbers = _numbers(first_iv + start // SECTOR_BYTES, piece.nbytes // sector_bytes, sector_bytes)
            blocks = piece.reshape(numbers.size, sector_bytes // _BLOCK_BYTES, 2)
            pieces.append(work(self, key, blocks, numbers))
        return b"".join(pieces)

    def ivs(self, key: Key, numbers: Words) -> Words:
        """The IV of each sector; shape (n, 2), in the byte order of memory."""
        ivs = np.zeros((numbers.size, 2), dtype="<u8")
        if self.iv == "plain":
            ivs[:, 0] = numbers & np.uint64(0xFFFFFFFF)
        elif self.iv == "plain64be":
            ivs[:, 1] = numbers.byteswap()
        else:
            ivs[:, 0] = numbers
        if self.iv == "essiv":
            salt = hashlib.sha256(key).digest()
            return _words(_aes(salt, ivs, encrypt=True))
        return ivs


def parse_cipher(name: str) -> SectorCipher:
    """Understand the name of a cipher.

    Raises:
        NotOpenable: It is not known here.
    """
    found = re.fullmatch(r"aes-(xts-(?:plain64be|plain64|plain)|cbc-(?:plain64be|plain64|plain|essiv:sha256))", name)
    if not found:
        raise NotOpenable(f"its cipher {shown(name)} is not known here")
    mode, _, iv = found[1].partition("-")
    return SectorCipher(name, mode, iv.partition(":")[0])


def _numbers(first: int, count: int, sector_bytes: int) -> Words:
    """Sector numbers; they count in 512 bytes, also where larger sectors are encrypted, and wrap at 2^64."""
    steps = np.arange(count, dtype=np.uint64) * np.uint64(sector_bytes // SECTOR_BYTES)
    return steps + np.uint64(first % 2**64)


def _aes(key: Key, content: Words, *, encrypt: bool = False) -> bytes:
    # Not on top: it takes 30 ms to load, and every command that looks at a disk would wait for it.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - the modes are made of it, see above
    context = cipher.encryptor() if encrypt else cipher.decryptor()
    return context.update(content.data.cast("B"))


def _words(content: bytes) -> Words:
    return np.frombuffer(content, dtype="<u8").reshape(-1, 2)


def _decrypt_cbc(cipher: SectorCipher, key: Key, blocks: Words, numbers: Words) -> bytes:
    before = np.empty_like(blocks)
    before[:, 0] = cipher.ivs(key, numbers)
    before[:, 1:] = blocks[:, :-1]
    before ^= _words(_aes(key, blocks)).reshape(blocks.shape)
    return before.tobytes()


def _encrypt_cbc(cipher: SectorCipher, key: Key, blocks: Words, numbers: Words) -> bytes:
    """Each block waits for the one in front of it, so the same block of all sectors is encrypted at once."""
    sealed = np.empty_like(blocks)
    before = cipher.ivs(key, numbers)
    for index in range(blocks.shape[1]):
        before = _words(_aes(key, blocks[:, index] ^ before, encrypt=True))
        sealed[:, index] = before
    return sealed.tobytes()


def _encrypt_xts(cipher: SectorCipher, key: Key, blocks: Words, numbers: Words) -> bytes:
    return _xts(cipher, key, blocks, numbers, encrypt=True)


def _decrypt_xts(cipher: SectorCipher, key: Key, blocks: Words, numbers: Words) -> bytes:
    return _xts(cipher, key, blocks, numbers, encrypt=False)


def _xts(cipher: SectorCipher, key: Key, blocks: Words, numbers: Words, *, encrypt: bool) -> bytes:
    half = len(key) // 2
    tweaks = _tweaks(_words(_aes(key[half:], cipher.ivs(key, numbers), encrypt=True)), blocks.shape[1])
    through = _aes(key[:half], blocks ^ tweaks, encrypt=encrypt)
    tweaks ^= np.frombuffer(through, dtype="<u8").reshape(blocks.shape)
    return tweaks.tobytes()


def _tweaks(first: Words, count: int) -> Words:
    """Each sector's first tweak times alpha to the 0, 1, ... count - 1; shape (n, count, 2).

    Count is a multiple of _RUN: the first tweak of each run comes from the one before it.
    """
    leaders = np.empty((len(first), count // _RUN, 2), dtype=np.uint64)
    leaders[:, 0] = first
    for index in range(1, count // _RUN):
        leaders[:, index] = _multiplied(leaders[:, index - 1], np.array([_RUN], dtype=np.uint64))[:, 0]
    return _multiplied(leaders.reshape(-1, 2), np.arange(_RUN, dtype=np.uint64)).reshape(-1, count, 2)


def _multiplied(values: Words, powers: Words) -> Words:
    """Each value times alpha to each power, modulo x^128 + x^7 + x^2 + x + 1; shape (values, powers, 2).

    Powers are at most 56: what is shifted out, times x^7, still fits the low word. Shifting by 64 gives 0 in numpy.
    """
    low, high = np.ascontiguousarray(values[:, 0])[:, None], np.ascontiguousarray(values[:, 1])[:, None]
    rest = np.uint64(64) - powers
    over = high >> rest
    product = np.empty((len(values), powers.size, 2), dtype=np.uint64)
    product[:, :, 1] = high << powers | low >> rest
    below = low << powers ^ over
    for shift in (1, 2, 7):
        below ^= over << np.uint64(shift)
    product[:, :, 0] = below
    return product
