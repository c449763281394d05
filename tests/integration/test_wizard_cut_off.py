# SPDX-License-Identifier: GPL-3.0-or-later
"""The server is lost in the middle of a restore that the wizard runs: who sits there reads what happened and what to
do, and the same again works when the server is back.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from textual import events

import imager.process
from bootmedia.recovery.places import Surroundings
from tests.harness.cutting import Cable, Cut, cable
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, needs_root
from tests.harness.programs import call, missing_tools
from tests.harness.secure_shell import SSHD, ssh_server
from tests.harness.web import serving as web_serving
from tests.harness.wizarding import Person, a_person, driven
from tests.integration.test_wizard_shares import PASSWORD
from tests.integration.test_wizard_shares import serving as sftp_serving
from tests.integration.test_wizard_tasks import to_place

MIB = 1 << 20
IMAGER = Path(sys.executable).parent / "imager"
Goes = Callable[[Person], Awaitable[None]]
"""From the first screen to what is in the image."""
AGAIN = "Again, from the plan on"

pytestmark = [
    needs_root,
    pytest.mark.skipif(not SSHD or bool(missing_tools("sshfs", "ssh-keyscan", "openssl")), reason="no sshd or sshfs"),
]
long = pytest.mark.slow


@pytest.fixture(autouse=True)
def _our_programs(monkeypatch):
    monkeypatch.setattr(imager.process, "_PATH", f"{IMAGER.parent}{os.pathsep}{imager.process._PATH}")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Large enough that no buffer on the way holds what comes after the cut."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "files").mkdir()
    (folder / "files" / "random").write_bytes(os.urandom(48 * MIB))
    disk = sparse_file(folder / "disk.raw", 80 * MIB)
    call("mke2fs", "-q", "-t", "ext4", "-L", "whole", "-d", folder / "files", disk)
    call(IMAGER, "capture", "--quiet", disk, folder / "disk.img.zst")
    return folder / "disk.img.zst"


@contextmanager
def over_http(image: Path, _scratch: Path) -> Iterator[tuple[Cable, Goes]]:
    with web_serving() as server:
        server.files["/disk.img.zst"] = image.read_bytes()
        with cable(urlsplit(server.url).port or 0) as way:

            async def goes(person: Person) -> None:
                await to_place(person, "http")
                await person.sees("URL of the image")
                await person.types(f"http://127.0.0.1:{way.port}/disk.img.zst")

            yield way, goes


@contextmanager
def over_ssh(image: Path, scratch: Path) -> Iterator[tuple[Cable, Goes]]:
    with ssh_server(scratch) as server, cable(server.port) as way:
        yield way, signs_in(way, image, str(scratch / "user"))


@contextmanager
def over_sftp(image: Path, scratch: Path) -> Iterator[tuple[Cable, Goes]]:
    """With a password: the folder is mounted."""
    with sftp_serving(scratch) as port, cable(port) as way:
        yield way, signs_in(way, image, "", f"{PASSWORD}\r")


def signs_in(way: Cable, image: Path, key: str, password: str = "\r") -> Goes:  # noqa: S107  an empty one
    async def goes(person: Person) -> None:
        await to_place(person, "ssh")
        await person.sees("Port")
        for value in ("127.0.0.1", str(way.port), str(image), "root", key):
            await person.types(value)
        for each in password:
            person.wizard.post_message(events.Key({" ": "space", "\r": "enter"}.get(each, each), each))
        await person.sees("is this the right server?")
        await person.chooses("yes")

    return goes


async def begins(person: Person, device: Path, way: Cable | None = None, cut: Cut = Cut.RESET) -> None:
    """From what is in the image to a restore that runs, during which the cable is cut."""
    await person.sees("whole", "ext4", "content")
    await person.presses("enter")
    await person.is_offered(str(device))
    await person.chooses(str(device))
    await person.sees("Go on")
    await person.chooses("go")
    await agrees(person, device, way, cut)


async def agrees(person: Person, device: Path, way: Cable | None = None, cut: Cut = Cut.RESET) -> None:
    await person.sees("now on it, and lost")
    await person.presses("enter")
    await person.sees("type the name")
    if way:
        way.cut_after(20 * MIB, cut)
    await person.types(device.name)


@contextmanager
def a_machine(image: Path, tmp_path: Path) -> Iterator[tuple[Path, Surroundings]]:
    """A disk, and no medium; at the end the disk is the image's."""
    with loop_device(sparse_file(tmp_path / "target", 96 * MIB)) as device:
        yield device, Surroundings(medium=tmp_path / "bootmedia/medium", mounts=tmp_path / "mounts", volumes=list)
        call(IMAGER, "verify", image, "--against", device)


@pytest.mark.parametrize(
    ("served", "cut"),
    [
        (over_http, Cut.RESET),
        pytest.param(over_ssh, Cut.RESET, marks=long),
        pytest.param(over_http, Cut.SILENCE, marks=long),
        pytest.param(over_ssh, Cut.SILENCE, marks=long),
    ],
)
def test_a_stream_goes_on_when_the_server_is_back(image, tmp_path, served, cut) -> None:
    with a_machine(image, tmp_path) as (device, around), served(image, tmp_path) as (way, goes):

        async def story() -> None:
            async with a_person(around) as person:
                await goes(person)
                await begins(person, device, way, cut)
                if cut is Cut.SILENCE:
                    await person.sees("nothing has moved for")
                await person.reads("next attempt in")
                way.mend()
                await person.sees("All that was asked for is done.")

        driven(story)


@long
@pytest.mark.parametrize("served", [over_http, over_ssh])
def test_a_stream_whose_server_stays_away_ends_in_words_and_works_again(image, tmp_path, served) -> None:
    """Silence would take five to ten minutes, and ends the same; test_recovery_web has its time limit."""
    with a_machine(image, tmp_path) as (device, around), served(image, tmp_path) as (way, goes):

        async def story() -> None:
            async with a_person(around) as person:
                await goes(person)
                await begins(person, device, way, Cut.RESET)
                await person.sees(AGAIN, patience_seconds=1200)
                await is_told(person, device)
                await person.reads("8 times in a row")
                assert "salvage" not in person.screen  # nothing is wrong with the image
                way.mend()
                await person.chooses("again")
                await agrees(person, device)
                await person.sees("All that was asked for is done.")

        driven(story)


@long
@pytest.mark.parametrize("cut", Cut)
def test_a_mounted_folder_whose_server_is_lost_ends_in_words_and_works_again(image, tmp_path, cut) -> None:
    with a_machine(image, tmp_path) as (device, around), over_sftp(image, tmp_path) as (way, goes):

        async def story() -> None:
            async with a_person(around) as person:
                await goes(person)
                await begins(person, device, way, cut)
                await person.sees(AGAIN)
                await is_told(person, device)
                way.mend()
                await person.chooses("again")
                await agrees(person, device)
                await person.sees("All that was asked for is done.")
                assert list(person.wizard.attached.close()) == []

        driven(story)


@long
@pytest.mark.parametrize("served", [over_http, over_ssh, over_sftp])
def test_nobody_has_to_wait_for_a_silent_server(image, tmp_path, served) -> None:
    with served(image, tmp_path) as (way, goes), loop_device(sparse_file(tmp_path / "target", 96 * MIB)) as device:
        around = Surroundings(medium=tmp_path / "bootmedia/medium", mounts=tmp_path / "mounts", volumes=list)

        async def story() -> None:
            async with a_person(around) as person:
                await goes(person)
                await begins(person, device, way, Cut.SILENCE)
                await person.sees("nothing has moved for")
                await person.presses("c")
                await person.sees("cancel?")
                await person.chooses("yes")
                await person.reads("Cancelled. The disk is half written and will not start: restore again.")
                assert list(person.wizard.attached.close()) == []

        driven(story)


async def is_told(person: Person, device: Path) -> None:
    """What happened, what the disk is now, and what to look at."""
    await person.reads("The disk is not restored. Read why below, then restore again.")
    await person.reads("Exit status 5: the place of the image")
    await person.reads(f"{device} is incomplete and has no partition table: run the restore again")
    await person.reads("ook at cable")
    assert "unexpected" not in person.screen


def test_a_mount_whose_program_is_gone_is_mounted_anew(image, tmp_path) -> None:
    with over_sftp(image, tmp_path) as (way, goes):
        around = Surroundings(medium=tmp_path / "bootmedia/medium", mounts=tmp_path / "mounts", volumes=list)

        async def story() -> None:
            async with a_person(around) as person:
                await goes(person)
                await person.sees("whole", "ext4", "content")
                os.kill(program_behind(image.parent, way), signal.SIGKILL)
                for _ in range(3):
                    await person.presses("escape")
                await goes(person)
                await person.sees("whole", "ext4", "content")
                assert list(person.wizard.attached.close()) == []

        driven(story)


def program_behind(folder: Path, way: Cable) -> int:
    """The process of sshfs that has mounted a folder over a cable."""
    for found in Path("/proc").glob("[0-9]*/cmdline"):
        words = found.read_bytes().decode(errors="replace").split("\0")
        if words[0].endswith("sshfs") and f"root@127.0.0.1:{folder}" in words and str(way.port) in words:
            return int(found.parent.name)
    raise AssertionError(f"no sshfs for {folder}")
