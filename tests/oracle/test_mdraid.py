# SPDX-License-Identifier: GPL-3.0-or-later
"""MD arrays that a Linux kernel made, judged by mdadm, blkid, e2fsck, and the sums of their files."""

from __future__ import annotations

import functools
import operator
import re
from pathlib import Path

import numpy as np
import pytest

from imager.blocks import MemoryReader
from imager.examine import Volume, examine
from imager.extents import Extents
from imager.volumes import mdraid
from imager.volumes.base import Assembly, Member
from tests.harness import volumes_corpus as corpus
from tests.harness.loop import loop_device, needs_root
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("mdadm", "e2fsck", "debugfs", "blkid")
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")

WHOLE = {
    "md-r0-zones": "differ in size",
    "md-r1-active": "not stopped cleanly",
    "md-r1-rebuild": "being rebuilt",
    "md-r1-stale": "different states",
}
CASES = corpus.cases("md-")
FOLLOWED = [case for case in CASES if case not in WHOLE]
PARITY = [case for case in FOLLOWED if re.match("md-r[456]", case)]


def assembled(contents: list[bytes]) -> Assembly:
    return mdraid.assemble(
        [Member(number, reader, f"m{number}") for number, reader in enumerate(corpus.readers(contents))]
    )


def used_of(contents: list[bytes], assembly: Assembly) -> list[Extents]:
    """The maps of the copies of the one volume, united and brought back to the members, and what MD itself uses."""
    (volume,) = assembly.volumes
    used = Extents.union_of(examine(Volume(reader)).used for reader in volume.readers)
    assert not any(examine(Volume(reader)).content.whole_reason for reader in volume.readers)
    back = volume.back(used)
    return [
        back.get(number, Extents()) | assembly.own.get(number, Extents.single(0, len(content)))
        for number, content in enumerate(contents)
    ]


def volume_bytes(contents: list[bytes]) -> list[bytes]:
    return [reader.read(0, reader.size) for reader in assembled(contents).volumes[0].readers]


@pytest.mark.parametrize("case", FOLLOWED)
def test_nothing_outside_of_the_map_is_missed(case: str, tmp_path: Path):
    contents = corpus.members(case)
    assembly = assembled(contents)
    used = used_of(contents, assembly)
    poisoned = [corpus.poisoned(content, each) for content, each in zip(contents, used, strict=True)]
    assert sum(each.total_bytes for each in used) < sum(map(len, contents)) - 2**20
    for number, copy in enumerate(volume_bytes(poisoned)):
        folder = tmp_path / str(number)
        folder.mkdir()
        corpus.check_files(case, case.removeprefix("md-"), copy, folder)


@needs_root
@pytest.mark.parametrize("case", CASES)
def test_mdadm_and_blkid_say_the_same(case: str, tmp_path: Path):
    contents = corpus.members(case)
    assembly = assembled(contents)
    for number, content in [*enumerate(contents)][-1:]:
        (tmp_path / "member").write_bytes(content)
        held = assembly.contents[number]
        told = dict(
            line.split("=", 1) for line in call("blkid", "-p", "-o", "export", tmp_path / "member").splitlines()
        )
        assert (held.type, held.uuid) == (told["TYPE"], told["UUID"])
        assert held.label == told.get("LABEL", "").replace("\\", "")
        with loop_device(tmp_path / "member", read_only=True) as disk:
            said = call("mdadm", "--examine", disk)
        assert held.facts["level"] == re.search(r"Raid Level : (\S+)", said)[1]
        assert held.facts["events"] == re.search(r"Events : (\S+)", said)[1]
        assert held.facts["members"] == re.search(r"Raid Devices : (\S+)", said)[1]


@pytest.mark.parametrize("case", FOLLOWED)
def test_volume_is_as_large_as_mdadm_says(case: str):
    said = corpus.load(case).get("examine", b"").decode()
    sizes = re.findall(r"Array Size : (\d+)", said)
    if not sizes:
        pytest.skip("mdadm names no size")
    assert {reader.size for reader in assembled(corpus.members(case)).volumes[0].readers} == {int(sizes[0]) * 1024}


@pytest.mark.parametrize("case", WHOLE)
def test_members_of_doubtful_state_are_copied_whole(case: str):
    contents = corpus.members(case)
    assembly = assembled(contents)
    assert not assembly.volumes
    assert assembly.whole.keys() == set(range(len(contents)))
    assert any(WHOLE[case] in reason for reason in assembly.whole.values())


@pytest.mark.parametrize("case", [case for case in FOLLOWED if case not in ("md-r1-degraded",)])
def test_a_missing_member_leaves_the_others_whole(case: str):
    contents = corpus.members(case)[1:]
    assembly = assembled(contents)
    assert not assembly.volumes
    assert len(assembly.whole) == len(contents)
    assert any("not at hand" in text for content in assembly.contents.values() for text in content.warnings)


def test_degraded_mirror_is_followed_and_says_so():
    assembly = assembled(corpus.members("md-r1-degraded"))
    assert assembly.volumes
    assert "runs without 1 of its 2" in assembly.contents[0].warnings[0]


def test_spare_is_copied_whole_and_hinders_nobody():
    assembly = assembled(corpus.members("md-r1-spare"))
    assert list(assembly.whole.values()) == ["it is a spare"]
    assert len(assembly.volumes[0].readers) == 2


@pytest.mark.parametrize("case", PARITY)
def test_stripes_in_use_keep_their_parity(case: str):
    contents = corpus.members(case)
    assembly = assembled(contents)
    used = used_of(contents, assembly)
    offset = int(assembly.own[0].ends[0])
    assert all(each == used[0] for each in used)  # what one member keeps of a stripe, all do
    data = [np.frombuffer(corpus.poisoned(content, used[0]), dtype=np.uint8) for content in contents]
    if case.startswith("md-r6"):
        return
    parity = functools.reduce(operator.xor, data)
    inside = used[0].clip(offset, int(assembly.own[0].starts[-1]) if len(assembly.own[0]) > 1 else len(data[0]))
    assert inside.total_bytes
    assert not any(parity[start:end].any() for start, end in inside)


def test_two_copies_of_one_member_are_not_followed():
    first, _ = corpus.members("md-r1-12")
    assembly = assembled([first, first])
    assert "one role" in assembly.whole[0]


def test_member_whose_checksum_is_wrong_is_copied_whole():
    contents = corpus.members("md-r1-12")
    damaged = bytearray(contents[0])
    damaged[4096 + 200] ^= 1
    assembly = assembled([bytes(damaged), contents[1]])
    assert "checksum" in assembly.whole[0]
    assert "not at hand" in assembly.whole[1]


def big_endian(content: bytes) -> bytes:
    """A member with its 0.90 superblock as a machine of the other byte order would have written it."""
    at = (len(content) & ~0xFFFF) - 0x10000
    words = np.frombuffer(content, dtype="<u4", count=1024, offset=at).copy()
    for low in (39, 41, 44):
        words[[low, low + 1]] = words[[low + 1, low]]
    return content[:at] + words.astype(">u4").tobytes() + content[at + 4096 :]


@needs_root
def test_other_byte_order_of_version_090_is_read(tmp_path: Path):
    contents = [big_endian(content) for content in corpus.members("md-r1-090")]
    assembly = assembled(contents)
    (tmp_path / "member").write_bytes(contents[0])
    with loop_device(tmp_path / "member", read_only=True) as disk:
        said = call("mdadm", "--examine", "--metadata=0.swap", disk)
    assert len(assembly.volumes) == 1
    assert assembly.contents[0].facts["events"] == re.search(r"Events : (\S+)", said)[1]
    assert assembly.contents[0].uuid.replace("-", "") == re.search(r"UUID : (\S+)", said)[1].replace(":", "")


def test_a_file_system_at_the_start_of_a_member_does_not_decide():
    """1.0 and 0.90 show the volume's file system on the member itself, too."""
    (first, _) = corpus.members("md-r1-10")
    assert examine(Volume(MemoryReader(first))).content.whole_reason
