# SPDX-License-Identifier: GPL-3.0-or-later
"""Volume groups that lvm made with a Linux kernel: copies, stripes, pools, and what is copied whole."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from imager.examine import Volume, examine
from imager.extents import Extents
from imager.volumes import lvm
from imager.volumes.base import Assembly, Member
from tests.harness import volumes_corpus as corpus
from tests.harness.loop import call
from tests.harness.programs import missing_tools

_MISSING = missing_tools("e2fsck", "debugfs", "blkid", "thin_dump", "thin_check")
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")

PARITY = ["lv-raid4", "lv-raid5", "lv-raid5-la", "lv-raid5-ra", "lv-raid5-rs", "lv-raid5-n", "lv-raid5-grown"]
PARITY += ["lv-raid6-zr", "lv-raid6-nr", "lv-raid6-nc"]
FOLLOWED = ["lv-linear", "lv-striped", "lv-raid0", "lv-raid1", "lv-mirror", "lv-raid10", "lv-raid10-6", *PARITY]
WHOLE = {
    "lv-raid1-nosync": "not in sync",
    "lv-raid5-nosync": "not in sync",
    "lv-snapshot": "has a snapshot",
    "lv-cache": "of type cache",
    "lv-writecache": "of type writecache",
    "lv-pvmove": "LOCKED",
}


def assembled(contents: list[bytes]) -> Assembly:
    return lvm.assemble(
        [Member(number, reader, f"m{number}") for number, reader in enumerate(corpus.readers(contents))]
    )


def rows_of_lvs(case: str) -> dict[str, list[tuple[int, int, int]]]:
    """For each volume the member and range of its extents, as lvs printed them: device order is member order."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    for name, ranges in re.findall(
        r"^\s+\[?(\w+)\]?\s+\S+\s+((?:/dev/loop\d+:\d+-\d+ ?)+)", corpus.load(case)["lvs"].decode(), re.M
    ):
        for number, first, last in re.findall(r"/dev/loop(\d+):(\d+)-(\d+)", ranges):
            found.setdefault(name, []).append((int(number), int(first), int(last) + 1))
    return found


@pytest.mark.parametrize("case", FOLLOWED)
def test_nothing_outside_of_the_map_is_missed(case: str, tmp_path: Path):
    contents = corpus.members(case)
    held = corpus.examined(contents, lvm)
    assert not any(each.content.whole_reason for each in held)
    poisoned = [corpus.poisoned(content, each.used) for content, each in zip(contents, held, strict=True)]
    assert sum(each.used.total_bytes for each in held) < sum(map(len, contents)) - 2**20
    volumes = assembled(poisoned).volumes
    both = case in ("lv-linear", "lv-raid5-grown")
    assert [volume.name.rpartition("/")[2] for volume in volumes] == (["a", "b"] if both else ["a"])
    for volume in volumes[: 2 if case == "lv-linear" else 1]:  # the other one's second volume is blank
        for number, reader in enumerate(volume.readers):
            folder = tmp_path / f"{volume.name.replace('/', '-')}-{number}"
            folder.mkdir()
            corpus.check_files(case, volume.name.rpartition("/")[2], reader.read(0, reader.size), folder)


@pytest.mark.parametrize("case", ["lv-raid1", "lv-mirror"])
def test_each_copy_is_read(case: str):
    (volume,) = assembled(corpus.members(case)).volumes
    assert len(volume.readers) == 2
    assert {key for key, used in volume.back(Extents.single(5000, 6000)).items() if used.total_bytes == 1000} == {0, 1}


@pytest.mark.parametrize("case", WHOLE)
def test_what_cannot_be_followed_keeps_its_extents(case: str):
    contents = corpus.members(case)
    assembly = assembled(contents)
    assert not assembly.volumes
    assert not assembly.whole
    told = [each.whole_reason for content in assembly.contents.values() for each in content.inside]
    assert any(WHOLE[case] in reason for reason in told)
    for ranges in rows_of_lvs(case).values():
        for number, first, last in ranges:
            start = 2**20
            assert assembly.own[number].holds(start + first * 2**18, start + last * 2**18)


@pytest.mark.parametrize("case", corpus.cases("lv-"))
def test_blkid_says_the_same(case: str, tmp_path: Path):
    contents = corpus.members(case)
    for number, held in assembled(contents).contents.items():
        (tmp_path / "member").write_bytes(contents[number])
        told = call("blkid", "-p", "-o", "export", tmp_path / "member")
        assert (held.type, held.uuid) == (re.search("TYPE=(.*)", told)[1], re.search("^UUID=(.*)", told, re.M)[1])


# --- Thin pools -----------------------------------------------------------------------------------------------------


def place_of(case: str, name: str) -> tuple[int, int]:
    """First and last byte of a volume in one piece on the one member."""
    ((_, first, last),) = rows_of_lvs(case)[name]
    return 2**20 + first * 2**18, 2**20 + last * 2**18


def chunks_of_thin_dump(case: str, content: bytes, folder: Path) -> Extents:
    start, end = place_of(case, "pool_tmeta")
    (folder / "tmeta").write_bytes(content[start:end])
    said = call("thin_dump", folder / "tmeta")
    single = [(int(block), 1) for block in re.findall(r'data_block="(\d+)"', said)]
    ranges = [(int(start), int(length)) for start, length in re.findall(r'data_begin="(\d+)" length="(\d+)"', said)]
    return Extents.of((block * 65536, (block + length) * 65536) for block, length in single + ranges)


def test_of_a_pool_what_thin_dump_shows_is_used(tmp_path: Path):
    (content,) = corpus.members("lv-thin")
    (own,) = assembled([content]).own.values()
    start, end = place_of("lv-thin", "pool_tdata")
    mapped = chunks_of_thin_dump("lv-thin", content, tmp_path)
    assert mapped.total_bytes > 2**20
    assert own.clip(start, end).shift(-start) == mapped
    for name in ("pool_tmeta", "lvol0_pmspare"):
        assert own.holds(*place_of("lv-thin", name))


@pytest.mark.parametrize("label", ["t1", "t3"])
def test_thin_volumes_keep_their_files(label: str, tmp_path: Path):
    (content,) = corpus.members("lv-thin")
    (held,) = corpus.examined([content], lvm)
    poisoned = corpus.poisoned(content, held.used)
    start, end = place_of("lv-thin", "pool_tmeta")
    (tmp_path / "tmeta").write_bytes(poisoned[start:end])
    call("thin_check", tmp_path / "tmeta")
    device = {"t1": 1, "t3": 3}[label]
    said = call("thin_dump", "--dev-id", str(device), tmp_path / "tmeta")
    size = {"t1": 12, "t3": 100}[label] * 2**20
    volume = bytearray(size)
    data = place_of("lv-thin", "pool_tdata")[0]
    for origin, block, length in mappings(said):
        volume[origin * 65536 : (origin + length) * 65536] = poisoned[
            data + block * 65536 : data + (block + length) * 65536
        ]
    (tmp_path / "volume.img").write_bytes(volume)
    if label == "t1":  # a file was deleted after the sums were taken
        call("e2fsck", "-fn", tmp_path / "volume.img")
    else:
        corpus.check_files("lv-thin", label, bytes(volume), tmp_path)


def mappings(dump: str) -> list[tuple[int, int, int]]:
    singles = re.findall(r'origin_block="(\d+)" data_block="(\d+)"', dump)
    ranges = re.findall(r'origin_begin="(\d+)" data_begin="(\d+)" length="(\d+)"', dump)
    return [(int(origin), int(block), 1) for origin, block in singles] + [
        (int(origin), int(block), int(length)) for origin, block, length in ranges
    ]


def sum_of(block: bytes, salt: int) -> int:
    crc = 0xFFFFFFFF
    for byte in block[4:]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ salt


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (4, struct.pack("<I", 1), "needs a check"),
        (4, struct.pack("<I", 4), "unknown flags"),
        (44, struct.pack("<I", 9), "unknown version"),
        (360, struct.pack("<I", 1), "unknown version"),
        (48, struct.pack("<Q", 99), "of transaction"),
        (336, struct.pack("<I", 256), "another size"),
        (72, struct.pack("<Q", 1), "counts 1"),
        (64, struct.pack("<Q", 2**40), "are allocated"),
        (80, struct.pack("<Q", 2**40), "do not exist"),
        (320, struct.pack("<Q", 2**63), "do not exist"),
    ],
)
def test_a_doubtful_pool_is_used_whole(offset: int, value: bytes, said: str):
    content = bytearray(corpus.members("lv-thin")[0])
    start, _ = place_of("lv-thin", "pool_tmeta")
    # offsets: flags 4, magic 32, version 40, time 44, trans_id 48, roots from 64
    place = start + (40 if offset == 44 else offset)
    content[place : place + len(value)] = value
    content[start : start + 4] = struct.pack("<I", sum_of(bytes(content[start : start + 4096]), 160774))
    assembly = assembled([bytes(content)])
    (told,) = [each for each in assembly.contents[0].inside if each.name.endswith("/pool")]
    assert said in told.whole_reason
    assert assembly.own[0].holds(*place_of("lv-thin", "pool_tdata"))


def test_a_damaged_checksum_of_a_pool_makes_it_used_whole():
    content = bytearray(corpus.members("lv-thin")[0])
    start, _ = place_of("lv-thin", "pool_tmeta")
    content[start + 400] ^= 1
    assembly = assembled([bytes(content)])
    assert "checksum" in assembly.contents[0].inside[0].whole_reason


# --- Members that are missing, old or seen twice --------------------------------------------------------------------


def test_volumes_that_need_a_missing_member_keep_their_extents():
    contents = corpus.members("lv-linear")
    assembly = assembled(contents[:1])
    names = [volume.name for volume in assembly.volumes]
    assert "vg_lv_linear/b" in names or "vg_lv_linear/a" in names
    assert any("not at hand" in text for text in assembly.contents[0].warnings)
    whole = {each.name for each in assembly.contents[0].inside}
    assert whole.isdisjoint(names)


def test_a_physical_volume_seen_twice_is_copied_whole():
    (content,) = corpus.members("lv-snapshot")
    assembly = assembled([content, content])
    assert assembly.whole.keys() == {0, 1}
    assert not assembly.volumes


def test_file_system_of_a_followed_volume_is_described():
    (volume,) = assembled(corpus.members("lv-striped")).volumes
    assert examine(Volume(volume.readers[0])).content.label == "a"
