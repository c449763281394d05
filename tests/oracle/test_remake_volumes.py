# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT, exFAT and swap areas that are made anew hold what the old ones held: mtools, fsck and blkid say so."""

from __future__ import annotations

import os
import random
import re
import subprocess
from contextlib import contextmanager, suppress

import pytest

from imager.devices.opening import open_source
from imager.errors import VolumeFailed
from imager.filesystems import exfat as exfat_parser
from imager.filesystems import swap as swap_parser
from imager.filesystems.fat import parser as fat_parser
from imager.remaking.making import plan_remake, remake
from imager.remaking.model import CannotRemake
from tests.harness.fat_images import age, files_in, make_fat
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, unmount
from tests.harness.poison import tree_hashes
from tests.harness.programs import call, missing_tools

MIB = 2**20
TOOLS = ("mkfs.fat", "fsck.fat", "mcopy", "mattrib", "mkfs.exfat", "tune.exfat", "fsck.exfat", "mkswap")
pytestmark = pytest.mark.skipif(bool(missing_tools(*TOOLS)), reason=f"needs {missing_tools(*TOOLS)}")
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or bool(missing_tools("mount.exfat-fuse")), reason="needs root and mount.exfat-fuse"
)


def content_of(path, parser):
    with open_source(str(path), exclusive_check=False) as reader:
        return parser.probe(reader)


def remade(old, tmp_path, size, parser=fat_parser, sector=512):
    new = sparse_file(tmp_path / "new", size)
    remake(content_of(old, parser), str(old), str(new), size, sector)
    return new


def identity(path):
    return call("blkid", "-p", "-o", "export", "-s", "UUID", "-s", "LABEL", "-s", "TYPE", "-s", "VERSION", path)[
        len("DEVNAME=") + len(str(path)) :
    ]


def listed(image):
    """Every entry with short and long name, size, date, as mdir shows it; and its attributes."""
    said = call("mdir", "-i", image, "-/", "-a", "::")
    entries = re.sub(r"(?m)^.*(bytes free|Total files listed|Volume in drive|Volume Serial).*$\n?", "", said)
    return entries, call("mattrib", "-i", image, "-/", "::")


@pytest.mark.parametrize(
    ("bits", "size", "new_size", "options"),
    [
        (12, 4 * MIB, 3 * MIB, ()),
        (16, 64 * MIB, 32 * MIB, ("-s", "4")),
        (16, 64 * MIB, 9 * MIB, ("-s", "4")),
        (32, 300 * MIB, 100 * MIB, ("-s", "8", "-R", "64")),
        (32, 300 * MIB, 40 * MIB, ("-f", "1")),
    ],
)
def test_a_fat_that_is_made_anew_has_every_entry_as_it_was(tmp_path, bits, size, new_size, options):
    old = make_fat(tmp_path / "old", size, "-F", str(bits), "-i", "1234abcd", "-n", "ESP OLD", *options)
    age(old, tmp_path / "work", min(size, new_size) // 3)
    (tmp_path / "grüße ☃.txt").write_text("long")
    call("mcopy", "-i", old, tmp_path / "grüße ☃.txt", "::/")
    call("mattrib", "-i", old, "+r", "+h", "+s", "-a", "::/grüße ☃.txt")
    new = remade(old, tmp_path, new_size)
    assert identity(new) == identity(old)
    assert listed(new) == listed(old)
    assert files_in(new, tmp_path / "b") == files_in(old, tmp_path / "a")
    done = subprocess.run(["fsck.fat", "-n", new], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_creation_times_and_short_names_stay_to_the_last_bit(tmp_path):
    old = make_fat(tmp_path / "old", 40 * MIB, "-F", "16")
    for number in range(12):
        (tmp_path / f"a long name {number}.text").write_text(str(number))
        call("mcopy", "-i", old, tmp_path / f"a long name {number}.text", "::/")
    call("mdel", "-i", old, "::/a long name 3.text")
    raw = bytearray(old.read_bytes())
    at = raw.index(b"ALONGN~1TEX")
    raw[at + 13 : at + 20] = bytes([0x63, 0x45, 0x67, 0x89, 0x5A, 0x12, 0x5B])  # hundredths, time, dates
    old.write_bytes(raw)
    new = remade(old, tmp_path, 20 * MIB).read_bytes()
    for number in (1, 2, 5, 6):
        name = f"ALONGN~{number}TEX".encode()
        before, after = raw.index(name), new.index(name)
        assert new[after : after + 26] == raw[before : before + 26]
        assert new[after + 28 : after + 32] == raw[before + 28 : before + 32]
    assert b"\xe5" not in {new[place : place + 1] for place in range(new.index(b"ALONGN~1TEX") - 64, 0, -32)[:1]}


@pytest.mark.parametrize(("bits", "size"), [(32, 300 * MIB), (16, 100 * MIB)])
def test_a_fat_for_sectors_of_4096_bytes(tmp_path, bits, size):
    old = make_fat(tmp_path / "old", size, "-F", str(bits), "-n", "EFI", "-i", "cafe0001")
    age(old, tmp_path / "work", 20 * MIB)
    new = remade(old, tmp_path, size, sector=4096)
    assert identity(new) == identity(old)
    assert int.from_bytes(new.read_bytes()[11:13], "little") == 4096
    assert files_in(new, tmp_path / "b") == files_in(old, tmp_path / "a")
    done = subprocess.run(["fsck.fat", "-n", new], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_fat_that_does_not_fit_says_by_how_much(tmp_path):
    old = make_fat(tmp_path / "old", 64 * MIB, "-F", "16")
    (tmp_path / "big").write_bytes(b"x" * 30 * MIB)
    call("mcopy", "-i", old, tmp_path / "big", "::/")
    with pytest.raises(VolumeFailed, match=r"do not fit: 1\d\.\d+ MiB are missing"):
        remade(old, tmp_path, 20 * MIB)


def test_clusters_that_two_files_share_end_the_copy(tmp_path):
    old = make_fat(tmp_path / "old", 40 * MIB, "-F", "16", "-s", "4")
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 5000)
        call("mcopy", "-i", old, tmp_path / name, "::/")
    raw = bytearray(old.read_bytes())
    one, two = raw.index(b"ONE     "), raw.index(b"TWO     ")
    raw[two + 26 : two + 28] = raw[one + 26 : one + 28]
    old.write_bytes(raw)
    with pytest.raises(VolumeFailed, match=r"fsck\.fat"):
        remade(old, tmp_path, 20 * MIB)


# --- exFAT --------------------------------------------------------------------------------------------------------


@contextmanager
def opened(image, folder, *, writable=False, sector=512):
    """An exFAT through exfat-fuse."""
    folder.mkdir()
    with loop_device(image, read_only=not writable, sector_size=sector) as device:
        call("mount.exfat-fuse", "-o", "rw" if writable else "ro,noatime", device, folder)
        try:
            yield folder
        finally:
            unmount(folder)


def make_exfat(path, size, *options):
    sparse_file(path, size)
    call("mkfs.exfat", "-L", "Grüße ☃", *options, path)
    return path


def fill_exfat(image, tmp_path):
    with opened(image, tmp_path / "fill", writable=True) as top:
        age_tree(top)
        (top / ("ä" * 255)).write_text("long")
        (top / "empty").touch()
        many = top / "many"
        many.mkdir()
        for number in range(700):
            (many / f"a file with quite a long name, number {number}").write_text(str(number))
        for number in range(0, 700, 2):
            (many / f"a file with quite a long name, number {number}").unlink()
        for path in top.rglob("*"):
            os.utime(path, (1_000_000_000, 1_234_567_890))


def age_tree(top):
    """Files in pieces: two are written in turns."""
    with (top / "one").open("wb") as one, (top / "two").open("wb") as two:
        for _ in range(30):
            for file in (one, two):
                file.write(os.urandom(50_000))
                file.flush()
                os.fsync(file.fileno())


def tree_of(top):
    found = subprocess.run(
        ["find", ".", "-mindepth", "1", "-printf", "%P|%y|%s|%T@\\0"], cwd=top, capture_output=True, check=True
    )
    return sorted(re.sub(rb"\|d\|\d+", b"|d|", each) for each in found.stdout.split(b"\0")), tree_hashes(top)


@needs_root
@pytest.mark.parametrize(("options", "sector"), [(("-c", "4K"), 512), (("-c", "32K"), 512), (("-c", "4K"), 4096)])
def test_an_exfat_that_is_made_anew_has_every_file(tmp_path, options, sector):
    old = make_exfat(tmp_path / "old", 128 * MIB, *options)
    fill_exfat(old, tmp_path)
    new = remade(old, tmp_path, 50 * MIB, exfat_parser, sector)
    assert identity(new) == identity(old)
    assert "clean" in call("fsck.exfat", "-n", new)
    with open_source(str(new), exclusive_check=False, sector_size=sector) as reader:
        used = exfat_parser.used_map(reader).content
    assert used.facts["sector_size_bytes"] == str(sector)
    with opened(old, tmp_path / "1") as one, opened(new, tmp_path / "2", sector=sector) as two:
        assert tree_of(one) == tree_of(two)


@needs_root
def test_an_exfat_that_does_not_fit_says_by_how_much(tmp_path):
    old = make_exfat(tmp_path / "old", 128 * MIB)
    with opened(old, tmp_path / "fill", writable=True) as top:
        (top / "big").write_bytes(bytes(30 * MIB))
    with pytest.raises(VolumeFailed, match=r"do not fit: 1\d\.\d+ MiB are missing"):
        remade(old, tmp_path, 20 * MIB, exfat_parser)


# --- Swap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [("-L", "my swap"), ("--pagesize", "65536"), ("-U", "clear")])
def test_a_swap_area_keeps_its_uuid_and_label(tmp_path, options):
    old = sparse_file(tmp_path / "old", 64 * MIB)
    call("mkswap", *options, old)
    new = remade(old, tmp_path, 20 * MIB, swap_parser)
    assert identity(new) == identity(old)
    with open_source(str(new), exclusive_check=False) as reader:
        assert swap_parser.used_map(reader).content.size_bytes == 20 * MIB


def test_a_hibernated_system_is_not_thrown_away(tmp_path):
    old = sparse_file(tmp_path / "old", 64 * MIB)
    call("mkswap", old)
    with old.open("r+b") as file:
        file.seek(4096 - 10)
        file.write(b"S1SUSPEND\0")
    with pytest.raises(CannotRemake, match="hibernated"):
        plan_remake(content_of(old, swap_parser), str(old), 20 * MIB, 512)


# --- Content that is not trusted ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["fat12", "fat16", "fat32", "exfat"])
def test_garbage_in_tables_and_folders_ends_in_words(tmp_path, kind, seed):
    """Whatever is in them: a volume that its own check takes for sound, or a refusal; in bounded time."""
    rng = random.Random(seed)
    size = {"fat12": 4 * MIB, "fat16": 40 * MIB, "fat32": 60 * MIB, "exfat": 40 * MIB}[kind]
    old = tmp_path / "old"
    if kind == "exfat":
        make_exfat(old, size, "-c", "4K")
    else:
        make_fat(old, size, "-F", kind[3:])
        age(old, tmp_path / "work", 2 * MIB)
    parser = exfat_parser if kind == "exfat" else fat_parser
    content = content_of(old, parser)
    raw = bytearray(old.read_bytes())
    places = [at for at in range(4096, len(raw) - 32, 32) if any(raw[at : at + 32])]
    for at in rng.sample(places, min(40, len(places))):
        raw[at + rng.randrange(32)] = rng.randrange(256)
    old.write_bytes(raw)
    new = sparse_file(tmp_path / "new", size)
    fsck = "fsck.exfat" if kind == "exfat" else "fsck.fat"
    with suppress(VolumeFailed):
        remake(content, str(old), str(new), size, 512)
        assert subprocess.run([fsck, "-n", new], capture_output=True, check=False).returncode == 0
