# SPDX-License-Identifier: GPL-3.0-or-later
"""squashfs, EROFS and ISO 9660 count their own length: judged by the programs that make and unpack them."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from imager.blocks import MemoryReader, OutOfRange
from imager.errors import SourceUnreadable
from imager.examine import EDGE_BYTES, Examined, Volume, examine
from imager.extents import Extents
from imager.filesystems import behind, erofs, iso9660, squashfs
from imager.filesystems.base import NotTrusted, Parser
from imager.survey import Disk, survey
from tests.harness.files import FileReader, sparse_file
from tests.harness.hostile import chance, rounds_of_fuzzing
from tests.harness.poison import poison, tree_hashes
from tests.harness.programs import call, missing_tools

MIB = 1024 * 1024
CORPUS = Path(__file__).parent.parent / "corpus"
REST_BYTES = 5 * MIB

Maker = Callable[[Path, Path], object]

SQUASHFS: dict[str, tuple[str, ...]] = {
    "gzip": (),
    "xz, 1 MiB blocks": ("-comp", "xz", "-b", "1M"),
    "zstd, 4 KiB blocks": ("-comp", "zstd", "-b", "4K"),
    "lzo": ("-comp", "lzo"),
    "lz4 with options": ("-comp", "lz4", "-Xhc"),
    "lzma": ("-comp", "lzma"),
    "nothing compressed": ("-noI", "-noD", "-noF", "-noX", "-noId"),
    "no fragments, not exportable": ("-no-fragments", "-no-exports", "-no-duplicates"),
    "fragments always, no xattrs": ("-always-use-fragments", "-no-xattrs"),
    "not padded": ("-nopad",),
}
EROFS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "lz4hc": ("-zlz4hc",),
    "large clusters": ("-zlz4hc", "-C65536"),
    "chunks": ("--chunksize=4096",),
    "tail packing": ("-zlz4hc", "-Eztailpacking"),
    "extended inodes": ("-Eforce-inode-extended,noinline_data"),
    "no checksum": ("-Enosbcrc",),
    "legacy compression": ("-zlz4hc", "-Elegacy-compress"),
}
ISO9660: dict[str, tuple[str, ...]] = {
    "genisoimage": ("genisoimage", "-quiet", "-input-charset", "utf-8", "-R"),
    "genisoimage, Joliet": ("genisoimage", "-quiet", "-input-charset", "utf-8", "-R", "-J", "-V", "A name"),
    "genisoimage, not padded": ("genisoimage", "-quiet", "-input-charset", "utf-8", "-R", "-no-pad"),
    "genisoimage, level 4": ("genisoimage", "-quiet", "-iso-level", "4"),
    "genisoimage, El Torito": (
        *("genisoimage", "-quiet", "-input-charset", "utf-8", "-R", "-b", "boot", "-c", "catalog", "-no-emul-boot"),
    ),
    "xorriso": ("xorriso", "-as", "mkisofs", "-quiet", "-R"),
    "xorriso, El Torito for two": (
        *("xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-b", "boot", "-c", "catalog", "-no-emul-boot"),
        *("-eltorito-alt-boot", "-e", "efi", "-no-emul-boot"),
    ),
}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of many sizes, holes, links, the same content twice."""
    top = tmp_path_factory.mktemp("content")
    rng = random.Random(12)
    for number, size in enumerate((0, 1, 4095, 4096, 4097, 60_000, 131_072, 700_001)):
        folder = top / f"d{number % 3}" / "inner"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file {number}").write_bytes(rng.randbytes(size))
        (folder / f"text {number}").write_bytes(b"compressible %d " % number * (size // 16))
    (top / "again").write_bytes((top / "d1" / "inner" / "file 7").read_bytes())
    with (top / "sparse").open("wb") as file:
        file.truncate(900_000)
        os.pwrite(file.fileno(), b"an island", 500_000)
    (top / "link").symlink_to("d0/inner/file 0")
    (top / "boot").write_bytes(rng.randbytes(2048))
    (top / "efi").write_bytes(rng.randbytes(30_000))
    return top


def make_squashfs(image: Path, content: Path, *options: str) -> Path:
    call("mksquashfs", content, image, "-quiet", "-no-progress", "-processors", "1", *options)
    return image


def make_erofs(image: Path, content: Path, *options: str) -> Path:
    call("mkfs.erofs", "--quiet", *options, image, content)
    return image


def make_iso(image: Path, content: Path, *command: str) -> Path:
    call(*command, "-o", image, content)
    return image


def larger(image: Path, more_bytes: int = REST_BYTES, content: bytes = b"", at: int = 0) -> int:
    """Make the volume larger than what lies in it, with something behind it; the image's own length."""
    own = image.stat().st_size
    with image.open("r+b") as file:
        file.truncate(-(-(own + more_bytes) // 4096) * 4096)
        os.pwrite(file.fileno(), content, at)
    return own


def look(image: Path) -> Examined:
    with FileReader(image) as reader:
        return examine(Volume(reader, str(image)))


def unpacked(kind: str, image: Path, folder: Path) -> dict[str, str]:
    """Every file as the format's own unpacking program sees it."""
    folder.mkdir(exist_ok=True)
    if kind == "squashfs":
        call("unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-force", "-dest", folder, image)
    elif kind == "erofs":
        call("fsck.erofs", f"--extract={folder}", "--overwrite", image)
    else:
        call("xorriso", "-osirrox", "on", "-indev", f"stdio:{image}", "-extract", "/", folder)
        call("chmod", "-R", "u+w", folder)
    return tree_hashes(folder)


def stated_length(kind: str, image: Path) -> int:
    """What the format's own program says is the image's length."""
    if kind == "squashfs":
        return int(re.search(r"Filesystem size (\d+) bytes", call("unsquashfs", "-stat", image))[1])
    if kind == "erofs":
        return 4096 * int(re.search(r"Filesystem blocks:\s+(\d+)", call("dump.erofs", image))[1])
    said = call("isoinfo", "-d", "-i", image)
    block_size, blocks = re.search(r"Logical block size is: (\d+)\nVolume size is: (\d+)", said).groups()
    return int(block_size) * int(blocks)


CASES = [
    *(pytest.param("squashfs", make_squashfs, options, id=f"squashfs, {name}") for name, options in SQUASHFS.items()),
    *(pytest.param("erofs", make_erofs, (options,) if isinstance(options, str) else options, id=f"erofs, {name}")
      for name, options in EROFS.items()),
    *(pytest.param("iso9660", make_iso, options, id=f"iso9660, {name}") for name, options in ISO9660.items()),
]  # fmt: skip
TOOLS = {
    "squashfs": ("mksquashfs", "unsquashfs"),
    "erofs": ("mkfs.erofs", "fsck.erofs", "dump.erofs"),
    "iso9660": ("genisoimage", "isoinfo", "xorriso"),
}


def need(kind: str) -> None:
    missing = missing_tools(*TOOLS[kind])
    if missing:
        pytest.skip(f"not installed: {missing}")


@pytest.mark.parametrize(("kind", "make", "options"), CASES)
def test_only_the_length_counts_and_nothing_else_is_missed(
    kind: str, make: Maker, options: tuple[str, ...], content: Path, tmp_path: Path
):
    need(kind)
    image = make(tmp_path / "image", content, *options)
    length = stated_length(kind, image)
    wanted = unpacked(kind, image, tmp_path / "wanted")
    larger(image)
    found = look(image)
    assert (found.content.type, found.content.whole_reason, found.content.used_bytes) == (kind, "", length)
    assert found.content.warnings == ()
    assert found.used.holds(0, length)
    # Beside the length: one MiB behind it, and the volume's last.
    assert found.used.total_bytes <= length + 4096 + 2 * EDGE_BYTES
    assert poison(image, tmp_path / "poisoned", found.used) > MIB
    assert len(wanted) > 20
    assert unpacked(kind, tmp_path / "poisoned", tmp_path / "again") == wanted


def test_appended_squashfs_counts_with_what_was_appended(content: Path, tmp_path: Path):
    need("squashfs")
    image = make_squashfs(tmp_path / "image", content)
    first = stated_length("squashfs", image)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "file").write_bytes(random.Random(1).randbytes(400_000))
    make_squashfs(image, tmp_path / "more")
    wanted = unpacked("squashfs", image, tmp_path / "wanted")
    larger(image)
    found = look(image)
    assert found.content.used_bytes == stated_length("squashfs", image) > first
    poison(image, tmp_path / "poisoned", found.used)
    assert unpacked("squashfs", tmp_path / "poisoned", tmp_path / "again") == wanted


@pytest.mark.parametrize("kind", TOOLS)
def test_image_that_fills_its_volume_is_all_used(kind: str, content: Path, tmp_path: Path):
    need(kind)
    options = ISO9660["xorriso"] if kind == "iso9660" else ()
    image = {"squashfs": make_squashfs, "erofs": make_erofs, "iso9660": make_iso}[kind](
        tmp_path / "i", content, *options
    )
    found = look(image)
    assert found.content.whole_reason == ""
    assert found.used == Extents.single(0, image.stat().st_size)


def test_real_disc_image_counts_its_space(tmp_path: Path):
    need("iso9660")
    packed = (CORPUS / "iso9660" / "iso9660.raw.zst").read_bytes()
    image = tmp_path / "image"
    image.write_bytes(zstandard.ZstdDecompressor().decompressobj().decompress(packed))
    wanted = unpacked("iso9660", image, tmp_path / "wanted")
    length = stated_length("iso9660", image)
    larger(image)
    found = look(image)
    assert (found.content.used_bytes, found.content.label, found.content.whole_reason) == (length, "CDROM", "")
    poison(image, tmp_path / "poisoned", found.used)
    assert unpacked("iso9660", tmp_path / "poisoned", tmp_path / "again") == wanted


@pytest.mark.parametrize("kind", TOOLS)
def test_names_are_blkids(kind: str, content: Path, tmp_path: Path):
    need(kind)
    if kind == "squashfs":
        make_squashfs(tmp_path / "image", content)
    elif kind == "erofs":
        make_erofs(tmp_path / "image", content)
    else:
        make_iso(tmp_path / "image", content, *ISO9660["xorriso"], "-V", "A_NAME")
    told = dict(line.split("=", 1) for line in call("blkid", "-p", "-o", "export", tmp_path / "image").splitlines())
    found = look(tmp_path / "image").content
    assert (found.type, found.label, found.uuid) == (told["TYPE"], told.get("LABEL", ""), told.get("UUID", ""))


# --- What lies behind ------------------------------------------------------------------------------------------------


@pytest.fixture
def squashed(content: Path, tmp_path: Path) -> Path:
    need("squashfs")
    return make_squashfs(tmp_path / "squashed", content)


@pytest.mark.parametrize(
    ("formatter", "size_bytes", "name"),
    [(("mkfs.ext4", "-q", "-F"), 8 * MIB, "ext4"), (("mkfs.f2fs", "-q", "-f"), 64 * MIB, "f2fs")],
    ids=["ext4", "f2fs"],
)
def test_overlay_behind_is_named_and_kept(
    formatter: tuple[str, ...], size_bytes: int, name: str, squashed: Path, tmp_path: Path
):
    if missing_tools(formatter[0]):
        pytest.skip(f"not installed: {formatter[0]}")
    overlay = sparse_file(tmp_path / "overlay", size_bytes)
    call(*formatter, overlay)
    at = -(-squashed.stat().st_size // 65536) * 65536  # as OpenWrt does
    larger(squashed, 2 * 65536 + size_bytes, overlay.read_bytes(), at)
    found = look(squashed)
    assert found.content.whole_reason == ""
    assert found.used == Extents.single(0, squashed.stat().st_size)
    assert name in found.content.facts["behind_its_end"]
    assert "all of them are copied" in found.content.warnings[0]


@pytest.mark.skipif(bool(missing_tools("veritysetup")), reason="not installed: veritysetup")
def test_hash_tree_behind_is_named_and_kept(squashed: Path):
    own = larger(squashed)
    at = -(-own // 4096) * 4096
    call("veritysetup", "format", f"--hash-offset={at}", f"--data-blocks={at // 4096}", squashed, squashed)
    found = look(squashed)
    assert found.used == Extents.single(0, squashed.stat().st_size)
    assert f"DM_verity_hash at byte {at}" in found.content.facts["behind_its_end"]


@pytest.mark.parametrize("distance", [4096, 2 * MIB + 5, REST_BYTES - 1])
def test_one_byte_behind_keeps_all_behind(distance: int, squashed: Path):
    own = squashed.stat().st_size
    larger(squashed, REST_BYTES, b"\1", own + distance)
    assert look(squashed).used == Extents.single(0, squashed.stat().st_size)
    assert look(squashed).content.facts["behind_its_end"] == "not all zero"


def test_rest_that_is_too_long_is_kept_unread(squashed: Path, monkeypatch: pytest.MonkeyPatch):
    larger(squashed)
    monkeypatch.setattr(behind, "MOST_READ_BYTES", 4 * MIB)
    assert look(squashed).used == Extents.single(0, squashed.stat().st_size)
    assert "too many" in look(squashed).content.warnings[0]


class BadRest(MemoryReader):
    """A medium with a bad sector at 4 MiB before its end."""

    def _read(self, offset: int, length: int) -> bytes:
        if offset <= self.size - 3 * MIB < offset + length:
            raise SourceUnreadable("sector lost", offset_bytes=offset)
        return super()._read(offset, length)


def test_rest_that_cannot_be_read_is_kept(squashed: Path):
    larger(squashed)
    reader = BadRest(squashed.read_bytes())
    found = examine(Volume(reader))
    assert found.used == Extents.single(0, reader.size)
    assert (found.content.type, found.content.facts["behind_its_end"]) == ("squashfs", "not all readable")


def test_appended_partition_behind_a_disc_is_kept(content: Path, tmp_path: Path):
    need("iso9660")
    (tmp_path / "efi").write_bytes(random.Random(2).randbytes(3 * MIB))
    image = make_iso(
        tmp_path / "image", content, *ISO9660["xorriso"], "-append_partition", "2", "0xef", tmp_path / "efi"
    )
    assert look(image).used == Extents.single(0, image.stat().st_size)


def test_hybrid_disc_on_a_disk_is_named_and_copied_whole(content: Path, tmp_path: Path):
    need("iso9660")
    (tmp_path / "efi").write_bytes(random.Random(2).randbytes(MIB))
    options = (*ISO9660["xorriso"], "-append_partition", "2", "0xef", tmp_path / "efi")
    image = make_iso(tmp_path / "image", content, *options)
    larger(image, 40 * MIB)
    found = survey([Disk(FileReader(image), str(image))])[0]
    assert "lies on the partition table itself" in found.layout.whole_reason
    assert found.layout.content is not None
    assert found.layout.content.type == "iso9660"
    assert found.used == Extents.single(0, image.stat().st_size)


# --- What is refused -------------------------------------------------------------------------------------------------


def test_image_on_two_devices_is_copied_whole(content: Path, tmp_path: Path):
    need("erofs")
    sparse_file(tmp_path / "blob", 0)
    image = make_erofs(tmp_path / "image", content, "--chunksize=4096", f"--blobdev={tmp_path / 'blob'}")
    larger(image)
    assert "1 further device" in look(image).content.whole_reason


def test_udf_bridge_is_copied_whole(content: Path, tmp_path: Path):
    need("iso9660")
    image = make_iso(tmp_path / "image", content, *ISO9660["genisoimage"], "-udf")
    larger(image)
    assert "iso9660, udf" in look(image).content.whole_reason


@pytest.mark.parametrize("kind", TOOLS)
def test_cut_image_is_copied_whole(kind: str, content: Path, tmp_path: Path):
    need(kind)
    options = ISO9660["xorriso"] if kind == "iso9660" else ()
    image = {"squashfs": make_squashfs, "erofs": make_erofs, "iso9660": make_iso}[kind](
        tmp_path / "i", content, *options
    )
    os.truncate(image, image.stat().st_size - 512 * 1024)
    assert "in a volume of" in look(image).content.whole_reason


SQUASHFS_FIELDS = [
    (28, b"\x05\0", "version 5.0"),
    (30, b"\x01\0", "version 4.1"),
    (20, b"\x07\0", "compression 7"),
    (25, b"\x10", "flags 0x1000"),
    (12, b"\0\0\x03\0", "block size"),
    (22, b"\x40\0", "block size"),
    (40, b"\xff" * 8, "it says that it has"),
    (40, b"\x10" + bytes(7), "it says that it has"),
    (48, b"\0\0\0\x7f\0\0\0\0", "outside of its"),
    (64, b"\xff" * 8, "outside of its"),
    (72, b"\x60" + bytes(7), "behind its directory table"),
]
EROFS_FIELDS = [
    (1024 + 4, b"\0\0\0\0", "checksum"),
    (1024 + 36, b"\xff\xff\xff\xff", "it says that it has"),
    (1024 + 36, b"\0\0\0\0", "it says that it has"),
    (1024 + 40, b"\xff\xff\0\0", "metadata"),
    (1024 + 80, b"\x80\0\0\0", "features 0x80"),
    (1024 + 83, b"\x40", "features 0x40000000"),
    (1024 + 86, b"\2\0", "2 further devices"),
    (1024 + 90, b"\1", "directories"),
]
ISO9660_FIELDS = [
    (32768 + 80, b"\xff\xff\xff\x7f", "two byte orders"),
    (32768 + 80, b"\xff\xff\xff\x7f\x7f\xff\xff\xff", "it says that it has"),
    (32768 + 80, b"\x10\0\0\0\0\0\0\x10", "lies behind"),
    (32768 + 120, b"\2\0\0\2", "set of 2"),
    (32768 + 128, b"\0\x10\x10\0", "blocks have 4096"),
    (32768 + 140, b"\xff\xff\xff\0", "path table"),
    (32768 + 158, b"\xff\xff\0\0", "different places"),
    (32768 + 158, b"\xff\xff\0\0\0\0\xff\xff", "root directory"),
    (36864 + 1, b"CD002", "no end"),
    (34816, b"\3", "type 3"),
]


@pytest.mark.parametrize(
    ("kind", "offset", "value", "said"),
    [
        *(("squashfs", *each) for each in SQUASHFS_FIELDS),
        *(("erofs", *each) for each in EROFS_FIELDS),
        *(("iso9660", *each) for each in ISO9660_FIELDS),
    ],
)
def test_each_field_that_cannot_be_is_refused(seeds, kind: str, offset: int, value: bytes, said: str):
    parser, clean = seeds(kind)
    damaged = bytearray(clean)
    damaged[offset : offset + len(value)] = value
    assert parser.used_map(MemoryReader(clean)).content.whole_reason == ""
    with pytest.raises(NotTrusted, match=said):
        parser.used_map(MemoryReader(bytes(damaged)))


def test_boot_image_behind_the_space_is_refused(content: Path, tmp_path: Path):
    need("iso9660")
    image = make_iso(tmp_path / "image", content, *ISO9660["xorriso, El Torito for two"])
    larger(image)
    disc = bytearray(image.read_bytes())
    record = next(at for at in range(32768, 65536, 2048) if disc[at] == 0 and disc[at + 1 : at + 6] == b"CD001")
    catalog = 2048 * int.from_bytes(disc[record + 0x47 : record + 0x4B], "little")
    blocks = int.from_bytes(disc[32768 + 80 : 32768 + 84], "little")
    assert disc[catalog + 32] == 0x88
    disc[catalog + 40 : catalog + 44] = blocks.to_bytes(4, "little")
    with pytest.raises(NotTrusted, match="boot image at block"):
        iso9660.used_map(MemoryReader(bytes(disc)))
    disc[record + 0x47 : record + 0x4B] = (blocks + 1).to_bytes(4, "little")
    with pytest.raises(NotTrusted, match="boot catalog"):
        iso9660.used_map(MemoryReader(bytes(disc)))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory):
    """A small image of each kind, with some zeros behind it."""
    made: dict[str, tuple[Parser, bytes]] = {}
    folder = tmp_path_factory.mktemp("seeds")
    (folder / "content").mkdir()
    (folder / "content" / "file").write_bytes(random.Random(4).randbytes(20_000))

    def seed(kind: str) -> tuple[Parser, bytes]:
        need(kind)
        if kind not in made:
            parser, make, options = {
                "squashfs": (squashfs, make_squashfs, ()),
                "erofs": (erofs, make_erofs, ()),
                "iso9660": (iso9660, make_iso, (*ISO9660["xorriso"], "-J")),
            }[kind]
            made[kind] = parser, make(folder / kind, folder / "content", *options).read_bytes() + bytes(8192)
        return made[kind]

    return seed


SUPERBLOCKS = {"squashfs": [(0, 96)], "erofs": [(1024, 1024 + 128)], "iso9660": [(32768, 32768 + 190), (34816, 34824)]}


@pytest.mark.parametrize("kind", TOOLS)
def test_mutations_end_in_a_map_or_a_refusal(seeds, kind: str):
    outcomes = mutate(kind, *seeds(kind), random.Random(kind), 600)
    assert len(outcomes) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOOLS)
def test_mutations_for_longer(seeds, kind: str):
    rng = chance(f"{kind} for longer")
    for _ in rounds_of_fuzzing(20, 20):
        mutate(kind, *seeds(kind), rng, 1000)


def mutate(kind: str, parser: Parser, clean: bytes, rng: random.Random, times: int) -> set[type]:
    """Change fields of the superblock, cut the volume; what came out each time."""
    places = [place for start, end in SUPERBLOCKS[kind] for place in range(start, end)]
    outcomes: set[type] = set()
    for _ in range(times):
        content = bytearray(clean)
        for place in rng.choices(places, k=rng.randrange(1, 4)):
            content[place] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        if kind == "erofs" and rng.random() < 0.8:
            content[1024 + 8] &= 0xFE  # no checksum
        reader = MemoryReader(bytes(content[: rng.choice((len(content), rng.randrange(len(content))))]))
        parser.probe(reader)
        try:
            found = parser.used_map(reader)
        except (NotTrusted, OutOfRange) as refusal:
            outcomes.add(type(refusal))
            continue
        assert max(found.used.end, found.behind.end if found.behind else 0) <= reader.size
        outcomes.add(type(found))
    return outcomes
