# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard's other ways: images from servers, captures, checks, logs. Other programs judge what it did."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from textual import events
from textual.widgets import Input

import imager.process
from bootmedia.recovery.places import DATA_LABEL, Surroundings, Volume
from bootmedia.wizard.attached import Attached
from bootmedia.wizard.volumes import MOUNTS
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, needs_root
from tests.harness.programs import call, missing_tools
from tests.harness.secure_shell import SSHD, ssh_server
from tests.harness.web import serving
from tests.harness.wizarding import Person, a_person, driven

MIB = 1 << 20
pytestmark = needs_root
IMAGER = Path(sys.executable).parent / "imager"


@pytest.fixture(autouse=True)
def _our_programs(monkeypatch):
    monkeypatch.setattr(imager.process, "_PATH", f"{IMAGER.parent}{os.pathsep}{imager.process._PATH}")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A disk with an ext4 directly on it, and its image."""
    folder = tmp_path_factory.mktemp("made")
    disk = sparse_file(folder / "disk.raw", 24 * MIB)
    call("mkfs.ext4", "-q", "-L", "whole", disk)
    call(IMAGER, "capture", "--quiet", disk, folder / "disk.img.zst")
    return disk, folder / "disk.img.zst"


@pytest.fixture
def around(tmp_path):
    return Surroundings(medium=tmp_path / "bootmedia/medium", mounts=tmp_path / "mounts", volumes=list)


async def to_place(person: Person, kind: str) -> None:
    await person.sees("Power off")
    await person.chooses("restore")
    await person.sees("A path")
    await person.chooses(kind)


async def restores(person: Person, device: Path) -> None:
    """From what is in the image to its end."""
    await person.sees("whole", "ext4", "content")
    await person.presses("enter")
    await person.is_offered(str(device))
    await person.chooses(str(device))
    await person.sees("Go on")
    await person.chooses("go")
    await person.sees("now on it, and lost")
    await person.presses("enter")
    await person.sees("type the name")
    await person.types(device.name)
    await person.sees("All that was asked for is done.")


def same_files_system(disk: Path, device: Path) -> None:
    call("e2fsck", "-f", "-n", device)
    uuids = {call("blkid", "-p", "-s", "UUID", "-o", "value", path) for path in (disk, device)}
    assert len(uuids) == 1


def test_an_image_on_a_web_server_is_restored_as_a_stream(made, around, tmp_path) -> None:
    disk, image = made
    with serving() as server, loop_device(sparse_file(tmp_path / "target", 32 * MIB)) as device:
        server.files["/disk.img.zst"] = image.read_bytes()

        async def story() -> None:
            async with a_person(around) as person:
                await to_place(person, "http")
                await person.sees("URL of the image")
                await person.types(f"{server.url}/disk.img.zst")
                await restores(person, device)
                assert "recovery fetch --json http://127.0.0.1" in person.screen

        driven(story)
        same_files_system(disk, device)


@pytest.mark.skipif(bool(missing_tools("openssl")), reason="openssl is missing")
def test_a_certificate_that_nobody_signed_is_shown_and_accepted_by_hand(made, around, tmp_path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    words = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=other"]
    call("openssl", "req", "-x509", *words, "-keyout", key, "-out", certificate)
    said = call("openssl", "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256")
    fingerprint = said.strip().partition("=")[2].replace(":", "").lower()
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    with serving(both) as server:
        server.files["/disk.img.zst"] = made[1].read_bytes()

        async def story() -> None:
            async with a_person(around) as person:
                await to_place(person, "http")
                await person.sees("URL of the image")
                await person.types(f"{server.url}/disk.img.zst")
                await person.sees("No authority vouches", fingerprint[:32], fingerprint[32:])
                await person.presses("enter")  # by mistake: nothing is accepted
                await person.sees("URL of the image")
                await person.presses("enter")
                await person.sees("No authority vouches")
                await person.chooses("yes")
                await person.sees("whole", "ext4", "content")

        driven(story)


@pytest.mark.skipif(not SSHD or bool(missing_tools("ssh-keyscan")), reason="sshd is not installed")
def test_an_image_over_ssh_is_restored_after_the_servers_key_was_accepted(made, around, tmp_path) -> None:
    disk, image = made
    with ssh_server(tmp_path) as server, loop_device(sparse_file(tmp_path / "target", 32 * MIB)) as device:

        async def story() -> None:
            async with a_person(around) as person:
                await to_place(person, "ssh")
                await person.sees("Port")
                for value in ("127.0.0.1", str(server.port), str(image), "root", str(tmp_path / "user"), ""):
                    await person.types(value)
                await person.sees("is this the right server?", server.fingerprint)
                await person.chooses("yes")
                await restores(person, device)

        driven(story)
        same_files_system(disk, device)
        assert not copies_of(tmp_path / "user")


@pytest.mark.skipif(not SSHD or bool(missing_tools("ssh-keyscan")), reason="sshd is not installed")
@pytest.mark.parametrize(("key", "said"), [("stranger", "cannot be mounted"), ("nowhere", "directory.")])
def test_no_copy_of_a_key_stays_when_a_folder_cannot_be_mounted(around, tmp_path, key, said) -> None:
    with ssh_server(tmp_path) as server:

        async def story() -> None:
            async with a_person(around) as person:
                await to_place(person, "ssh")
                await person.sees("Port")
                for value in ("127.0.0.1", str(server.port), "/srv", "root", str(tmp_path / key), ""):
                    await person.types(value)
                await person.sees("is this the right server?", server.fingerprint)
                await person.chooses("yes")
                await person.sees(said)

        driven(story)
        assert not copies_of(tmp_path / "stranger")


def copies_of(key) -> list[Path]:
    """Files of the wizard that hold a private key."""
    return [path for path in MOUNTS.glob("*") if path.is_file() and content_of(path) == key.read_bytes()]


def content_of(path) -> bytes:
    """Nothing, when another wizard has just removed it."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def test_what_was_mounted_is_unmounted_and_secrets_are_forgotten_when_the_wizard_is_left(tmp_path) -> None:
    attached, folder, secret = Attached(), tmp_path / "mounted", tmp_path / "secret"
    folder.mkdir()
    call("mount", "-t", "tmpfs", "none", folder)
    attached.mounted(folder)
    attached.keep_file(secret, b"key")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert list(attached.close()) == []
    assert not folder.exists()
    assert not secret.exists()


def test_a_mount_that_is_in_use_stays_and_is_told(tmp_path) -> None:
    attached, folder = Attached(), tmp_path / "mounted"
    folder.mkdir()
    call("mount", "-t", "tmpfs", "none", folder)
    try:
        attached.mounted(folder)
        with (folder / "open").open("w"):
            (said,) = attached.close()
        assert f"{folder} stays mounted" in said
        assert "busy" in said
    finally:
        call("umount", folder)


def test_what_is_typed_faster_than_it_is_read_still_goes_into_its_fields(around) -> None:
    async def story() -> None:
        async with a_person(around) as person:
            await to_place(person, "smb")
            await person.sees("Windows share", "Password")
            for character in "nas\rbackup\rann\r\rsecret":
                key = events.Key("enter" if character == "\r" else character, character)
                person.wizard.post_message(key)  # as the terminal does: without waiting for what becomes of it
            fields = {str(field.id): field for field in person.wizard.screen.query(Input)}
            for _ in range(6000):
                if fields["password"].value == "secret":
                    break
                await person.pilot.pause(0.05)
            typed = {name: field.value for name, field in fields.items() if field.value}
            assert typed == {"server": "nas", "path": "backup", "user": "ann", "password": "secret"}

    driven(story)


def test_a_share_that_does_not_answer_ends_in_a_message(around) -> None:
    async def story() -> None:
        async with a_person(around) as person:
            await to_place(person, "smb")
            await person.sees("Windows share", "Password")
            for value in ("127.0.0.1", "nothing", "user", "", "secret-word"):
                await person.types(value)
            shown = await person.sees("cannot be mounted")
            assert "secret-word" not in shown
            assert not any("secret-word" in line for line in person.wizard.journal.lines)

    driven(story)


def test_this_machine_is_captured_and_the_image_is_read_again(made, around, tmp_path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    with loop_device(made[0]) as device:

        async def story() -> None:
            async with a_person(around) as person:
                await person.sees("Power off")
                await person.chooses("capture")
                await person.is_offered(str(device))
                for path in list(person.wizard.screen._marked):  # what is built in is marked at first
                    await person.chooses(path)
                await person.chooses(str(device))
                await person.is_offered("go: Go on: where to   1 marked")
                await person.chooses("go")
                await person.sees("A path")
                await person.chooses("path")
                await person.sees("Path of an image")
                await person.types(str(folder))
                await person.sees("Use this folder")
                await person.chooses("here")
                await person.sees("Verify afterwards")
                await person.chooses("level:fast")
                await person.chooses("go")
                await person.sees("whole", "ext4", str(folder))
                await person.presses("enter")
                await person.sees("All that was asked for is done.", "imager verify")

        driven(story)
    (image,) = folder.glob("*.img.zst")
    raw = subprocess.run(["zstd", "-dc", image], check=True, capture_output=True).stdout
    (tmp_path / "raw").write_bytes(raw)
    call("e2fsck", "-f", "-n", tmp_path / "raw")
    assert len(raw) == made[0].stat().st_size


@pytest.mark.parametrize(("differs", "words"), [(False, "All that was asked for"), (True, "differences were found")])
def test_a_disk_is_compared_with_an_image(made, around, tmp_path, differs, words) -> None:
    copy = shutil.copy(made[0], tmp_path / "copy.raw")
    if differs:
        with Path(copy).open("r+b") as file:
            file.seek(1024 + 120)
            file.write(b"another label")
    with loop_device(Path(copy)) as device:

        async def story() -> None:
            async with a_person(around) as person:
                await person.sees("Power off")
                await person.chooses("verify")
                await person.sees("A path")
                await person.chooses("path")
                await person.sees("Path of an image")
                await person.types(str(made[1]))
                await person.sees("The image alone", str(device))
                await person.chooses(str(device))
                await person.sees(words)

        driven(story)


def test_logs_are_saved_to_the_sticks_data_partition(tmp_path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    around = Surroundings(
        medium=tmp_path / "bootmedia/medium", volumes=lambda: [Volume("/dev/none", DATA_LABEL, str(data))]
    )

    async def story() -> None:
        async with a_person(around) as person:
            person.wizard.journal.keep(tmp_path / "kept", "wizard")
            person.wizard.log_line("something was done")
            await person.sees("Power off")
            await person.chooses("logs")
            await person.sees(str(data))
            await person.chooses(f"stick:{data}")
            await person.sees("All of it worked.")

    driven(story)
    (saved,) = (data / "logs").iterdir()
    assert "something was done" in saved.read_text()


def test_answers_that_are_there_are_planned_before_anything_is_asked(made, tmp_path) -> None:
    medium = tmp_path / "bootmedia/medium"
    medium.mkdir(parents=True)
    with loop_device(sparse_file(tmp_path / "target", 32 * MIB)) as device:
        lines = ["[match]", "any = true", "[[restore]]", f'image = "{made[1]}"', f'target = "path={device}"']
        (medium / "recovery.toml").write_text("\n".join(lines))
        around = Surroundings(medium=medium, mounts=tmp_path / "mounts", volumes=list)

        async def story() -> None:
            async with a_person(around) as person:
                await person.sees("found at", "recovery.toml")
                await person.chooses("unattended")
                await person.sees("recovery run --dry-run")
                # The command looks in the medium's real places, where nothing is on this machine.
                await person.sees("This cannot be done", "recovery.toml")

        driven(story)
