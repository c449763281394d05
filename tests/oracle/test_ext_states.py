# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ext parser recognises, and when it refuses: states, features, logs and hostile content."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

from imager.blocks import BlockReader, MemoryReader, OutOfRange
from imager.extents import Extents
from imager.filesystems import ext
from imager.filesystems.base import InUseElsewhere, NotTrusted, UsedMap
from imager.filesystems.ext.structs import SUPERBLOCK
from tests.harness.files import FileReader
from tests.harness.programs import call
from tests.oracle.test_ext_map import make, used_map

pytestmark = pytest.mark.skipif(not shutil.which("mke2fs"), reason="needs e2fsprogs")

MIB = 2**20
NO_CSUM = "-t ext4 -b 1024 -O ^metadata_csum,^uninit_bg"


def debugfs(image: Path, *requests: str) -> str:
    script = "\n".join(requests) + "\n"
    done = subprocess.run(["debugfs", "-w", image], input=script, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def block_bitmap_of(image: Path, group: int) -> int:
    text = subprocess.run(["dumpe2fs", image], capture_output=True, text=True, check=True).stdout
    return int(text.split(f"\nGroup {group}: ")[1].split("Block bitmap at ")[1].split()[0])


@pytest.mark.parametrize(
    "options",
    [
        "-t ext2",
        "-t ext3",
        "-t ext4",
        "-t ext2 -E revision=0",
        "-t ext2 -O meta_bg,^resize_inode",
        "-t ext4 -O ^has_journal",
        "-t ext2 -O uninit_bg",
        "-t ext2 -O extent",
        "-t ext2 -O large_dir",
        "-O journal_dev",
        "-t ext3 -L a-label -U 01234567-89ab-cdef-0123-456789abcdef",
    ],
)
def test_type_label_and_uuid_are_blkids(tmp_path, options):
    image = make(tmp_path / "image", options, 20 * MIB)
    words = call("blkid", "-p", "-o", "export", image)
    by_blkid = dict(line.split("=", 1) for line in words.splitlines())

    with FileReader(image) as reader:
        content = ext.probe(reader)

    assert content.type == by_blkid["TYPE"]
    assert content.uuid == by_blkid.get("UUID", content.uuid)
    assert content.label == by_blkid.get("LABEL", "")


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"\xff" * 4096, b"\0" * 2047], ids=["none", "0", "f", "short"])
def test_foreign_data_is_not_recognised(content):
    assert ext.probe(MemoryReader(content)) is None
    with pytest.raises(NotTrusted):
        ext.used_map(MemoryReader(content))


@pytest.mark.parametrize(
    ("options", "request_", "reason"),
    [
        ("-t ext4", "ssv state 3", "errors"),
        ("-t ext4", "ssv state 0", "not cleanly unmounted"),
        ("-t ext2", "ssv state 0", "not cleanly unmounted"),
        ("-t ext2", "feature needs_recovery", "no journal"),
        ("-t ext4 -O fast_commit", "feature needs_recovery", "fast commits"),
        ("-t ext4", "feature FEATURE_I27", "incompat:0x8000000"),
        ("-t ext4", "feature FEATURE_R27", "ro_compat:0x8000000"),
        ("-t ext4", "feature dirdata", "incompat:0x1000"),
        ("-O journal_dev", "", "external journal"),
        ("-t ext4", "ssv inodes_count 9", "s_inodes_count"),
        (NO_CSUM, "set_bg 1 free_blocks_count 5", "block group 1 disagrees"),
        (NO_CSUM, "set_bg 1 block_bitmap 3", "disagrees|same block bitmap|metadata"),
        (NO_CSUM, "set_bg 1 block_bitmap 9999999", "outside"),
        (NO_CSUM, "set_bg 2 inode_table 60000", "metadata as free|outside"),
        (NO_CSUM, "setb 30000", "disagrees"),
        ("-t ext4", "set_bg 1 flags 0", "wrong checksum"),
        ("-t ext4 -b 1024", "set_bg 0 flags 2", "wrong checksum|block group 0"),
    ],
)
def test_refuses_with_the_reason(tmp_path, options, request_, reason):
    image = make(tmp_path / "image", options, 64 * MIB)
    debugfs(image, request_)

    with pytest.raises(NotTrusted, match=reason):
        used_map(image)


def test_file_system_larger_than_its_volume_is_refused(tmp_path):
    image = make(tmp_path / "image", "-t ext4", 64 * MIB)
    with image.open("r+b") as file:
        file.truncate(64 * MIB - 1)

    with pytest.raises(NotTrusted, match="its volume has only 67108863"):
        used_map(image)


def test_unknown_compat_feature_matters_only_while_dirty(tmp_path):
    image = make(tmp_path / "image", "-t ext4", 20 * MIB)
    debugfs(image, "feature FEATURE_C27")
    used_map(image)

    debugfs(image, "feature needs_recovery")
    with pytest.raises(NotTrusted, match="compat:0x8000000"):
        used_map(image)


def test_external_journal_with_changes_is_refused(tmp_path):
    image = make(tmp_path / "image", "-t ext4", 20 * MIB)
    debugfs(image, "ssv journal_inum 0", "ssv journal_dev 0x801", "feature needs_recovery")

    with pytest.raises(NotTrusted, match="another device"):
        used_map(image)


@pytest.mark.parametrize("sequence", [1, 0x12345, 0xE24D4D50])
def test_multiple_mount_protection_refuses(tmp_path, sequence):
    image = make(tmp_path / "image", "-t ext4 -O mmp,^metadata_csum,^uninit_bg -b 1024", 20 * MIB)
    used_map(image)
    text = call("dumpe2fs", "-h", image)
    block = int(text.split("MMP block number:")[1].split()[0])
    with image.open("r+b") as file:
        file.seek(block * 1024 + 4)
        file.write(struct.pack("<IQ", sequence, 0) + b"other-host\0")

    with pytest.raises(InUseElsewhere, match="other-host"):
        used_map(image)


JOURNALS = {
    "none": NO_CSUM + " -J size=1",
    "32-bit": NO_CSUM + ",^64bit -J size=1",
    "v2": "-t ext4 -b 1024 -J size=1",
    "v3": "-t ext4 -b 1024 -J size=1",
    "bigalloc": "-t ext4 -b 1024 -O bigalloc -C 4096 -J size=1",
    "ext3 indirect": "-t ext3 -b 1024 -J size=2",
    "4k": "-t ext4 -b 4096 -J size=4",
}


@pytest.mark.parametrize("commit", ["", "-c"], ids=["committed", "no commit"])
@pytest.mark.parametrize("name", JOURNALS)
def test_bitmap_in_the_log_is_united_with_that_on_disk(tmp_path, name, commit):
    image = make(tmp_path / "image", JOURNALS[name], 40 * MIB)
    before = used_map(image)
    size = before.content.block_size_bytes
    bitmap = block_bitmap_of(image, 0)
    content = tmp_path / "bitmap"
    raw = bytearray(image.read_bytes()[bitmap * size : (bitmap + 1) * size])
    free = raw.index(0)
    raw[free] |= 0x18
    content.write_bytes(raw)
    version = {"v2": "-c -v 2", "v3": "-c -v 3"}.get(name, "")

    debugfs(image, f"jo {version}", f"jw -b {bitmap} {commit} {content}", "jc")

    if commit:
        debugfs(image, "feature needs_recovery")
    found = used_map(image)
    ratio = 4 if name == "bigalloc" else 1
    first = (free * 8 + 3) * ratio + (1 if size == 1024 and ratio == 1 else 0)
    expected = before.used | Extents.single(first * size, (first + 2 * ratio) * size)
    assert found.used == expected
    assert found.content.facts["state"] == "needs recovery"


def test_group_that_the_log_initialises_is_read(tmp_path):
    image = make(tmp_path / "image", "-t ext4 -b 1024 -J size=1", 80 * MIB)
    text = call("dumpe2fs", image)
    group = next(part for part in text.split("\nGroup ")[1:] if "BLOCK_UNINIT" in part)
    number, bitmap = int(group.split(":")[0]), int(group.split("Block bitmap at ")[1].split()[0])
    start = int(group.split("(Blocks ")[1].split("-")[0])
    descriptors = image.read_bytes()[2048:3072]
    flags_at = number * 64 + 0x12
    (tmp_path / "gdt").write_bytes(descriptors[:flags_at] + b"\0\0" + descriptors[flags_at + 2 :])
    with image.open("r+b") as file:  # written before the crash, its descriptor only to the log
        file.seek(bitmap * 1024)
        file.write(b"\xff" * 1024)

    debugfs(image, "jo", f"jw -b 2 {tmp_path / 'gdt'}", "jc")

    assert used_map(image).used.holds(start * 1024, (start + 8192) * 1024)


@pytest.mark.parametrize(("offset", "value"), [(0x20, 5), (0x28, 0x100), (0x10, 2**31), (0x14, 0), (0x0C, 512)])
def test_damaged_journal_superblock_is_refused(tmp_path, offset, value):
    image = make(tmp_path / "image", NO_CSUM, 40 * MIB)
    debugfs(image, "feature needs_recovery")
    used_map(image)
    journal = int(call("debugfs", "-R", "bmap <8> 0", image))
    with image.open("r+b") as file:
        file.seek(journal * 1024 + offset)
        file.write(value.to_bytes(4, "big"))

    with pytest.raises(NotTrusted, match="journal"):
        used_map(image)


class Changed(BlockReader):
    """Another reader's bytes, some of them changed; no copy."""

    def __init__(self, content: bytes, size: int | None = None) -> None:
        self.content = bytearray(content)
        self.size = size or len(content)
        self.sector_size = 512

    def _read(self, offset: int, length: int) -> bytes:
        part = bytes(self.content[offset : offset + length])
        return part + bytes(length - len(part))


def outcome(reader: BlockReader) -> UsedMap | None:
    """The map, or None when it is refused as it should be; anything else is a failure."""
    start = time.process_time()
    try:
        ext.probe(reader)
        found = ext.used_map(reader)
        assert found.used.end <= reader.size
    except (NotTrusted, OutOfRange, InUseElsewhere):
        found = None
    assert time.process_time() - start < 5
    return found


@pytest.fixture(scope="module", params=[NO_CSUM, "-t ext4 -b 1024", "-t ext3 -b 1024", "dirty"])
def small_image(request, tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("small")
    options = NO_CSUM + " -J size=1" if request.param == "dirty" else request.param
    image = make(folder / "image", options + " -g 1024", 6 * MIB)
    if request.param == "dirty":
        raw = image.read_bytes()
        bitmap = block_bitmap_of(image, 0)
        (folder / "bitmap").write_bytes(raw[bitmap * 1024 : (bitmap + 1) * 1024])
        (folder / "gdt").write_bytes(raw[2048:3072])
        debugfs(image, "jo", f"jw -b {bitmap} {folder / 'bitmap'}", f"jw -b 2 {folder / 'gdt'}", "jc")
    return image.read_bytes()


@pytest.mark.parametrize("name", SUPERBLOCK.names)
def test_one_wrong_superblock_field_is_refused_or_harmless(small_image, name):
    kind, at = SUPERBLOCK.fields[name][:2]
    right = outcome(MemoryReader(small_image)).used
    for value in (0, 1, 7, 0x7F, 0xFF, None):
        reader = Changed(small_image)
        field = random.Random(name).randbytes(kind.itemsize) if value is None else bytes([value]) * kind.itemsize
        reader.content[1024 + at : 1024 + at + kind.itemsize] = field
        found = outcome(reader)
        assert found is None or found.used | right == found.used


def test_one_wrong_descriptor_byte_is_refused_or_harmless(small_image):
    right = outcome(MemoryReader(small_image)).used
    for at in range(2048, 2048 + 3 * 64):
        for flip in (0x01, 0x80, 0xFF):
            reader = Changed(small_image)
            reader.content[at] ^= flip
            found = outcome(reader)
            assert found is None or found.used | right == found.used, at


def test_random_damage_never_escapes(small_image):
    source = random.Random(7)
    for _ in range(150):
        reader = Changed(small_image)
        for _ in range(source.choice((1, 3, 30, 3000))):
            limit = source.choice((2048, 8192, len(small_image)))
            reader.content[source.randrange(1024, limit)] = source.randrange(256)
        reader.content[1024 + 0x38 : 1024 + 0x3A] = b"\x53\xef"
        outcome(reader)


def test_a_huge_volume_costs_little(small_image):
    reader = Changed(small_image, size=2**60)
    for log_block_size, blocks in ((0, 2**44), (2, 2**34), (6, 2**47)):
        for per_group in (8, 1024, 8192):
            struct.pack_into("<II", reader.content, 1024 + 4, blocks & 0xFFFFFFFF, 0)
            struct.pack_into("<I", reader.content, 1024 + 0x150, blocks >> 32)
            struct.pack_into("<II", reader.content, 1024 + 0x18, log_block_size, log_block_size)
            struct.pack_into("<II", reader.content, 1024 + 0x20, per_group, per_group)
            struct.pack_into("<I", reader.content, 1024, (blocks // per_group) * 16 & 0xFFFFFFFF)
            outcome(reader)
