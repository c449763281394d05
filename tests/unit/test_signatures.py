# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks written by hand, noise, and volumes too small for any mark."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest

from imager.blocks import MemoryReader
from imager.filesystems import signatures

MIB = 1024 * 1024


def names_in(content: bytes, *, sector_size: int = 512) -> set[str]:
    found = signatures.find_signatures(MemoryReader(bytes(content), sector_size=sector_size))
    assert all(mark.offset_bytes + mark.length_bytes <= len(content) for mark in found)
    return {mark.name for mark in found}


def volume(*marks: tuple[int, bytes], size: int = 4 * MIB) -> bytes:
    """Zeros with these bytes at these offsets; negative ones count from the end."""
    content = bytearray(size)
    for offset, mark in marks:
        start = offset if offset >= 0 else size + offset
        content[start : start + len(mark)] = mark
    return bytes(content)


def test_noise_belongs_to_nobody():
    rng = np.random.default_rng(200)
    for _ in range(200):
        assert names_in(rng.bytes(4 * MIB)) == set()


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x55\xaa"])
def test_uniform_content_belongs_to_nobody(fill: bytes):
    assert names_in(fill * (2 * MIB)) == set()


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1023, 1082, 4095, 4096, 65535, 65536, 3 * MIB + 1])
def test_volumes_of_any_size_are_looked_through(size: int):
    assert names_in(bytes(size)) == set()
    assert names_in(b"XFSB"[:size] + bytes(max(0, size - 4))) == ({"xfs"} if size >= 4 else set())


@pytest.mark.parametrize(
    ("name", "marks"),
    [
        ("xfs", ((0, b"XFSB"),)),
        ("ntfs", ((3, b"NTFS    "),)),
        ("ReFS", ((3, b"ReFS\0"),)),
        ("BitLocker", ((0, b"\xeb\x58\x90-FVE-FS-"),)),
        ("BitLocker", ((424, bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")),)),
        ("apfs", ((24, b"\x01\0\0\x80"), (32, b"NXSB"))),
        ("hfsplus", ((1024, b"H+\0\4"), (1024 + 40, b"\0\0\x10\0"))),
        ("hfs", ((1024, b"BD"), (1024 + 18, b"\1\0\0\0\x02\0"))),
        ("hfsplus", ((1024, b"BD"), (1024 + 18, b"\1\0\0\0\x02\0"), (1024 + 124, b"H+"))),
        ("ufs", ((65536 + 48, b"\0\x80\0\0\0\x10\0\0\x08\0\0\0"), (65536 + 1372, b"\x19\x01\x54\x19"))),
        ("hpfs", ((0x2000, b"\x49\xe8\x95\xf9"), (0x2200, b"\x49\x18\x91\xf9"))),
        ("LVM2_member", ((0, b"LABELONE"), (24, b"LVM2 001"))),
        ("LVM2_member", ((1536, b"LABELONE"), (1536 + 24, b"LVM2 001"))),
        ("crypto_LUKS", ((0, b"LUKS\xba\xbe\0\1"),)),
        ("crypto_LUKS", ((0x4000, b"SKUL\xba\xbe\0\2"), (0x4000 + 256, (0x4000).to_bytes(8, "big")))),
        ("drbd", ((-4096 + 60, b"\x83\x74\x02\x6b"),)),
        ("drbd", ((-4096 + 60, b"\x83\x74\x02\x6d"),)),
        ("ddf_raid_member", ((-512, b"\xde\x11\xde\x11"),)),
        ("isw_raid_member", ((-1024, b"Intel Raid ISM Cfg Sig. 1.3.00"),)),
        ("promise_fasttrack_raid_member", ((-3087 * 512, b"Promise Technology, Inc."),)),
        ("adaptec_raid_member", ((-512 + 256, b"DPTM"),)),
        ("linux_raid_member", ((-65536, b"\xa9\x2b\x4e\xfc\0\0\0\0\0\0\0\x5a"),)),
        ("zfs_member", ((128 * 1024 + 4096, (0x00BAB10C).to_bytes(8, "little")),)),
        ("zfs_member", ((-128 * 1024, (0x00BAB10C).to_bytes(8, "big")),)),
        ("zfs_member", ((-240 * 1024, b"\x01\x01\0\0" + bytes(8) + b"\0\0\0\x24vdev_tree"),)),
        ("VMFS", ((2 * MIB, b"\x5e\xf1\xab\x2f"),)),
        ("VMFS_volume_member", ((MIB, b"\x0d\xd0\x01\xc0"),)),
        ("bcachefs", ((4096 + 24, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),)),
        ("stratis", ((516, b"!Stra0tis\x86\xff\x02^\x41rh"),)),
        ("vdo", ((0, b"dmvdo001"),)),
        ("ceph_bluestore", ((0, b"bluestore block device\n"),)),
        ("DM_verity_hash", ((0, b"verity\0\0"),)),
    ],
)
def test_marks_are_found_where_their_owners_put_them(name: str, marks: tuple[tuple[int, bytes], ...]):
    assert names_in(volume(*marks)) == {name}


def test_intel_raid_lies_by_the_sector_size():
    content = volume((-8192, b"Intel Raid ISM Cfg Sig. 1.3.00"))
    assert names_in(content, sector_size=4096) == {"isw_raid_member"}
    assert names_in(content) == set()


def gpt_header() -> bytes:
    header = bytearray(b"EFI PART\0\0\1\0\x5c\0\0\0" + bytes(76))
    header[16:20] = zlib.crc32(header).to_bytes(4, "little")
    return bytes(header)


@pytest.mark.parametrize("offset", [512, 4096])
def test_partition_table_inside_is_told(offset: int):
    assert names_in(volume((offset, gpt_header()))) == {"gpt"}
    assert names_in(volume((offset, gpt_header()[:91] + b"\1"))) == set()


def test_mbr_is_told_from_boot_code():
    entry = bytes.fromhex("80202100 83fe ffff 00080000 00f01f00")
    assert names_in(volume((446, entry), (510, b"\x55\xaa"))) == {"dos"}
    assert names_in(volume((446, b"Error loading OS"), (510, b"\x55\xaa"))) == set()
    assert names_in(volume((510, b"\x55\xaa"))) == set()


def test_two_owners_are_both_told():
    content = volume((0, b"XFSB"), (-4096 + 60, b"\x83\x74\x02\x6d"), (65536 + 64, b"_BHRfS_M"))
    assert names_in(content) == {"xfs", "drbd", "btrfs"}


def test_mutated_marks_disturb_nobody():
    rng = random.Random(5)
    base = volume(
        (1024, rng.randbytes(1024)), (1080, b"\x53\xef"), (4086, b"SWAPSPACE2"), (0, b"\xeb\x58\x90"), size=MIB
    )
    for _ in range(60):
        content = bytearray(base)
        for _ in range(200):
            content[rng.randrange(8192)] = rng.randrange(256)
        names_in(bytes(content))
