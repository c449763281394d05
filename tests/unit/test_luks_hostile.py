# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile headers: a reason to copy the container whole, never an exception that escapes, and never much work."""

from __future__ import annotations

import copy
import json
import os
import random

import pytest

from imager.blocks import MemoryReader
from imager.errors import SourceUnusable, UsageError
from imager.volumes import luks
from imager.volumes.base import Member
from imager.volumes.luks import header1, keys
from tests.harness.hostile import chance, rounds_of_fuzzing
from tests.harness.luks import HDR_SIZE, container, metadata, with_checksums, with_json

IS_LONG = os.environ.get("IMAGER_LONG") == "1"
ROUNDS = 300

ODD = (
    0,
    1,
    -1,
    2**31,
    2**63,
    2**64,
    10**30,
    "",
    "0",
    "-1",
    "18446744073709551615",
    "9" * 5000,
    None,
    [],
    {},
    True,
    1.5,
)
ODD += ("\x1b[0m\n", "\ud800", "dynamic", "linear", "reencrypt", "argon2i", "A" * 9000, ["0"], {"0": {}})


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """Fuzzing changes costs too; what remains possible must be cheap here."""
    monkeypatch.setattr(keys, "MAX_PBKDF2_ITERATIONS", 2000)
    monkeypatch.setattr(keys, "MAX_ARGON2_MEMORY_KIB", 4096)
    monkeypatch.setattr(keys, "MAX_ARGON2_WORK_KIB", 16384)


def check(image):
    """The outcomes that are allowed."""
    reader = MemoryReader(image)
    content = luks.describe(reader)
    assert content.type == "crypto_LUKS"
    json.dumps([content.uuid, content.label, content.facts]).encode()
    found = luks.assemble([Member(1, reader)])
    assert set(found.whole) == {1}
    key, message = try_to_unlock(reader)
    assert message.isprintable()
    if key is None:
        return
    found = luks.Containers((key,)).assemble([Member(1, reader)])
    for volume in found.volumes:
        assert found.own[1].end <= len(image)
        assert len(volume.readers[0].read(0, min(4096, volume.readers[0].size))) > 0


def try_to_unlock(reader):
    try:
        return luks.unlock(reader, b"correct horse"), ""
    except (UsageError, SourceUnusable) as error:
        return None, str(error)


def places(value, path=()):
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def mutated_metadata(image, source):
    """JSON with one to three places changed, removed or doubled."""
    changed = copy.deepcopy(metadata(image))
    for _ in range(source.randint(1, 3)):
        path = source.choice(list(places(changed))[1:] or [()])
        if not path:
            continue
        holder = changed
        for step in path[:-1]:
            holder = holder[step]
        action = source.random()
        if action < 0.7:
            holder[path[-1]] = copy.deepcopy(source.choice(ODD))
        elif action < 0.85:
            del holder[path[-1]]
        elif isinstance(holder, dict):
            holder[str(source.randint(0, 40))] = copy.deepcopy(holder[path[-1]])
    return with_json(image, json.dumps(changed).encode())


def mutated_bytes(image, source, areas):
    changed = bytearray(image)
    for _ in range(source.randint(1, 8)):
        first, end = source.choice(areas)
        changed[source.randrange(first, end)] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
    return bytes(changed)


def rounds(number):
    """A source of chance for each round."""
    first = chance(0).getrandbits(32)
    for seed in rounds_of_fuzzing(number, 5 * number):
        yield random.Random(first + seed)


@pytest.mark.slow if IS_LONG else lambda function: function
def test_hostile_json():
    image = container("luks2-lvm")[: 2 * 2**20]
    for source in rounds(ROUNDS):
        check(mutated_metadata(image, source))


@pytest.mark.slow if IS_LONG else lambda function: function
def test_hostile_binary_headers():
    image = container("luks2-lvm")[: 2 * 2**20]
    areas = [(0, 512), (HDR_SIZE, HDR_SIZE + 512), (4096, 4096 + 900), (HDR_SIZE + 4096, HDR_SIZE + 5000)]
    for source in rounds(ROUNDS):
        changed = mutated_bytes(image, source, areas)
        check(with_checksums(changed) if source.random() < 0.7 else changed)


@pytest.mark.slow if IS_LONG else lambda function: function
def test_hostile_luks1():
    image = luks1_image()
    for source in rounds(ROUNDS // 4):
        check(mutated_bytes(image, source, [(6, 592), (0, 210), (208, 304)]))


def luks1_image():
    """A header as cryptsetup writes it, with one key slot and noise for its key."""
    phdr = header1._PHDR.pack(
        b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256", 4096, 64, bytes(20), bytes(32), 1000, b"0-1-2"
    )
    slots = [header1._SLOT.pack(0xAC71F3 if n == 0 else 0xDEAD, 1000, bytes(32), 8 + n * 504, 4000) for n in range(8)]
    return (phdr + b"".join(slots)).ljust(2**20, b"\x5a").ljust(2**22, b"\0")


@pytest.mark.parametrize("text", [b"[" * 11000, b'{"a":' * 2000, b"\xff\xfe", b"", b"null", b'"' + b"x" * 11000])
def test_hostile_text_in_the_json_area(text):
    check(with_json(container("luks2-lvm"), text))
