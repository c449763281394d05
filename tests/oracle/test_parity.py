# SPDX-License-Identifier: GPL-3.0-or-later
"""Arrays with parity, restored onto disks full of garbage: parity is right everywhere, as computed here anew.

The parity is what RAID6's authors say (H. Peter Anvin, The mathematics of RAID-6: GF(2^8) with 0x11d, generator 2) at
the places that md(4) names; sizes and roles are mdadm's words.
"""

from __future__ import annotations

import functools
import operator
import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from imager.capture.job import CaptureOptions, capture
from imager.devices.opening import open_source
from imager.layout import Content
from imager.restore.plan import RestoreScope
from imager.stores import open_output
from imager.survey import Disk, Survey, survey
from imager.volumes import mdraid
from imager.volumes.base import Member
from tests.harness import volumes_corpus as corpus
from tests.harness.disks import Part, gpt_disk, needs_table_tools
from tests.harness.programs import missing_tools
from tests.harness.restoring import MIB, restore_image

_MISSING = missing_tools("e2fsck", "debugfs")
pytestmark = [pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}"), needs_table_tools]
RAID4_OR_5 = ["md-r4", "md-r5-ls", "md-r5-ra", "md-r5-parity-first", "md-r5-ppl"]
RAID6 = ["md-r6-left-symmetric", "md-r6-right-asymmetric"]
LVM_RAID = ["lv-raid4", "lv-raid5-grown", "lv-raid6-nc"]
if os.environ.get("IMAGER_LONG"):
    RAID4_OR_5 = [case for case in corpus.cases("md-") if re.match("md-r[45]", case)]
    RAID6 = corpus.cases("md-r6")
    LVM_RAID += ["lv-raid5", "lv-raid5-la", "lv-raid5-ra", "lv-raid5-rs", "lv-raid5-n", "lv-raid6-zr"]
PARTITION_AT = 3 * MIB

Bytes = np.ndarray


@dataclass(frozen=True)
class Place:
    """Where a member lies: a disk in a file, and which of its bytes."""

    disk: Path
    start: int
    size: int


def garbage(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def laid_out(case: str, folder: Path) -> list[Place]:
    """Members of a case on unlike disks: the second one is longer, the last one a partition with room behind it."""
    contents = corpus.members(case)
    contents[1] += garbage(300 * 1024, 1)
    places = [Place(folder / f"disk{number}", 0, len(content)) for number, content in enumerate(contents)]
    last = Place(places[-1].disk, PARTITION_AT, places[-1].size)
    gpt_disk(last.disk, last.size + 8 * MIB, [Part(last.size + 2 * MIB, start_bytes=PARTITION_AT)])
    for place, content in zip([*places[:-1], last], contents, strict=True):
        with place.disk.open("r+b" if place is last else "wb") as file:
            file.seek(place.start)
            file.write(content)
    return [*places[:-1], last]


def captured(places: list[Place], folder: Path) -> list[Survey]:
    """Images of all disks, surveyed together, as folder/disk0.img and so on."""
    with ExitStack() as stack:
        readers = [stack.enter_context(open_source(place.disk, exclusive_check=False)) for place in places]
        found = survey([Disk(reader) for reader in readers])
        for place, reader, each in zip(places, readers, found, strict=True):
            image = folder / f"{place.disk.name}.img"
            options = CaptureOptions(threads=1, level="fast", chunk_size=256 * 1024)
            capture(reader, each, open_output(str(image)), options)
    return list(found)


def restored(case: str, folder: Path) -> list[bytes]:
    """The members after a capture and a restore onto disks that were full of garbage."""
    places = laid_out(case, folder)
    contents = []
    for number, (place, found) in enumerate(zip(places, captured(places, folder), strict=True)):
        assert found.used.total_bytes < found.layout.size_bytes - 128 * 1024  # there is something to clear
        target = folder / f"target{number}"
        target.write_bytes(garbage(place.disk.stat().st_size, number + 2))
        restore_image(folder / f"{place.disk.name}.img", target, clearing="zero-edges")
        contents.append(target.read_bytes()[place.start : place.start + place.size])
    return contents


def data_areas(case: str, contents: list[bytes]) -> tuple[Bytes, int]:
    """What mdadm says is the members' data, in the order of their roles; and the bytes of a chunk."""
    said = corpus.load(case)["examine"].decode()
    offset = int(re.findall(r"Data Offset : (\d+)", said)[0]) * 512
    chunk = int(re.findall(r"Chunk Size : (\d+)K", said)[0]) * 1024
    end = offset + int(re.findall(r"Avail Dev Size : (\d+)", said)[0]) * 512
    areas = np.stack([np.frombuffer(content[offset:end], dtype=np.uint8) for content in contents])
    assert areas.shape[1] % chunk == 0
    return areas, chunk


def times_two(values: Bytes) -> Bytes:
    return (values << 1) ^ np.where(values & 0x80, 0x1D, 0).astype(np.uint8)


def q_of(data: list[Bytes]) -> Bytes:
    """D0 + 2 D1 + 4 D2 + ..., in GF(2^8)."""
    return functools.reduce(lambda sum_above, each: times_two(sum_above) ^ each, reversed(data))


@pytest.mark.parametrize("case", RAID4_OR_5)
def test_raid5_on_disks_that_held_garbage_has_right_parity_everywhere(case: str, tmp_path: Path):
    areas, _ = data_areas(case, restored(case, tmp_path))
    assert not functools.reduce(operator.xor, areas).any()


@pytest.mark.parametrize("case", RAID6)
def test_raid6_on_disks_that_held_garbage_has_both_parities_right_everywhere(case: str, tmp_path: Path):
    areas, chunk = data_areas(case, restored(case, tmp_path))
    count = len(areas)
    for row in range(areas.shape[1] // chunk):
        p = row % count if "right" in case else count - 1 - row % count
        q = (p + 1) % count
        stripes = areas[:, row * chunk : (row + 1) * chunk]
        data = [stripes[(q + number) % count] for number in range(1, count - 1)]
        assert not (functools.reduce(operator.xor, data) ^ stripes[p]).any(), row
        assert not (q_of(data) ^ stripes[q]).any(), row


def test_its_files_are_those_of_before(tmp_path: Path):
    case = "md-r6-left-symmetric"
    contents = restored(case, tmp_path)
    members = [Member(number, reader) for number, reader in enumerate(corpus.readers(contents))]
    (volume,) = mdraid.assemble(members).volumes
    (reader,) = volume.readers
    corpus.check_files(case, case.removeprefix("md-"), reader.read(0, reader.size), tmp_path)


def test_a_member_restored_alone_into_another_partition_has_zeros_where_nothing_is_used(tmp_path: Path):
    places = laid_out("md-r5-ls", tmp_path)
    member = places[-1]
    entry = captured(places, tmp_path)[-1].layout.partitions[0]
    target = tmp_path / "target"
    target.write_bytes(garbage(20 * MIB, 9))
    scope = RestoreScope.partition(1, 7 * MIB, 7 * MIB + entry.size_bytes)
    restore_image(tmp_path / f"{member.disk.name}.img", target, scope, clearing="zero-edges")
    contents = [corpus.members("md-r5-ls")[number] for number in (0, 1)]
    contents.append(target.read_bytes()[7 * MIB : 7 * MIB + member.size])
    kept, _ = data_areas("md-r5-ls", contents)
    used = kept[2].reshape(-1, 4096).any(axis=1)
    wrong = functools.reduce(operator.xor, kept).reshape(-1, 4096).any(axis=1)
    assert not used[wrong].any()  # either as before, or zeros
    assert not used.all()


def content_of(found: Survey) -> Content:
    content = found.layout.content or found.layout.partitions[0].content
    assert content is not None
    return content


def test_one_member_that_is_copied_whole_makes_all_of_them_whole(tmp_path: Path):
    """A stranger's mark in a place of no data: the array is still put together, but that member is not trusted."""
    contents = corpus.members("md-r5-ls")
    marked = bytearray(contents[0])
    marked[65536 + 64 : 65536 + 72] = b"_BHRfS_M"
    readers = corpus.readers([bytes(marked), *contents[1:]])
    found = survey([Disk(reader) for reader in readers])
    assert "more than one owner" in content_of(found[0]).whole_reason
    said = corpus.load("md-r5-ls")["examine"].decode()
    offset = int(re.findall(r"Data Offset : (\d+)", said)[0]) * 512
    for each in found:
        assert each.used.holds(offset, each.layout.size_bytes)


def test_what_carries_no_parity_is_not_cleared():
    for case in ("md-r1-12", "md-r0-12", "md-r10-n2", "lv-linear"):
        found = survey([Disk(reader) for reader in corpus.readers(corpus.members(case))])
        assert not any(content_of(each).unused_is_zero for each in found)


def images_of(case: str, contents: list[bytes]) -> Bytes:
    """The images of the volume a, from the extents that lvs printed; device order is member order."""
    said = corpus.load(case)["lvs"].decode()
    text = corpus.load(case)["text"].decode()
    start = int(re.findall(r"pe_start = (\d+)", text)[0]) * 512
    extent = int(re.findall(r"extent_size = (\d+)", text)[0]) * 512
    found = []
    for number in range(len(contents)):
        runs = re.findall(rf"^ +\[a_rimage_{number}\] .*$", said, re.M)
        places = [place for run in runs for place in re.findall(r"/dev/loop(\d+):(\d+)-(\d+)", run)]
        pieces = [
            contents[int(member)][start + int(first) * extent : start + (int(last) + 1) * extent]
            for member, first, last in places
        ]
        found.append(np.frombuffer(b"".join(pieces), dtype=np.uint8))
    return np.stack(found)


@pytest.mark.parametrize("case", LVM_RAID)
def test_logical_volumes_with_parity_have_the_right_one_on_disks_that_held_garbage(case: str, tmp_path: Path):
    images, chunk = images_of(case, restored(case, tmp_path)), 16 * 1024
    assert images.shape[1] >= 16 * chunk
    if "raid6" not in case:
        assert not functools.reduce(operator.xor, images).any()
        return
    count = len(images)
    for row in range(images.shape[1] // chunk):
        p = row % count if case.endswith("zr") else count - 1 - row % count
        q = (p + 1) % count if case.endswith("zr") else (p - 1) % count
        stripes = images[:, row * chunk : (row + 1) * chunk]
        # DDF counts the places of the parities, too: the factor of a stripe is 2 to the number of its device.
        data = [stripes[number] * (number not in (p, q)) for number in range(count)]
        assert not (functools.reduce(operator.xor, data) ^ stripes[p]).any(), row
        assert not (q_of(data) ^ stripes[q]).any(), row
