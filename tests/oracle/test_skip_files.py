# SPDX-License-Identifier: GPL-3.0-or-later
"""Files whose content is left out, against what debugfs, xfs_db and ntfscluster say of them; and nobody misses more."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from imager.examine import Volume, examine
from imager.extents import Extents
from imager.filesystems.leaving_out import FilesToSkip
from imager.nesting import examine_nested
from imager.volumes.base import Assembly, Member
from tests.harness import xfs_images
from tests.harness.files import FileReader, sparse_file
from tests.harness.loop import loop_device, mounted, needs_root
from tests.harness.ntfs_images import COMPRESSED, everything_in, make_ntfs, needs_driver
from tests.harness.ntfs_images import mounted as ntfs_mounted
from tests.harness.poison import poison, tree_hashes
from tests.harness.programs import call, missing_tools
from tests.harness.skipping import (
    expected,
    inode_by_xfs_db,
    runs_by_debugfs,
    runs_by_ntfscluster,
    runs_by_xfs_db,
    skipping,
)
from tests.oracle.test_ext_map import as_offered
from tests.oracle.test_xfs import files_by_xfs_db

MIB = 2**20
SWAP = "swapfile"
SWAP_BYTES = 6 * MIB


def swap_file(path: Path, size_bytes: int = SWAP_BYTES) -> Path:
    """A swap file with something in it."""
    path.write_bytes(random.Random(1).randbytes(size_bytes))
    call("mkswap", "-q", path) if size_bytes >= 40960 else None
    return path


def tree(top: Path, files: int = 40) -> Path:
    """Some files beside a swap file."""
    source = random.Random(files)
    top.mkdir()
    for number in range(files):
        (top / f"file {number}").write_bytes(source.randbytes(source.choice((10, 3000, 90_000))))
    swap_file(top / SWAP)
    return top


def hibernate(path: Path) -> None:
    """The mark that the kernel writes over a swap file's signature."""
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"SWAPSPACE2S1SUSPEND\0", 4096 - 20)


# --- ext2, ext3, ext4 -----------------------------------------------------------------------------------------------

IS_LONG = os.environ.get("IMAGER_LONG") == "1"
EXT = {
    "ext2 1k": "-t ext2 -b 1024",
    "ext2 of the first revision": "-t ext2 -E revision=0 -I 128",
    "ext4": "-t ext4",
    "ext4 64k": "-t ext4 -b 65536",
    "bigalloc": "-t ext4 -O bigalloc -C 65536",
    "inline_data": "-t ext4 -O inline_data -I 1024",
}
LONG_EXT = {
    "ext2": "-t ext2",
    "ext3": "-t ext3",
    "ext4 1k": "-t ext4 -b 1024",
    "no filetype": "-t ext4 -O ^filetype",
    "no checksums": "-t ext4 -O ^metadata_csum",
    "no flex_bg, meta_bg": "-t ext4 -O ^flex_bg,meta_bg,^resize_inode",
    "casefold": "-t ext4 -O casefold,large_dir",
}
EXT |= LONG_EXT if IS_LONG else {}


def make_ext(image: Path, options: str, directory: Path, size_bytes: int = 24 * MIB) -> Path:
    sparse_file(image, size_bytes)
    call("mke2fs", "-q", "-F", *as_offered(options).split(), "-d", directory, image)
    return image


def check_ext(image: Path, folder: Path, name: str = SWAP) -> None:
    """Exactly the blocks of the file are gone, and nobody but its readers misses them."""
    found = skipping(image, name)
    assert found.gone == expected(image, *runs_by_debugfs(image, f"/{name}"))
    assert found.gone.total_bytes > 0
    assert found.record(name).reason == ""
    poisoned = folder / "poisoned"
    poison(image, poisoned, found.used)
    call("e2fsck", "-fn", poisoned)
    before, after = (dumped(path, folder / path.name) for path in (image, poisoned))
    assert before.pop(name) != after.pop(name)
    assert before == after


def dumped(image: Path, folder: Path) -> dict[str, str]:
    """Every file by debugfs: neither root nor the kernel is needed."""
    top = folder.with_suffix(".files")
    top.mkdir()
    call("debugfs", "-R", f'rdump / "{top}"', image)
    return tree_hashes(top)


@pytest.mark.parametrize("options", EXT.values(), ids=EXT.keys())
def test_content_of_a_file_in_ext_is_all_that_is_missing(tmp_path, options):
    check_ext(make_ext(tmp_path / "image", options, tree(tmp_path / "tree")), tmp_path)


def test_file_in_a_large_directory_of_ext_is_found(tmp_path):
    top = tree(tmp_path / "tree")
    for number in range(900):
        (top / f"{number} {'n' * 60}").touch()
    image = make_ext(tmp_path / "image", "-t ext4 -b 1024", top)
    assert subprocess.run(["e2fsck", "-fyD", image], capture_output=True, check=False).returncode in (0, 1)
    assert "Fake parent" not in call("debugfs", "-R", "htree /", image)
    assert "Leaf" in call("debugfs", "-R", "htree /", image) or "leaf" in call("debugfs", "-R", "htree /", image)
    check_ext(image, tmp_path)


@needs_root
@pytest.mark.parametrize("options", ["-t ext4 -b 1024", "-t ext2 -b 1024"])
def test_file_in_many_pieces_is_left_out_of_ext(tmp_path, options):
    image = make_ext(tmp_path / "image", options, tree(tmp_path / "tree"))
    with mounted(image, tmp_path / "mnt") as top:
        (top / SWAP).unlink()
        with (top / SWAP).open("wb") as file:
            for number in range(1200):
                file.seek(number * 3072)
                file.write(b"s" * 1024)
            file.truncate(1200 * 3072 + 500)
    assert len(runs_by_debugfs(image, f"/{SWAP}")[0]) > 500
    check_ext(image, tmp_path)


def test_every_level_of_indirect_blocks_is_followed(tmp_path):
    top = tree(tmp_path / "tree", 3)
    with (top / SWAP).open("wb") as file:
        for start in (0, 100_000, 300_000, 5 * MIB, 66 * MIB, 70 * MIB + 12_345, 90 * MIB):
            file.seek(start)
            file.write(b"s" * 90_000)
    image = make_ext(tmp_path / "image", "-t ext2 -b 1024", top)
    assert "TIND" in call("debugfs", "-R", f"stat /{SWAP}", image)
    check_ext(image, tmp_path)


def test_a_partly_used_last_block_stays(tmp_path):
    top = tree(tmp_path / "tree")
    (top / "page").write_bytes(bytes(range(256)) * 1000 + b"end")
    image = make_ext(tmp_path / "image", "-t ext4", top)
    check_ext(image, tmp_path, "page")
    runs, size, block = runs_by_debugfs(image, "/page")
    assert skipping(image, "page").gone.total_bytes == size // block * block - 65536 < sum(run[2] for run in runs)


def test_what_cannot_be_left_out_of_ext_is_told(tmp_path):
    top = tree(tmp_path / "tree")
    (top / "folder").mkdir()
    (top / "link").symlink_to(SWAP)
    (top / "small").write_bytes(b"in its inode")
    (top / "short").write_bytes(random.Random(2).randbytes(60_000))
    (top / "hard").hardlink_to(top / SWAP)
    swap_file(top / "asleep")
    hibernate(top / "asleep")
    image = make_ext(tmp_path / "image", "-t ext4 -O inline_data", top)
    found = skipping(image, "absent", "SWAPFILE", "folder", "link", "small", "short", "asleep", SWAP, "hard")
    said = {each.name: each.reason for each in found.content.left_out}
    assert "not a regular file" in said["folder"]
    assert "not a regular file" in said["link"]
    assert "lies in its inode" in said["small"]
    assert "no blocks" in said["short"]
    assert "hibernated" in said["asleep"]
    assert found.content.facts["hibernated"].startswith("asleep")
    assert said[SWAP] == ""
    assert "others" in said["hard"] or "another" in said["hard"]
    assert not {"absent", "SWAPFILE"} & set(said)
    assert found.gone == expected(image, *runs_by_debugfs(image, f"/{SWAP}"))


def test_of_ext_that_needs_recovery_nothing_is_left_out(tmp_path):
    image = make_ext(tmp_path / "image", "-t ext4", tree(tmp_path / "tree"))
    call("debugfs", "-w", "-R", "feature needs_recovery", image)
    found = skipping(image, SWAP)
    assert len(found.gone) == 0
    assert "not unmounted" in found.record(SWAP).reason


def test_of_ext_with_shared_blocks_nothing_is_left_out(tmp_path):
    image = make_ext(tmp_path / "image", "-t ext4", tree(tmp_path / "tree"))
    call("debugfs", "-w", "-R", "feature shared_blocks", image)
    assert "share" in skipping(image, SWAP).record(SWAP).reason


def test_encrypted_files_of_ext_are_copied(tmp_path):
    image = make_ext(tmp_path / "image", "-t ext4 -O encrypt", tree(tmp_path / "tree"))
    call("debugfs", "-w", "-R", f"sif /{SWAP} flags 0x80800", image)
    assert "encrypted" in skipping(image, SWAP).record(SWAP).reason
    call("debugfs", "-w", "-R", "sif <2> flags 0x800", image)
    assert "names" in skipping(image, SWAP).record(SWAP).reason


@pytest.mark.parametrize("number", [8, 2])
def test_a_name_that_leads_to_the_file_systems_own_inodes_is_not_followed(tmp_path, number):
    image = make_ext(tmp_path / "image", "-t ext4 -O ^metadata_csum", tree(tmp_path / "tree"))
    call("debugfs", "-w", "-R", f"ln <{number}> page", image)
    assert "own" in skipping(image, "page").record("page").reason


# --- XFS ------------------------------------------------------------------------------------------------------------

needs_xfs = pytest.mark.skipif(bool(missing_tools("mkfs.xfs", "xfs_db")), reason="needs xfsprogs")
XFS = ["defaults", "64k", "rmapbt 1k", "v4 512", "v4 no attr2"]
XFS += ["1k", "4k sectors", "few features", "nrext64", "large directories", "v4"] if IS_LONG else []
ALL_XFS = {**xfs_images.VARIANTS, **xfs_images.V4_VARIANTS}


def make_xfs(image: Path, options: str, folder: Path, *, files: int = 30, names: int = 0) -> Path:
    """A file system filled by mkfs.xfs, with a swap file in its root directory and others, or so many names."""
    description = xfs_images.prototype(folder, 1 if names else files)
    lines = description.read_text().splitlines()
    lines[3:3] = [f"{number}-{'n' * 40} l--777 0 0 somewhere" for number in range(names)]
    lines.insert(3 + names // 2, f"{SWAP} ---600 0 0 {swap_file(folder / SWAP)}")
    description.write_text("\n".join(lines) + "\n")
    size_bytes = 0 if "65536" in options else 64 * MIB + 5000
    return xfs_images.make(image, options, size_bytes, prototype=description)


def check_xfs(image: Path, folder: Path) -> None:
    found = skipping(image, SWAP)
    assert found.gone == expected(image, *runs_by_xfs_db(image, inode_by_xfs_db(image, SWAP)))
    assert found.gone.total_bytes > 0
    poisoned = folder / "poisoned"
    poison(image, poisoned, found.used)
    call("xfs_repair", "-n", "-f", "-o", "force_geometry", poisoned)
    is_version_4 = xfs_images.fields(image, "sb 0", "versionnum")[0] & 15 == 4
    if is_version_4 or os.geteuid() == 0:  # current kernels do not mount version 4 any more
        read = files_by_xfs_db if is_version_4 else lambda path: mounted_hashes(path, folder / "mnt")
        before, after = read(image), read(poisoned)
        assert before.pop(SWAP) != after.pop(SWAP)
        assert before == after


def mounted_hashes(image: Path, folder: Path) -> dict[str, str]:
    with loop_device(image, read_only=True) as device, mounted(device, folder, options="ro") as top:
        return tree_hashes(top)


@needs_xfs
@pytest.mark.parametrize("name", XFS)
def test_content_of_a_file_in_xfs_is_all_that_is_missing(tmp_path, name):
    image = make_xfs(tmp_path / "image", ALL_XFS[name], tmp_path)
    if "64k" in name or "4k sectors" in name:  # the kernel here has pages of 4 KiB, and loop devices sectors of 512
        found = skipping(image, SWAP)
        assert found.gone == expected(image, *runs_by_xfs_db(image, inode_by_xfs_db(image, SWAP)))
    else:
        check_xfs(image, tmp_path)


@needs_xfs
@pytest.mark.parametrize(
    ("files", "options"),
    [(1, "-l size=8m"), (1, "-m crc=0 -n ftype=0"), (1500, "-l size=8m"), (1500, "-m crc=0 -n size=8192")],
)
def test_file_in_a_directory_of_any_size_is_found_in_xfs(tmp_path, files, options):
    check_xfs(make_xfs(tmp_path / "image", options, tmp_path, names=files), tmp_path)


@needs_xfs
@needs_root
@pytest.mark.parametrize(
    ("options", "pieces"), [("-m reflink=0", 700), ("-b size=1024 -m rmapbt=1", 1600), ("-i nrext64=1", 700)]
)
def test_file_in_many_pieces_is_left_out_of_xfs(tmp_path, options, pieces):
    image = xfs_images.make(tmp_path / "image", options)
    with loop_device(image) as device, mounted(device, tmp_path / "mnt") as top:
        with (top / SWAP).open("wb") as file:
            for number in range(pieces):
                file.seek(number * 3 * 4096)
                file.write(b"s" * 4096)
            file.truncate(pieces * 3 * 4096 + 100)
        (top / "other").write_bytes(os.urandom(300_000))
    assert len(runs_by_xfs_db(image, inode_by_xfs_db(image, SWAP))[0]) > pieces - 100
    check_xfs(image, tmp_path)


@needs_xfs
@needs_root
@pytest.mark.parametrize(
    ("options", "step", "length"), [("-m reflink=1", 4 * MIB, MIB), ("-b size=1024 -m reflink=1", 16384, 4096)]
)
def test_blocks_that_files_of_xfs_share_are_never_left_out(tmp_path, options, step, length):
    image = xfs_images.make(tmp_path / "image", options)
    with loop_device(image) as device, mounted(device, tmp_path / "mnt") as top:
        swap_file(top / SWAP)
        os.sync()
        call("cp", "--reflink=always", top / SWAP, top / "copy")
        with (top / SWAP).open("r+b") as file:  # every fourth piece becomes its own again
            for start in range(0, SWAP_BYTES, step):
                os.pwrite(file.fileno(), os.urandom(length), start)
        swap_file(top / "whole")
        call("cp", "--reflink=always", top / "whole", top / "other copy")
    runs, size, block = runs_by_xfs_db(image, inode_by_xfs_db(image, SWAP))
    theirs = runs_by_xfs_db(image, inode_by_xfs_db(image, "copy"))[0]
    shared = Extents.of((place, place + length) for _, place, length in theirs)
    found = skipping(image, SWAP, "whole")
    assert found.gone == expected(image, runs, size, block) - shared
    assert 0 < found.gone.total_bytes < SWAP_BYTES - MIB
    assert "shares" in found.record(SWAP).reason
    assert found.record("whole").left_out_bytes == 0
    poison(image, tmp_path / "poisoned", found.used)
    call("xfs_repair", "-n", "-f", tmp_path / "poisoned")
    if step < MIB:
        assert max(xfs_images.fields(image, f"agf {number}", "refcntlevel")[0] for number in range(4)) > 1
    before, after = (mounted_hashes(path, tmp_path / "mnt") for path in (image, tmp_path / "poisoned"))
    assert before.pop(SWAP) != after.pop(SWAP)
    assert before == after


@needs_xfs
def test_what_cannot_be_left_out_of_xfs_is_told(tmp_path):
    hibernate(swap_file(tmp_path / "asleep"))
    (tmp_path / "prototype").write_text(
        f"/boot\n0 0\nd--755 0 0\nasleep ---600 0 0 {tmp_path / 'asleep'}\nfolder d--755 0 0\n$\n"
        "link l--777 0 0 asleep\n$\n"
    )
    image = xfs_images.make(tmp_path / "image", "", prototype=tmp_path / "prototype")
    found = skipping(image, "asleep", "folder", "link", "absent")
    said = {each.name: each.reason for each in found.content.left_out}
    assert "hibernated" in said["asleep"]
    assert "regular" in said["folder"]
    assert "regular" in said["link"]
    assert "absent" not in said
    assert len(found.gone) == 0


# --- NTFS -----------------------------------------------------------------------------------------------------------

needs_ntfs = pytest.mark.skipif(
    bool(missing_tools("mkntfs", "ntfscp", "ntfscluster")), reason="needs mkntfs, ntfscp and ntfscluster (ntfs-3g)"
)


def make_page_file(image: Path, folder: Path, *options: str, content: bytes | None = None) -> Path:
    make_ntfs(image, 48 * MIB, *options)
    for name, size in (("other.bin", 700_000), ("pagefile.sys", 5 * MIB), ("last.bin", 300_001)):
        path = folder / name
        path.write_bytes(content if content and name == "pagefile.sys" else random.Random(size).randbytes(size))
        call("ntfscp", "-q", image, path, name)
    return image


@needs_ntfs
@pytest.mark.parametrize("cluster_bytes", [512, 4096, 65536, 262144])
def test_content_of_a_file_in_ntfs_is_all_that_is_missing(tmp_path, cluster_bytes):
    image = make_page_file(tmp_path / "image", tmp_path, "-c", str(cluster_bytes))
    found = skipping(image, "PageFile.SYS", "absent.sys")
    runs = runs_by_ntfscluster(image, "pagefile.sys", cluster_bytes)
    assert found.gone == expected(image, runs, 5 * MIB, cluster_bytes)
    assert found.gone.total_bytes > 4 * MIB
    poisoned = tmp_path / "poisoned"
    poison(image, poisoned, found.used)
    call("ntfsfix", "-n", poisoned)
    for name in ("other.bin", "last.bin"):
        said = subprocess.run(["ntfscat", poisoned, name], capture_output=True, check=True).stdout
        assert said == (tmp_path / name).read_bytes()
    page = subprocess.run(["ntfscat", poisoned, "pagefile.sys"], capture_output=True, check=True).stdout
    assert page[:65536] == (tmp_path / "pagefile.sys").read_bytes()[:65536]
    assert page != (tmp_path / "pagefile.sys").read_bytes()


@needs_ntfs
@needs_driver
def test_files_of_every_kind_in_ntfs(tmp_path):
    image = make_ntfs(tmp_path / "image", 48 * MIB, "-c", "1024")
    with ntfs_mounted(image, tmp_path / "mnt") as top:
        with (top / "pagefile.sys").open("wb") as file:
            for number in range(1500):  # more pieces than fit into one record
                file.seek(number * 4096)
                file.write(os.urandom(2048))
        with (top / "sparse.sys").open("wb") as file:
            for number in range(30):
                file.seek(number * 100_000)
                file.write(os.urandom(20_000))
        os.setxattr(top / "sparse.sys", "user.stream", os.urandom(60_000))
        (top / "hard.sys").hardlink_to(top / "sparse.sys")
        (top / "folder").mkdir()
        (top / "link.sys").symlink_to("pagefile.sys")
        os.setxattr(top / "folder", "system.ntfs_attrib_be", COMPRESSED.to_bytes(4, "big"))
        (top / "folder" / "packed").write_bytes(os.urandom(1000) * 300)
        (top / "folder" / "packed").rename(top / "packed.sys")
    found = skipping(image, "pagefile.sys", "sparse.sys", "hard.sys", "folder", "packed.sys", "link.sys")
    runs = {name: runs_by_ntfscluster(image, name, 1024) for name in ("pagefile.sys", "sparse.sys")}
    assert len(runs["pagefile.sys"]) > 1000
    sizes = {"pagefile.sys": 1499 * 4096 + 2048, "sparse.sys": 29 * 100_000 + 20_000}
    parts = [expected(image, runs[name], sizes[name], 1024) for name in runs]
    assert found.gone == parts[0] | parts[1]
    said = {each.name: each.reason for each in found.content.left_out}
    assert said["pagefile.sys"] == said["sparse.sys"] == ""
    assert "compressed" in said["packed.sys"]
    assert "regular" in said["folder"]
    assert said["hard.sys"]
    assert said["link.sys"]
    poison(image, tmp_path / "poisoned", found.used)
    before, after = (everything_in(path, tmp_path / "mnt") for path in (image, tmp_path / "poisoned"))
    for name in ("pagefile.sys", "sparse.sys", "hard.sys"):
        assert before.pop(name) != after.pop(name)
    assert before == after


@needs_ntfs
def test_what_cannot_be_left_out_of_ntfs_is_told(tmp_path):
    image = make_page_file(tmp_path / "image", tmp_path, content=b"hibr" + bytes(MIB))
    (tmp_path / "small").write_bytes(b"in its record")
    call("ntfscp", "-q", image, tmp_path / "small", "small.sys")
    found = skipping(image, "pagefile.sys", "small.sys", "$MFT", "$Extend", "absent")
    said = {each.name: each.reason for each in found.content.left_out}
    assert "hibernated" in said["pagefile.sys"]
    assert "record" in said["small.sys"]
    assert "own" in said["$MFT"]
    assert "own" in said["$Extend"]
    assert len(found.gone) == 0


@needs_ntfs
def test_a_hibernated_windows_is_whole_and_nothing_is_left_out(tmp_path):
    image = make_page_file(tmp_path / "image", tmp_path)
    (tmp_path / "hiberfil.sys").write_bytes(b"hibr" + bytes(MIB))
    call("ntfscp", "-q", image, tmp_path / "hiberfil.sys", "hiberfil.sys")
    with FileReader(image) as reader:
        found = examine(Volume(reader), skip=FilesToSkip(("pagefile.sys", "hiberfil.sys")))
    assert "hibernated" in found.content.whole_reason
    assert found.used == Extents.single(0, image.stat().st_size)
    assert {each.reason for each in found.content.left_out} == {"its volume is copied whole"}


# --- Volumes in volumes ---------------------------------------------------------------------------------------------


class Mirror:
    """A made-up manager: what looks like a swap area carries a volume of which there are two copies."""

    TYPES = ("swap",)
    name, has_parity = "mirror", False

    def __init__(self, *copies: FileReader) -> None:
        self.readers = copies

    def assemble(self, members: Sequence[Member]) -> Assembly:
        self.key = members[0].key
        return Assembly((self,), {self.key: Extents()})

    def back(self, used: Extents) -> dict[int, Extents]:
        return {self.key: used}

    def touched_by(self, places: Mapping[int, Extents]) -> Extents:
        return Extents()


def test_of_copies_that_differ_nothing_is_left_out(tmp_path):
    one = make_ext(tmp_path / "one", "-t ext4", tree(tmp_path / "tree"))
    two, member = tmp_path / "two", sparse_file(tmp_path / "member", one.stat().st_size)
    two.write_bytes(one.read_bytes())
    call("mkswap", "-q", member)
    call("debugfs", "-w", "-R", f"write {tmp_path / 'tree' / SWAP} more", two)
    skip = FilesToSkip((SWAP,))
    volumes = [Volume(FileReader(member))]
    same, other = (
        examine_nested(volumes, ["it"], [Mirror(FileReader(one), FileReader(copy))], skip=skip)[0]
        for copy in (one, two)
    )
    assert same.content.inside[0].left_out[0].left_out_bytes > 4 * MIB
    assert other.content.inside[0].left_out[0].left_out_bytes == 0
    assert "copies" in other.content.inside[0].left_out[0].reason
    assert other.used.total_bytes - same.used.total_bytes > 4 * MIB
