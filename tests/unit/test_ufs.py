# SPDX-License-Identifier: GPL-3.0-or-later
"""The UFS parser on volumes with one wrong field, and on hostile content."""

from __future__ import annotations

import functools

import pytest
import zstandard

from imager.blocks import MemoryReader
from imager.crc import CRC32C
from imager.filesystems import ufs
from imager.filesystems.ufs.groups import CG
from imager.filesystems.ufs.structs import SUPERBLOCK
from tests.harness.guest_cases import CORPUS
from tests.harness.hostile import fuzz, refusal

SB = 65536
GROUPS = 4
ORDERS = {"freebsd-little": "little", "freebsd-big": "big"}


@functools.cache
def volume(name: str = "freebsd-little") -> bytes:
    return zstandard.decompress((CORPUS / "ufs" / f"{name}.zst").read_bytes())


def place(table, name: str) -> tuple[int, int]:
    """Offset and length of a field."""
    dtype, offset = table.fields[name][:2]
    return offset, dtype.itemsize


def field(name: str, *, order: str = "little", content: bytes | bytearray | None = None) -> int:
    offset, length = place(SUPERBLOCK, name)
    return int.from_bytes((content or volume())[SB + offset : SB + offset + length], order)  # type: ignore[arg-type]


def groups(name: str = "freebsd-little") -> list[int]:
    """Where each cylinder group's block lies."""
    order, content = ORDERS[name], volume(name)
    per_group, own, size = (field(word, order=order, content=content) for word in ("fs_fpg", "fs_cblkno", "fs_fsize"))
    return [(number * per_group + own) * size for number in range(GROUPS)]


def correct(content: bytearray, name: str = "freebsd-little") -> None:
    """Write all check-hashes anew."""
    order = ORDERS[name]
    length = field("fs_cgsize", order=order, content=volume(name))
    hashed = [(SB, place(SUPERBLOCK, "fs_ckhash")[0], field("fs_sbsize", order=order, content=volume(name)))]
    hashed += [(at, place(CG, "cg_ckhash")[0], length) for at in groups(name)]
    for start, at, size in hashed:
        content[start + at : start + at + 4] = bytes(4)
        found = CRC32C.of(bytes(content[start : start + size]))
        content[start + at : start + at + 4] = found.to_bytes(4, order)  # type: ignore[arg-type]


def told_after(*changes: tuple[int, bytes]) -> str:
    content = bytearray(volume())
    for offset, new in changes:
        content[offset : offset + len(new)] = new
    correct(content)
    return refusal(ufs, bytes(content))


@pytest.mark.parametrize("name", ORDERS)
def test_check_hashes_of_these_tests_are_those_of_freebsd(name: str):
    content = bytearray(volume(name))
    correct(content, name)
    assert content == volume(name)


WRONG_FIELDS = [
    ("fs_bsize", 5000, "fs_bsize"),
    ("fs_fsize", 0, "fs_fsize"),
    ("fs_fsize", 256, "fs_fsize"),
    ("fs_fsize", 2**31, "fs_fsize"),
    ("fs_frag", 4, "fs_frag"),
    ("fs_bshift", 200, "fs_bshift"),
    ("fs_fshift", 0, "fs_fshift"),
    ("fs_fragshift", 31, "fs_fragshift"),
    ("fs_sbsize", 2**31 - 1, "fs_sbsize"),
    ("fs_cgsize", 2**31 - 1, "fs_cgsize"),
    ("fs_cgsize", 168, "fs_cgsize"),
    ("fs_fpg", 0, "fs_fpg"),
    ("fs_fpg", 2**31 - 8, "fs_fpg"),
    ("fs_fpg", 255, "fs_fpg"),
    ("fs_size", 0, "fs_size"),
    ("fs_size", 2**63, "fs_size"),
    ("fs_size", 2**40, "fs_ncg"),
    ("fs_ncg", 5, "fs_ncg"),
    ("fs_ncg", 2**32 - 1, "fs_ncg"),
    ("fs_sblkno", 0, "fs_sblkno"),
    ("fs_cblkno", 2**31, "fs_sblkno"),
    ("fs_iblkno", 1, "fs_iblkno"),
    ("fs_dblkno", 2**31 - 1, "fs_iblkno"),
    ("fs_cssize", 0, "fs_cssize"),
    ("fs_cssize", 2**31 - 1, "fs_cssize"),
    ("fs_csaddr", 2**62, "fs_csaddr"),
    ("fs_csaddr", 2**63, "fs_csaddr"),
    ("fs_clean", 0, "not cleanly unmounted"),
    ("fs_clean", 2, "not cleanly unmounted"),
    ("fs_pendingblocks", 8, "wait to be freed"),
    ("fs_pendinginodes", 1, "wait to be freed"),
    ("cs_nbfree", 48, "its cylinder groups"),
    ("cs_nffree", 39, "its cylinder groups"),
    ("fs_sblockloc", 8192, "no UFS superblock"),
    ("fs_magic", 0, "no UFS superblock"),
]


@pytest.mark.parametrize(("name", "value", "why"), WRONG_FIELDS)
def test_one_wrong_field_of_the_superblock_is_told(name: str, value: int, why: str):
    offset, length = place(SUPERBLOCK, name)
    assert why in told_after((SB + offset, value.to_bytes(length, "little")))


@pytest.mark.parametrize(
    ("bits", "why"),
    [
        (0x1, "not cleanly unmounted"),
        (0x4, "in need of fsck"),
        (0x40, "gjournal"),
        (0x01000000, "0x1000000"),
        (0x800, "0x800"),
    ],
)
def test_flags_that_lower_trust_are_told(bits: int, why: str):
    value = (field("fs_flags") | bits).to_bytes(4, "little")
    assert why in told_after((SB + place(SUPERBLOCK, "fs_flags")[0], value))


def test_flags_in_their_old_place_count():
    assert "in need of fsck" in told_after((SB + place(SUPERBLOCK, "fs_old_flags")[0], b"\x04"))


def test_snapshots_are_told():
    assert "snapshots" in told_after((SB + 1116 + 4 * 19, b"\x07\0\0\0"))


def test_journal_of_soft_updates_is_no_reason_once_unmounted():
    value = (field("fs_flags") | 0x8).to_bytes(4, "little")
    content = bytearray(volume())
    at = SB + place(SUPERBLOCK, "fs_flags")[0]
    content[at : at + 4] = value
    correct(content)
    assert "journal" in ufs.used_map(MemoryReader(bytes(content))).content.facts["features"]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("cg_magic", 0, "no cylinder group 2"),
        ("cg_cgx", 1, "no cylinder group 2"),
        ("cg_ndblk", 2**32 - 1, "fragments"),
        ("cg_freeoff", 0, "cg_freeoff"),
        ("cg_freeoff", 2**32 - 1, "cg_freeoff"),
        ("cs_nbfree", 0, "header of cylinder group 2"),
        ("cs_nffree", 2**31, "header of cylinder group 2"),
    ],
)
def test_one_wrong_field_of_a_group_is_told(name: str, value: int, why: str):
    offset, length = place(CG, name)
    assert why in told_after((groups()[2] + offset, value.to_bytes(length, "little")))


def test_summary_that_differs_from_its_groups_is_told():
    assert "the summary of cylinder group 0" in told_after((field("fs_csaddr") * 4096 + 4, b"\x63"))


def test_metadata_that_is_marked_free_is_told():
    offset, length = place(CG, "cg_freeoff")
    for at in groups():
        start = at + int.from_bytes(volume()[at + offset : at + offset + length], "little")
        assert "own metadata" in told_after((start + field("fs_sblkno") // 8, b"\xff"))


def test_wrong_check_hashes_are_told():
    assert "check-hash of its superblock" in refusal(ufs, volume(), (SB + 500, b"x"))
    assert "check-hash of cylinder group 3" in refusal(ufs, volume(), (groups()[3] + 2000, b"x"))


def test_check_hashes_that_an_old_kernel_left_behind_do_not_count():
    value = (field("fs_flags") & ~0x200).to_bytes(4, "little")
    changes = ((SB + place(SUPERBLOCK, "fs_flags")[0], value), (groups()[3] + 2000, b"x"))
    assert refusal(ufs, volume(), *changes) == ""


def test_two_file_systems_are_told():
    other = bytearray(volume()[SB : SB + 1376])
    other[1000:1008] = (262144).to_bytes(8, "little")
    other[188:192] = (2**10).to_bytes(4, "little")
    assert "two different" in told_after((262144, bytes(other)))


def test_cut_volume_is_told():
    assert "in a volume of" in refusal(ufs, volume()[: 3 * 2**20])


def test_foreign_content_is_not_recognised():
    assert ufs.probe(MemoryReader(bytes(300_000))) is None
    assert ufs.probe(MemoryReader(b"")) is None


@pytest.mark.parametrize("name", ORDERS)
def test_hostile_content_gives_a_map_or_a_reason(name: str):
    places = [
        (SB, 1376),
        (SB, 216),
        (SB + 1000, 376),
        *((at, 4096) for at in groups(name)),
        *((at, 168) for at in groups(name)),
    ]
    outcomes = fuzz(ufs, volume(name), places, lambda content: correct(content, name), rounds=100)
    assert outcomes["reason"] > 20
    assert outcomes["map"] > 0
