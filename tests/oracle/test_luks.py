# SPDX-License-Identifier: GPL-3.0-or-later
"""LUKS judged by others: cryptsetup's volume keys, QEMU's LUKS1, e2fsck and debugfs, and what the kernel wrote."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imager.blocks import MemoryReader
from imager.errors import SourceUnusable, UsageError
from imager.examine import Volume, examine
from imager.extents import Extents
from imager.survey import Disk, survey
from imager.volumes import luks, lvm
from imager.volumes.base import Member
from imager.volumes.registry import managers
from tests.harness.files import FileReader, sparse_file
from tests.harness.luks import CASES, container, expected, make_luks1
from tests.harness.poison import poison, tree_hashes
from tests.harness.programs import call

MIB = 2**20

pytestmark = pytest.mark.skipif(not shutil.which("cryptsetup"), reason="needs cryptsetup-bin")
needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-utils")

CHEAP = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000"
ARGON2 = "--pbkdf-memory 1024 --pbkdf-parallel 2 --pbkdf-force-iterations 4"
FORMATS = {
    "luks1": f"--type luks1 {CHEAP}",
    "luks1-sha1": f"--type luks1 --hash sha1 --cipher aes-cbc-essiv:sha256 --key-size 256 {CHEAP}",
    "luks1-sha512": f"--type luks1 --hash sha512 --cipher aes-cbc-plain64 --key-size 128 {CHEAP}",
    "luks1-ripemd160": f"--type luks1 --hash ripemd160 --cipher aes-xts-plain --key-size 256 {CHEAP}",
    "luks1-sha3": f"--type luks1 --hash sha3-256 --cipher aes-cbc-plain --key-size 192 {CHEAP}",
    "luks2-pbkdf2": f"--type luks2 --hash sha512 {CHEAP}",
    "luks2-argon2id": f"--type luks2 --pbkdf argon2id {ARGON2}",
    "luks2-argon2i": f"--type luks2 --pbkdf argon2i {ARGON2} --key-size 256 --sector-size 4096",
    "luks2-512": f"--type luks2 --pbkdf argon2id {ARGON2} --sector-size 512 --hash sha1 --label Ünïcode",
    "luks2-area": f"--type luks2 {CHEAP} --keyslot-cipher aes-cbc-essiv:sha256 --keyslot-key-size 256",
    "luks2-metadata": f"--type luks2 {CHEAP} --luks2-metadata-size 64k --luks2-keyslots-size 512k",
    "luks2-blake2": f"--type luks2 {CHEAP} --hash blake2b-512",
}


def cryptsetup(words: str, *arguments: object) -> str:
    done = subprocess.run(
        ["cryptsetup", "--batch-mode", "--disable-locks", *words.split(), *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


@pytest.fixture
def made(tmp_path):
    """A container by cryptsetup, opened by the content of a key file."""
    (tmp_path / "key").write_bytes(b"one\0binary\nkey")

    def make(options: str, size: int = 24 * MIB) -> Path:
        path = tmp_path / "container"
        sparse_file(path, size)
        try:
            cryptsetup(f"luksFormat {options} --key-file", tmp_path / "key", path)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"cryptsetup: {error.stderr}")
        return path

    return make


def dumped_key(path: Path, *options: object) -> str:
    """The volume key that cryptsetup says."""
    words = ("--key-file", path.parent / "key", *options, path)
    out = cryptsetup("luksDump --dump-volume-key", *words)
    return re.sub(r"\s", "", re.search(r"MK dump:\s*((?:[0-9a-f]{2}\s+)+)", out)[1])


@pytest.mark.parametrize("name", FORMATS)
def test_the_volume_key_is_cryptsetups(made, name):
    path = made(FORMATS[name])
    with FileReader(path) as reader, luks.unlock(reader, b"one\0binary\nkey") as key:
        assert key.content.hex() == dumped_key(path)
        assert luks.describe(reader).uuid == cryptsetup("luksUUID", path).strip()


def test_the_place_of_the_data_is_cryptsetups(made):
    path = made(FORMATS["luks2-metadata"])
    dump = cryptsetup("luksDump", path)
    with FileReader(path) as reader:
        assert luks.payload(reader).offset == int(re.search(r"offset: (\d+) \[bytes\]", dump)[1])


@pytest.mark.parametrize("kind", ["luks1", "luks2"])
def test_every_key_slot_is_tried(made, kind):
    path = made(f"--type {kind} {CHEAP} --key-slot 3")
    for number, slot in ((1, 6), (2, 0)):
        (path.parent / f"key{number}").write_bytes(b"%d" % number)
        words = f"luksAddKey {CHEAP} --key-slot {slot} --key-file"
        cryptsetup(words, path.parent / "key", path, path.parent / f"key{number}")
    with FileReader(path) as reader:
        assert luks.describe(reader).facts["key slots"].split()[0] == "3"
        assert [luks.unlock(reader, word).slot for word in (b"one\0binary\nkey", b"1", b"2")] == [3, 6, 0]
        with pytest.raises(UsageError, match="none of the 3 key slots"):
            luks.unlock(reader, b"3")


@pytest.mark.parametrize("kind", ["luks1", "luks2"])
def test_a_container_whose_keys_were_erased_cannot_be_opened(made, kind):
    path = made(f"--type {kind} {CHEAP}")
    cryptsetup("luksErase", path)
    with FileReader(path) as reader:
        assert "erased" in luks.obstacle(reader)


def test_a_converted_container_is_opened(made):
    path = made(f"--type luks1 {CHEAP}")
    cryptsetup("convert --type luks2", path)
    with FileReader(path) as reader, luks.unlock(reader, b"one\0binary\nkey") as key:
        assert luks.describe(reader).facts["version"] == "2"
        assert key.content.hex() == dumped_key(path)


@pytest.mark.parametrize(
    "how",
    [
        "reencrypt --init-only",
        "reencrypt --decrypt --init-only --force-offline-reencrypt --header HEADER",
        "reencrypt --encrypt --init-only --reduce-device-size 8M --luks2-keyslots-size 256k",
    ],
)
def test_a_reencryption_under_way_is_copied_whole(made, tmp_path, how):
    path = made(f"--type luks2 {CHEAP} --luks2-metadata-size 16k")
    if "--encrypt" in how:
        with path.open("r+b") as file:
            file.write(bytes(MIB))
    words = f"{how} {CHEAP}".replace("HEADER", str(tmp_path / "header"))
    cryptsetup(words, "--key-file", tmp_path / "key", path)
    place = tmp_path / "header" if "HEADER" in how else path
    with FileReader(place) as reader:
        assert "re-encryption" in luks.assemble([Member(1, reader)]).whole[1]
        with pytest.raises(SourceUnusable, match="re-encryption"):
            luks.unlock(reader, b"one\0binary\nkey")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (f"--type luks2 {CHEAP} --cipher serpent-xts-plain64", "serpent-xts-plain64"),
        (f"--type luks1 {CHEAP} --cipher twofish-cbc-essiv:sha256 --key-size 256", "twofish"),
        (f"--type luks2 {CHEAP} --integrity hmac-sha256 --integrity-no-wipe", "integrity"),
        (f"--type luks2 {CHEAP} --header HEADER --offset 0", "detached"),
        (f"--type luks1 {CHEAP} --header HEADER", "detached"),
    ],
)
def test_what_cryptsetup_can_and_imager_cannot(made, tmp_path, options, reason):
    header = tmp_path / "header"
    path = made(options.replace("HEADER", str(header)))
    with FileReader(header if header.exists() else path) as reader:
        assert reason in luks.obstacle(reader)


# --- Used blocks ----------------------------------------------------------------------------------------------------


def ext4(folder: Path, size: int) -> Path:
    """A file system with files, and garbage where there are none."""
    tree = folder / "tree"
    tree.mkdir()
    for number in range(12):
        (tree / f"{number}").write_bytes(hashlib.shake_128(b"%d" % number).digest(10_000 * number))
    path = folder / "plain"
    path.write_bytes(hashlib.shake_128(b"old").digest(size))
    call("mkfs.ext4", "-q", "-F", "-b", "1024", "-E", "nodiscard", "-d", tree, path)
    return path


def used_of(member: Member, key: luks.VolumeKey) -> Extents:
    """As survey puts it together: the map of what is inside, and what the container itself uses."""
    found = luks.Containers((key,)).assemble([member])
    (volume,) = found.volumes
    inside = examine(Volume(volume.readers[0]))
    assert inside.content.type == "ext4"
    assert not inside.content.whole_reason
    return found.own[1] | volume.back(inside.used)[1]


def check_files(plain: Path, folder: Path, hashes: dict[str, str]) -> None:
    done = subprocess.run(["e2fsck", "-fn", plain], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    folder.mkdir()
    call("debugfs", "-R", f"rdump / {folder}", plain)
    found = {name: text for name, text in tree_hashes(folder).items() if "lost+found" not in name}
    assert found == hashes


@needs_qemu
@pytest.mark.parametrize(
    "options",
    [
        "--cipher aes-xts-plain64 --key-size 512 --hash sha256",
        "--cipher aes-xts-plain --key-size 256 --hash sha1",
        "--cipher aes-cbc-essiv:sha256 --key-size 256 --hash sha512",
    ],
)
def test_qemu_finds_every_file_where_all_other_ciphertext_is_garbage(tmp_path, options):
    plain = ext4(tmp_path, 12 * MIB)
    path, poisoned, again, key_file = (tmp_path / name for name in ("container", "poisoned", "again", "key"))
    key_file.write_text("pass word")
    make_luks1(plain, path, key_file, options)

    with FileReader(path) as reader, luks.unlock(reader, b"pass word") as key:
        member = Member(1, reader)
        content = luks.opened(member, key).readers[0].read(0, plain.stat().st_size)
        assert hashlib.sha256(content).digest() == hashlib.sha256(plain.read_bytes()).digest()
        assert poison(path, poisoned, used_of(member, key)) > 8 * MIB

    secret = f"secret,id=s,file={key_file}"
    image = f"driver=luks,key-secret=s,file.filename={poisoned}"
    call("qemu-img", "convert", "--object", secret, "--image-opts", image, "-O", "raw", again)
    check_files(again, tmp_path / "out", tree_hashes(tmp_path / "tree"))


@pytest.mark.parametrize("case", [case for case in CASES if "lvm" not in case])
def test_no_file_of_the_kernels_containers_misses_what_is_outside_of_the_map(tmp_path, case):
    path, poisoned, plain = tmp_path / "container", tmp_path / "poisoned", tmp_path / "plain"
    path.write_bytes(container(case))
    with FileReader(path) as reader, luks.unlock(reader, b"correct horse") as key:
        assert poison(path, poisoned, used_of(Member(1, reader), key)) > 4 * MIB
    with FileReader(poisoned) as reader, luks.unlock(reader, b"correct horse") as key:
        opened = luks.opened(Member(1, reader), key).readers[0]
        plain.write_bytes(opened.read(0, opened.size))

    call("e2fsck", "-fn", plain)
    assert file_digests(plain, tmp_path / "out") == expected(case)["files"][""]


def test_no_logical_volume_in_a_container_misses_what_is_outside_of_the_map(tmp_path):
    path, poisoned = tmp_path / "container", tmp_path / "poisoned"
    path.write_bytes(container("luks2-lvm"))
    with FileReader(path) as reader, luks.unlock(reader, b"correct horse") as key:
        (found,) = survey([Disk(reader)], None, managers([key]))
        poison(path, poisoned, found.used)

    with FileReader(poisoned) as reader, luks.unlock(reader, b"correct horse") as key:
        (physical,) = luks.opened(Member(1, reader), key).readers
        volumes = {volume.name: volume for volume in lvm.assemble([Member(1, physical)]).volumes}
        for name, files in expected("luks2-lvm")["files"].items():
            plain = tmp_path / name
            (opened,) = volumes[f"vg0/{name}"].readers
            plain.write_bytes(opened.read(0, opened.size))
            call("e2fsck", "-fn", plain)
            assert file_digests(plain, tmp_path / f"{name}-files") == files


def file_digests(plain: Path, folder: Path) -> dict[str, str]:
    """Every file of an ext4 image, as the guest listed them."""
    folder.mkdir()
    call("debugfs", "-R", f"rdump / {folder}", plain)
    files = [entry for entry in folder.rglob("*") if entry.is_file()]
    return {os.fspath(entry.relative_to(folder)): hashlib.sha256(entry.read_bytes()).hexdigest() for entry in files}


def test_the_image_holds_ciphertext_only(tmp_path):
    """What a map of a container names is the container's own bytes: nothing that was decrypted."""
    image = container("luks2-512")
    reader = MemoryReader(image)
    with luks.unlock(reader, b"correct horse") as key:
        used = used_of(Member(1, reader), key)
        text = luks.opened(Member(1, reader), key).readers[0]
        plain = text.read(0, text.size)
    copied = b"".join(image[start:end] for start, end in used)
    assert b"\n4998\n4999\n5000\n" in plain
    assert b"\n4998\n4999\n5000\n" not in copied


@pytest.mark.parametrize("passphrase", [b"correct horse", b"wrong donkey"])
def test_neither_passphrase_nor_key_reaches_the_image_or_the_screen(tmp_path, passphrase):
    path, image, key_file = tmp_path / "container", tmp_path / "image", tmp_path / "secret"
    path.write_bytes(container("luks2-512"))
    key_file.write_bytes(passphrase)
    with luks.unlock(MemoryReader(container("luks2-512")), b"correct horse") as key:
        secrets = [passphrase, bytes(key.content), bytes(key.content[:32]), key.content.hex().encode()]

    words = [sys.executable, "-m", "imager", "capture", "--json", "--unlock", f"disk:{key_file}", path, image]
    done = subprocess.run(words, capture_output=True, check=False)

    assert done.returncode == (0 if passphrase == b"correct horse" else 2)
    assert image.exists() == (done.returncode == 0)
    left = [done.stdout, done.stderr, *(each.read_bytes() for each in tmp_path.glob("image*"))]
    if image.exists():
        left.append(subprocess.run(["zstd", "-dc", image], capture_output=True, check=True).stdout)
    assert not [secret for secret in secrets for text in left if secret in text]
