# SPDX-License-Identifier: GPL-3.0-or-later
"""Pieces of the NTFS parser: sizes in the boot sector, fixups, runs, bits."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest

from imager.blocks import MemoryReader
from imager.extents import Extents, set_bit_runs
from imager.filesystems import ntfs
from imager.filesystems.base import NotTrusted
from imager.filesystems.ntfs import bitmap
from imager.filesystems.ntfs.bitmap import read_bitmap
from imager.filesystems.ntfs.boot import Geometry, check_geometry, read_boot_sector
from imager.filesystems.ntfs.log import read_log_state
from imager.filesystems.ntfs.records import COMPRESSED, DATA, Attribute, undo_fixups
from imager.filesystems.ntfs.streams import HOLE, Runs, Stream

# The first 80 bytes of boot sectors that Windows wrote, by the size of their clusters.
BY_WINDOWS = {
    131072: (
        "eb52904e544653202020200002f800000000000000f800003f00ff000008000000000000"
        "80008000ffe7ff030000000000600000000000000100000000000000f6000000f4000000de61c0b484c0b45c"
    ),
    4096: (
        "eb52904e5446532020202000020800000000000000f800003f00ff000030110000000000"
        "80008000ffc76e070000000000000c00000000000200000000000000f6000000010000002b8beefedbeefe7e"
    ),
    512: (
        "eb52904e5446532020202000020100000000000000f800003f00ff008000000000000000"
        "80008000ffe71f0000000000aaa20a00000000001000000000000000020000000800000079e41dee1b1eeea6"
    ),
    65536: (
        "eb52904e5446532020202000028000000000000000f800003f00ff000008000000000000"
        "80008000ffe7ff030000000000c00000000000000100000000000000f6000000f400000034606da6906da6a8"
    ),
}


def boot_sector(text: str) -> bytes:
    return bytes.fromhex(text).ljust(510, b"\0") + b"\x55\xaa"


@pytest.mark.parametrize("cluster_bytes", BY_WINDOWS)
def test_boot_sectors_by_windows_are_understood(cluster_bytes):
    boot = read_boot_sector(MemoryReader(boot_sector(BY_WINDOWS[cluster_bytes])))
    geometry = check_geometry(boot, 2**40)
    assert geometry.cluster_bytes == cluster_bytes
    assert geometry.record_bytes == 1024
    assert geometry.backup_offset == boot.size_bytes - 512


@pytest.mark.parametrize(
    ("sector", "stored", "cluster"),
    [(512, 1, 512), (512, 0x80, 65536), (512, 0xF8, 131072), (512, 0xF4, 2**21), (4096, 1, 4096), (4096, 0xF7, 2**21)],
)
def test_cluster_size_has_two_encodings(sector, stored, cluster):
    sound = bytearray(boot_sector(BY_WINDOWS[4096]))
    struct.pack_into("<HB", sound, 11, sector, stored)
    assert read_boot_sector(MemoryReader(bytes(sound))).cluster_bytes == cluster


@pytest.mark.parametrize(("sector", "stored"), [(512, 0), (512, 3), (512, 0x81), (512, 0xF3), (4096, 0xF6), (513, 1)])
def test_cluster_size_that_cannot_be_is_not_ntfs(sector, stored):
    sound = bytearray(boot_sector(BY_WINDOWS[4096]))
    struct.pack_into("<HB", sound, 11, sector, stored)
    assert read_boot_sector(MemoryReader(bytes(sound))) is None


@pytest.mark.parametrize("content", [b"", bytes(511), bytes(4096), b"\xff" * 4096])
def test_foreign_volumes_are_not_recognised(content):
    assert ntfs.probe(MemoryReader(content)) is None


def test_volume_of_which_only_the_boot_sector_is_left_is_still_named():
    found = ntfs.probe(MemoryReader(boot_sector(BY_WINDOWS[4096]).ljust(65536, b"\0")))
    assert found.type == "ntfs"
    assert found.uuid == "7EFEEEDBFEEE8B2B"


# --- Fixups ---------------------------------------------------------------------------------------------------------


def protected(sectors: int = 2) -> bytearray:
    content = bytearray(b"\x11" * 512 * sectors)
    struct.pack_into("<4sHH", content, 0, b"FILE", 48, sectors + 1)
    content[48:50] = b"\x05\x00"
    for index in range(1, sectors + 1):
        content[48 + 2 * index : 50 + 2 * index] = bytes([index, 0xAA])
        content[512 * index - 2 : 512 * index] = b"\x05\x00"
    return content


def test_fixups_put_back_what_the_array_keeps():
    fixed = undo_fixups(bytes(protected()), b"FILE", "it")
    assert (fixed[510:512], fixed[1022:1024]) == (b"\x01\xaa", b"\x02\xaa")


@pytest.mark.parametrize(
    ("at", "content", "said"),
    [
        (510, b"\x04", "not written as a whole"),
        (1023, b"\x01", "not written as a whole"),
        (0, b"BAAD", "begins with"),
        (6, b"\x02\0", "update sequence array"),
        (6, b"\0\0", "update sequence array"),
        (4, b"\xfa\x01", "update sequence array"),
        (4, b"\x02\0", "update sequence array"),
    ],
)
def test_torn_and_impossible_records_are_refused(at, content, said):
    torn = protected()
    torn[at : at + len(content)] = content
    with pytest.raises(NotTrusted, match=said):
        undo_fixups(bytes(torn), b"FILE", "it")


# --- Runs -----------------------------------------------------------------------------------------------------------

GEOMETRY = Geometry(512, 512, 4000, 1024, 4, 2000, 4000 * 512)


def runs(pairs: str, highest: int, lowest: int = 0) -> Attribute:
    return Attribute(DATA, "", 0, 0, None, lowest, highest, bytes.fromhex(pairs), 0, 0, 0)


def test_runs_are_relative_to_each_other_and_may_be_holes():
    # The example of libfsntfs' documentation: 0x30 clusters from 0x20 on, then 0x10 at 0x20 + 0x60; then a hole.
    found = Runs(4000, "it")
    found.add(runs("21 30 20 00 11 10 60 02 00 01 11 02 f0 00", 0x141))
    assert list(found.parts(0)) == [(0, 0x20, 0x30), (0x30, 0x80, 0x10), (0x40, HOLE, 0x100), (0x140, 0x70, 2)]
    assert list(found.clusters()) == [(0x20, 0x50), (0x70, 0x72), (0x80, 0x90)]
    assert next(found.parts(0x3F)) == (0x30, 0x80, 0x10)


def test_pieces_follow_on_one_another():
    found = Runs(4000, "it")
    found.add(runs("11 05 10 00", 4))
    found.add(runs("11 02 50 00", 6, lowest=5))
    assert list(found.clusters()) == [(0x10, 0x15), (0x50, 0x52)]
    with pytest.raises(NotTrusted, match="no runs from its cluster 7"):
        found.add(runs("11 02 60 00", 9, lowest=8))


@pytest.mark.parametrize(
    "pairs",
    [
        "10 05",
        "01 00",
        "01 ff",
        "19 05 01",
        "91 05 01",
        "11 05",
        "11 05 ff",
        "31 05 ff ff 7f",
        "28 ff ff ff ff ff ff ff 7f",
    ],
)
def test_impossible_runs_are_refused(pairs):
    with pytest.raises(NotTrusted):
        Runs(4000, "it").add(runs(pairs, 4))


def stream(content: bytes, pairs: str, clusters: int, *, size: int = -1, written: int = -1, flags: int = 0) -> Stream:
    size = clusters * 512 if size < 0 else size
    first = replace(
        runs(pairs, clusters - 1), data_size=size, initialized_size=size if written < 0 else written, flags=flags
    )
    return Stream(MemoryReader(content), GEOMETRY, first, "it")


def test_stream_reads_through_its_runs():
    content = b"".join(bytes([number]) * 512 for number in range(8))
    found = stream(content, "11 01 05 01 01 11 02 fe", 4, written=3 * 512 + 100)
    assert found.read(0, 512) == b"\x05" * 512
    assert found.read(511, 514) == b"\x05" + bytes(512) + b"\x03"
    assert found.read(3 * 512, 512) == b"\x04" * 100 + bytes(412)
    with pytest.raises(NotTrusted, match="ends before"):
        found.read(4 * 512, 1)


def test_stream_that_is_shorter_than_it_says_is_refused():
    with pytest.raises(NotTrusted, match="only 4 clusters"):
        stream(b"", "11 04 05", 4, size=5 * 512).check_complete()
    with pytest.raises(NotTrusted, match="initialized"):
        stream(b"", "11 04 05", 4, written=9000)


@pytest.mark.parametrize(
    ("pairs", "flags", "said"), [("11 04 05", COMPRESSED & 1, "compressed"), ("11 02 05 01 02", 0, "hole")]
)
def test_system_files_are_plain(pairs, flags, said):
    with pytest.raises(NotTrusted, match=said):
        stream(b"", pairs, 4, flags=flags).check_plain()


# --- The log --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"), [(bytes(2048), "begins with"), (b"RSTR" + bytes(2044), "pages of 0"), (b"", "too few")]
)
def test_log_without_restart_pages_is_refused(content, said):
    with pytest.raises(NotTrusted, match=said):
        read_log_state(stream(bytes(512) + content, "11 04 01", 4, size=len(content)))


def test_log_that_was_reset_is_clean():
    assert read_log_state(stream(b"\xff" * 4096, "11 04 01", 4)).reason == ""


def test_log_that_was_reset_in_part_only_is_not_trusted():
    with pytest.raises(NotTrusted):
        read_log_state(stream(b"\xff" * 2000 + bytes(2096), "11 04 01", 4))


# --- $Bitmap --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(1, 20))
def test_runs_of_bits_are_those_of_the_plain_method(seed, monkeypatch):
    monkeypatch.setattr(bitmap, "_PIECE_BYTES", 64)
    random = np.random.default_rng(seed)
    bits = np.repeat(random.integers(0, 2, 400), random.integers(1, 1 + 4 * seed, 400))[:4000]
    bits = np.append(bits, np.ones(4032 - len(bits), dtype=bits.dtype))
    bits[4000:] = 1
    content = np.packbits(bits, bitorder="little").tobytes()
    found = read_bitmap(stream(bytes(512) + content.ljust(512, b"\0"), "11 01 01", 1, size=len(content)), 4000)
    assert found.clusters == Extents(*set_bit_runs(content, count=4000))
    assert found.count == int(bits[:4000].sum())


@pytest.mark.parametrize("count", [4000, 3999, 3993, 4001, 4031, 4032])
def test_padding_after_the_last_cluster_must_be_set(count):
    content = bytearray(b"\xff" * 504)
    content[(count - 1) // 8] &= ~(1 << (count - 1) % 8)
    read = stream(bytes(512) + bytes(content) + bytes(8), "11 01 01", 1, size=504)
    assert read_bitmap(read, count).count == count - 1
    if count < 4032:
        with pytest.raises(NotTrusted, match="after the last one"):
            read_bitmap(read, count - 1)
