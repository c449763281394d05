# SPDX-License-Identifier: GPL-3.0-or-later
"""F2FS's used map, judged by fsck.f2fs, dump.f2fs, partclone and the digests that a kernel took."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from imager.blocks import Slice
from imager.examine import Volume, examine
from imager.extents import Extents
from imager.filesystems import f2fs
from imager.filesystems.base import NotTrusted
from tests.harness.f2fs_images import (
    CLEAN_CASES,
    dump,
    files_by_kernel,
    make_f2fs,
    partclone_map,
    unpack,
    used_map,
    verdict,
)
from tests.harness.files import FileReader
from tests.harness.poison import poison
from tests.harness.programs import call, missing_tools

_MISSING = missing_tools("mkfs.f2fs", "fsck.f2fs", "dump.f2fs", "sload.f2fs")
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}")
needs_partclone = pytest.mark.skipif(bool(missing_tools("partclone.f2fs")), reason="not installed: partclone.f2fs")

MIB = 1024 * 1024
BLOCK = 4096
IS_LONG = os.environ.get("IMAGER_LONG") == "1"
MOST_FILES = 10_000 if IS_LONG else 12

FEATURES = "encrypt,project_quota,inode_crtime,verity,casefold,compression"
MADE = {
    "default": (128 * MIB,),
    "smallest": (52 * MIB,),
    "odd size": (107 * MIB + 5 * 512,),
    "sectors of 4096 bytes": (128 * MIB, "-w", "4096"),
    "large sections and zones": (400 * MIB, "-s", "4", "-z", "2"),
    "large NAT bitmap": (128 * MIB, "-i"),
    "overprovision": (128 * MIB, "-o", "20"),
    "read-only": (128 * MIB, "-O", "ro"),
    "checksums": (128 * MIB, "-O", "extra_attr,inode_checksum,sb_checksum"),
    "features": (128 * MIB, "-C", "utf8", "-O", f"extra_attr,{FEATURES}"),
    "flexible inline attributes": (64 * MIB, "-O", "extra_attr,flexible_inline_xattr"),
    "quota": (128 * MIB, "-O", "extra_attr,project_quota,quota,lost_found"),
    "heap": (128 * MIB, "-a", "1"),
    "label": (128 * MIB, "-l", "Größe 日本"),
}

# partclone 0.3.23 dies on "full", "large-nat" and read-only volumes, and takes two seconds for each.
BY_PARTCLONE = ["summaries", "scattered"] if not IS_LONG else sorted({*CLEAN_CASES} - {"full", "large-nat"})


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of files of several sizes; sload.f2fs writes it."""
    top = tmp_path_factory.mktemp("content")
    (top / "folder" / "inner").mkdir(parents=True)
    for number in range(30):
        (top / "folder" / f"small {number}").write_bytes(b"%d" % number * number * 7)
    (top / "folder" / "inner" / "large").write_bytes(bytes(range(256)) * 12_000)
    (top / "link").symlink_to("folder/inner/large")
    return top


@pytest.mark.parametrize("case", MADE)
def test_made_volumes_stay_clean_when_all_else_is_garbage(case: str, content: Path, tmp_path: Path):
    size_bytes, *options = MADE[case]
    image = make_f2fs(tmp_path / "image", size_bytes, *options)
    for step in (None, ("sload.f2fs", "-f", content, image)):
        if step and size_bytes < 100 * MIB:
            break  # sload.f2fs wants ten free segments, and cannot write with flexible_inline_xattr
        if step:
            call(*step)
        poison(image, tmp_path / "poisoned", used_map(image).used)
        assert "[Ok..]" in verdict(image)
        assert "[Fail]" not in verdict(image)
        assert verdict(tmp_path / "poisoned") == verdict(image)


@pytest.mark.parametrize("case", CLEAN_CASES)
def test_nothing_outside_of_the_map_is_missed(case: str, tmp_path: Path):
    image = unpack(case, tmp_path)
    found = used_map(image)
    poison(image, tmp_path / "poisoned", found.used)
    assert verdict(tmp_path / "poisoned") == verdict(image)
    assert "[Fail]" not in verdict(image)
    files = files_by_kernel(image)
    assert len(files) > 3
    for inode in sorted(files)[:: len(files) // MOST_FILES + 1]:
        # With extra attributes dump.f2fs 1.15 reads small files from the wrong place of their inode.
        expected = dump(image, inode, tmp_path / "dumped") if case == "features" else files[inode]
        assert dump(tmp_path / "poisoned", inode, tmp_path / "dumped") == expected


@pytest.mark.parametrize("case", CLEAN_CASES)
def test_map_is_what_the_volume_itself_counts_and_one_block(case: str, tmp_path: Path):
    """dump.f2fs tells the counts: blocks in front of the main area, valid ones; and the next node's is one more."""
    image = unpack(case, tmp_path)
    found = used_map(image)
    said = call("dump.f2fs", "-d", "1", image)
    counts = {name: number(said, name) for name in ("main_blkaddr", "valid_block_count")}
    reserved = int(found.content.facts.get("reserved_blocks", 0))
    assert found.used.total_bytes == (sum(counts.values()) - reserved + 1) * BLOCK
    assert found.content.used_bytes == sum(counts.values()) * BLOCK
    assert (reserved > 0) == (case in ("features", "reserved"))


def number(said: str, name: str) -> int:
    """A field as f2fs-tools print it: name, hexadecimal and decimal."""
    row = next(line for line in said.splitlines() if line.startswith(f"{name} "))
    return int(row.rsplit(":", 1)[1].strip(" ]"))


@needs_partclone
@pytest.mark.parametrize("case", BY_PARTCLONE)
def test_partclone_copies_the_same_blocks_but_one(case: str, tmp_path: Path):
    """It misses the block where the driver looks for nodes that are newer than the checkpoint."""
    image = unpack(case, tmp_path)
    ours, theirs = used_map(image).used, partclone_map(image)
    assert (theirs - ours).total_bytes == 0
    assert (ours - theirs).total_bytes == BLOCK


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("checkpointed", "not cleanly unmounted"),
        ("flushed", "flushed to it after its last checkpoint"),
        ("no-checkpoints", "switched off"),
    ],
)
def test_what_was_not_unmounted_is_whole(case: str, reason: str, tmp_path: Path):
    image = unpack(case, tmp_path)
    with pytest.raises(NotTrusted, match=reason):
        used_map(image)
    with FileReader(image) as reader:
        whole = examine(Volume(reader, str(image)))
    assert whole.used == Extents.single(0, image.stat().st_size)
    assert reason in whole.content.whole_reason


def test_restore_onto_the_disk_that_was_used_since_finds_no_newer_nodes(tmp_path: Path):
    """What was flushed after the copy lies in blocks that were free then; the driver must not follow it."""
    before, later = unpack("remounted", tmp_path), unpack("flushed", tmp_path)
    target = tmp_path / "target"
    shutil.copy(later, target)
    found = used_map(before)
    with before.open("rb") as source, target.open("r+b") as file:
        for start, end in found.used:
            source.seek(start)
            file.seek(start)
            file.write(source.read(end - start))
    assert used_map(target).used == found.used
    assert verdict(target) == verdict(before)


@pytest.mark.skipif(not IS_LONG, reason="mkfs.f2fs writes 150 MB; IMAGER_LONG=1 runs it")
def test_bitmaps_that_need_more_than_the_checkpoint_block_are_found(tmp_path: Path):
    """Beyond 3.3 TB the bitmap of the SIT lies in blocks of its own (cp_payload)."""
    image = make_f2fs(tmp_path / "large", 4 * 2**40)
    said = call("dump.f2fs", "-d", "1", image)
    image_map = used_map(image).used
    image.unlink()
    assert number(said, "cp_payload") > 0
    assert image_map.total_bytes == (number(said, "main_blkaddr") + number(said, "valid_block_count") + 1) * BLOCK


def test_survey_trusts_it_and_blkid_agrees(tmp_path: Path):
    image = make_f2fs(tmp_path / "named", 64 * MIB, "-l", "Größe 日本")
    with FileReader(image) as reader:
        content = examine(Volume(reader, str(image))).content
    told = dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", image).splitlines())
    assert (content.type, content.uuid, content.label) == (told["TYPE"], told["UUID"], "Größe 日本")
    assert content.whole_reason == ""
    assert content.mapped_bytes < 64 * MIB


def test_blocks_on_two_devices_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with (tmp_path / "second").open("wb") as file:
        file.truncate(64 * MIB)
    monkeypatch.chdir(tmp_path)  # mkfs takes 64 characters of a further device's name
    image = make_f2fs(tmp_path / "image", 128 * MIB, "-c", "second")
    with pytest.raises(NotTrusted, match="several devices"):
        used_map(image)


def test_cut_volume_is_whole(tmp_path: Path):
    image = make_f2fs(tmp_path / "image", 64 * MIB)
    with FileReader(image) as reader, pytest.raises(NotTrusted, match="its volume only"):
        f2fs.used_map(Slice(reader, 0, 63 * MIB))
