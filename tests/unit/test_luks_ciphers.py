# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole runs of sectors decrypted at once are what OpenSSL says of each sector alone."""

from __future__ import annotations

import hashlib
import random

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from imager.volumes.luks.ciphers import parse_cipher
from imager.volumes.luks.model import NotOpenable

CONTENT = random.Random(3).randbytes(3 * 262144 + 8192)
KEY = random.Random(4).randbytes(64)


def encrypted(content, mode_of, key, first, sector_bytes):
    """Encrypt sector by sector with OpenSSL's own modes."""
    pieces = []
    for start in range(0, len(content), sector_bytes):
        number = first + start // 512
        context = Cipher(algorithms.AES(key), mode_of(number)).encryptor()
        pieces.append(context.update(content[start : start + sector_bytes]))
    return b"".join(pieces)


def plain64(number):
    return (number % 2**64).to_bytes(16, "little")


def essiv(key):
    context = Cipher(algorithms.AES(hashlib.sha256(key).digest()), modes.ECB()).encryptor()  # noqa: S305
    return lambda number: modes.CBC(context.update(plain64(number)))


@pytest.mark.parametrize("sector_bytes", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("key_bytes", [32, 64])
@pytest.mark.parametrize("first", [0, 7, 2**32 - 3, 2**64 - 5])
def test_xts_is_openssls(sector_bytes, key_bytes, first):
    key = KEY[:key_bytes]
    content = encrypted(CONTENT, lambda number: modes.XTS(plain64(number)), key, first, sector_bytes)
    assert parse_cipher("aes-xts-plain64").decrypt(key, content, first, sector_bytes) == CONTENT


@pytest.mark.parametrize("key_bytes", [16, 24, 32])
@pytest.mark.parametrize("sector_bytes", [512, 4096])
def test_cbc_with_essiv_is_openssls(key_bytes, sector_bytes):
    key = KEY[:key_bytes]
    content = encrypted(CONTENT, essiv(key), key, 9, sector_bytes)
    assert parse_cipher("aes-cbc-essiv:sha256").decrypt(key, content, 9, sector_bytes) == CONTENT


@pytest.mark.parametrize(
    ("iv", "bytes_of"),
    [
        ("plain", lambda number: (number % 2**32).to_bytes(16, "little")),
        ("plain64", plain64),
        ("plain64be", lambda number: number.to_bytes(16)),
    ],
)
def test_ivs_of_dm_crypt(iv, bytes_of):
    first = 2**32 - 2
    content = encrypted(CONTENT[:8192], lambda number: modes.CBC(bytes_of(number)), KEY[:32], first, 512)
    assert parse_cipher(f"aes-cbc-{iv}").decrypt(KEY[:32], content, first) == CONTENT[:8192]


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize(
    ("name", "key_bytes"),
    [("aes-xts-plain64", 64), ("aes-xts-plain", 32), ("aes-cbc-plain64be", 32), ("aes-cbc-essiv:sha256", 16)],
)
def test_encrypting_is_the_way_back(name, key_bytes, sector):
    cipher, content = parse_cipher(name), CONTENT[: 80 * 4096] * 8
    sealed = cipher.encrypt(KEY[:key_bytes], content, 2**32 - 9, sector)
    assert sealed != content
    assert cipher.decrypt(KEY[:key_bytes], sealed, 2**32 - 9, sector) == content


@pytest.mark.parametrize(
    "name",
    [
        "",
        "aes",
        "aes-xts",
        "aes-xts-random",
        "aes-xts-plain64\n",
        "aes-xts-essiv:sha256",
        "aes-cbc-essiv:sha1",
        "serpent-xts-plain64",
        "cipher_null-ecb",
        "capi:xts(aes)-plain64",
        "xchacha12,aes-adiantum-plain64",
        "aegis128-random",
    ],
)
def test_unknown_ciphers_are_refused_by_name(name):
    with pytest.raises(NotOpenable, match="cipher"):
        parse_cipher(name)


@pytest.mark.parametrize(("name", "length"), [("aes-xts-plain64", 16), ("aes-cbc-plain64", 64), ("aes-xts-plain", 0)])
def test_keys_of_another_length_are_refused(name, length):
    with pytest.raises(NotOpenable, match="no keys"):
        parse_cipher(name).check_key(length)
