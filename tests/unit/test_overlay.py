# SPDX-License-Identifier: GPL-3.0-or-later
"""Copy-on-write views: what is written is seen, and never reaches the base."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imager.blocks import MemoryReader, OutOfRange
from imager.errors import StoreError
from imager.extents import Extents
from imager.overlay import Overlay, Place, Seal, Store
from imager.overlay.store import scratch_file

SIZE = 3 * (1 << 20) + 4096 + 700  # its last page is not whole
BASE = bytes(range(251)) * (SIZE // 251 + 1)


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened


def overlay(stack, size=SIZE):
    return Overlay(MemoryReader(BASE[:size]), Store.in_scratch(stack, size))


writes = st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(0, 20_000), st.integers(1, 255)), max_size=30)


@settings(deadline=None, max_examples=60)
@given(writes, st.integers(0, SIZE))
def test_it_reads_like_a_copy_that_was_written_to(changes, cut):
    with ExitStack() as opened:
        view, copy = overlay(opened), bytearray(BASE[:SIZE])
        touched = Extents()
        for offset, length, value in changes:
            content = bytes([value]) * min(length, SIZE - offset)
            view.write(offset, content)
            copy[offset : offset + len(content)] = content
            touched |= Extents.single(offset, offset + len(content))
        assert view.read(0, SIZE) == copy
        assert view.read(cut, SIZE - cut) == copy[cut:]
        assert view.dirty == touched.align_outward(4096, SIZE)


def test_another_view_of_the_same_store_has_the_same_content(stack):
    store = Store.in_scratch(stack, SIZE)
    first = Overlay(MemoryReader(BASE[:SIZE]), store)
    first.write(5000, b"\0" * 3000)
    first.write(SIZE - 1, b"!")
    second = Overlay(MemoryReader(BASE[:SIZE]), store, first.dirty)
    assert second.read(0, SIZE) == first.read(0, SIZE)


def test_a_view_is_cut_but_never_longer(stack):
    view = overlay(stack)
    view.write(SIZE - 4096, b"\1" * 4096)
    view.truncate(SIZE - 2000)
    assert view.read(0, view.size) == BASE[: SIZE - 4096] + b"\1" * 2096
    assert view.dirty.end == SIZE - 2000
    with pytest.raises(OutOfRange):
        view.truncate(SIZE)
    with pytest.raises(OutOfRange):
        view.write(SIZE - 2001, b"xx")


def test_without_a_store_nothing_can_be_written():
    with pytest.raises(OutOfRange):
        Overlay(MemoryReader(BASE)).write(0, b"x")


def test_places_take_what_is_written_in_them_and_nothing_else(stack, tmp_path):
    disk = tmp_path / "disk"
    disk.write_bytes(b"\xee" * 30_000)
    fd = os.open(disk, os.O_RDWR)
    stack.callback(os.close, fd)
    places = [Place(0, 6000, scratch_file(stack), 0), Place(6000, 20_000, fd, 10_000)]
    view = Overlay(MemoryReader(BASE[:20_000]), Store(places))
    view.write(4096, b"\7" * 6000)
    expected = BASE[:4096] + b"\7" * 6000 + BASE[10_096:20_000]
    assert view.read(0, 20_000) == expected
    whole_pages = expected[6000:12_288]
    assert disk.read_bytes() == b"\xee" * 10_000 + whole_pages + b"\xee" * (20_000 - len(whole_pages))


@pytest.mark.parametrize(
    ("cipher", "sector"), [("aes-xts-plain64", 512), ("aes-cbc-essiv:sha256", 512), ("aes-xts-plain64", 4096)]
)
def test_a_place_in_a_container_gets_ciphertext_only(stack, tmp_path, cipher, sector):
    """What QEMU, cryptsetup and dm-crypt make of it is seen in tests/oracle/test_shrink_luks.py."""
    chosen, size, start = random.Random(7), 64 * 1024, 8192
    disk, plain = tmp_path / "disk", bytearray(size)
    disk.write_bytes(bytes(start + size))
    fd = os.open(disk, os.O_RDWR)
    stack.callback(os.close, fd)
    seal = Seal(4096, cipher, sector, 0, chosen.randbytes(32))
    store = Store([Place(0, size, fd, start, seal)])
    store.write(0, plain)
    for _ in range(200):
        offset = chosen.randrange(size)
        piece = chosen.randbytes(min(chosen.choice((1, 511, 512, 3000, 4096, 9000)), size - offset))
        store.write(offset, piece)
        plain[offset : offset + len(piece)] = piece
        first = chosen.randrange(size)
        assert store.read(first, 5000) == plain[first : first + 5000]
    raw = disk.read_bytes()
    assert raw[start:] == seal.sealer.sealed(start - 4096, bytes(plain))
    assert raw[:start] == bytes(start)
    assert "key" not in repr(seal)


def test_a_folder_that_is_not_there_is_told(stack, tmp_path):
    with pytest.raises(StoreError, match="no scratch file can be made"):
        Store.in_scratch(stack, SIZE, str(tmp_path / "missing"))


def test_a_scratch_file_has_no_name(stack, tmp_path):
    store = Store.in_scratch(stack, SIZE, str(tmp_path))
    store.write(0, b"x" * 4096)
    assert list(tmp_path.iterdir()) == []
