# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard, driven by keys, with real images and loop devices; other programs judge what it did."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import imager.process
from bootmedia.recovery.places import Surroundings
from bootmedia.wizard.terminal import Ability
from tests.harness.disks import sfdisk
from tests.harness.faulty import faulty_file, needs_fuse
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, mounted, needs_root, partition_nodes, partitions, unmount
from tests.harness.programs import call
from tests.harness.wizarding import Person, a_person, driven, goes_to_image, goes_to_options

MIB = 1 << 20
pytestmark = needs_root
IMAGER = Path(sys.executable).parent / "imager"


@pytest.fixture(autouse=True)
def _our_programs(monkeypatch):
    """The wizard starts `imager` and `recovery` by name, as on the medium."""
    monkeypatch.setattr(imager.process, "_PATH", f"{IMAGER.parent}{os.pathsep}{imager.process._PATH}")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A disk with two file systems of which one has files, and its image."""
    folder = tmp_path_factory.mktemp("machine")
    disk = sfdisk(sparse_file(folder / "disk.raw", 64 * MIB), "label: gpt\nsize=16M, name=boot\nsize=40M, name=root\n")
    with loop_device(disk) as device, partitions(device) as parts:
        call("mkfs.ext4", "-q", "-L", "bootfs", parts[0])
        call("mkfs.ext4", "-q", "-L", "rootfs", parts[1])
        with mounted(parts[1], folder / "mnt") as top:
            (top / "marker").write_text("the same as before\n")
            (top / "big").write_bytes(random.Random(1).randbytes(8 * MIB))
    image = folder / "images/server.img.zst"
    image.parent.mkdir()
    call(IMAGER, "capture", "--quiet", disk, image)
    return disk, image


@pytest.fixture
def around(tmp_path):
    """No stick and no answers."""
    return Surroundings(medium=tmp_path / "medium", mounts=tmp_path / "mounts", volumes=list)


@pytest.fixture
def target(tmp_path):
    with loop_device(sparse_file(tmp_path / "target.raw", 100 * MIB)) as device:
        yield device


def restored_marker(device: Path, folder: Path) -> str:
    """What stands in the file that was in the image; the file system is checked on the way."""
    parts = partition_nodes(device)  # the restore made the kernel read the table
    call("e2fsck", "-f", "-n", parts[1])
    with mounted(parts[1], folder, options="ro,noload") as top:
        return (top / "marker").read_text()


async def to_review(person: Person, image: Path, device: Path) -> None:
    """As far as one can go without agreeing to anything."""
    await goes_to_options(person, image, "rootfs", device)
    await person.sees("WILL BE DESTROYED: EVERYTHING", "The whole disk")
    await person.chooses("go")
    await person.sees("now on it, and lost", "WILL BE DESTROYED: EVERYTHING")


def test_a_disk_is_restored_by_keys_alone(machine, around, target, tmp_path) -> None:
    disk, image = machine

    async def story() -> None:
        async with a_person(around) as person:
            await to_review(person, image, target)
            await person.presses("enter")
            await person.sees("type the name of the disk")
            await person.types(target.name)
            await person.sees("All that was asked for is done.", "read back: it is the same", "imager restore --yes")
            await person.chooses("reboot")
            await person.sees("Reboot now?", "Nothing is being written now.")
            await person.presses("escape")
            await person.sees("All that was asked for is done.", "Take the medium out and reboot.")
            await person.chooses("menu")
            await person.sees("Power off", "Nothing is being written now.")

    driven(story)
    assert restored_marker(target, tmp_path / "mnt") == "the same as before\n"
    places = [call("sfdisk", "--dump", path) for path in (disk, target)]
    rows = [[line.partition(" : ")[2] for line in said.splitlines() if " : " in line] for said in places]
    assert rows[0] == rows[1]


def identifiers(device: Path) -> set[str]:
    """All that sfdisk and blkid know of a disk whose partitions the kernel knows."""
    table = json.loads(call("sfdisk", "--json", device))["partitiontable"]
    contents = [call("blkid", "-p", "-s", "UUID", "-o", "value", part).strip() for part in partition_nodes(device)]
    return {table["id"].lower(), *(row["uuid"].lower() for row in table["partitions"]), *contents}


def test_a_clone_with_new_identifiers_lives_beside_its_source(machine, around, target, tmp_path) -> None:
    disk, image = machine
    (tmp_path / "source").write_bytes(disk.read_bytes())

    async def story() -> None:
        async with a_person(around) as person:
            await goes_to_options(person, image, "rootfs", target)
            await person.sees("[ ] New identifiers", "for a clone that lives beside its source")
            await person.chooses("new_ids")
            await person.sees("[x] New identifiers", "--new-ids")
            await person.chooses("go")
            await person.sees("now on it, and lost")
            await person.presses("end")
            await person.sees("put the new ones for the old ones in fstab")
            await person.presses("escape")
            await person.sees("[x] New identifiers")
            await person.presses("escape")  # another look at the disks forgets nothing
            await person.sees("which disk")
            await person.presses("enter")
            await person.sees("[x] New identifiers", f"({target})")
            await person.chooses("go")
            await person.sees("now on it, and lost")
            await person.presses("enter")
            await person.sees("type the name of the disk", "--new-ids")
            await person.types(target.name)
            await person.sees("All that was asked for is done.", "partition 1: ext4", "becomes")
            await person.chooses("lines")
            await person.sees("everything that the command said", "disk: disk GUID")  # the result has no room for it

    driven(story)
    assert restored_marker(target, tmp_path / "mnt") == "the same as before\n"
    with loop_device(tmp_path / "source") as source, partitions(source):
        new, old = identifiers(target), identifiers(source)
    assert len(new) == len(old) == 5
    assert not new & old


@pytest.mark.skipif(Path("/sys/firmware/efi").exists(), reason="UEFI started this machine, as that of the image")
def test_a_system_for_uefi_is_made_to_start_on_a_machine_with_bios(around, target, tmp_path) -> None:
    disk = sfdisk(sparse_file(tmp_path / "uefi.raw", 64 * MIB), "label: gpt\nsize=40M, type=U\nsize=16M, name=root\n")
    call("mkfs.fat", "-F", "32", "--offset", 2048, disk, 40 * 1024)
    image = tmp_path / "uefi.img.zst"
    call(IMAGER, "capture", "--quiet", disk, image)

    async def story() -> None:
        async with a_person(around) as person:
            await goes_to_options(person, image, "vfat", target)
            await person.sees("Make it start with BIOS", "its old machine had UEFI: better do")
            await person.chooses("firmware")
            await person.sees("[x] Make it start with BIOS")
            await person.chooses("go")
            await person.sees("--to-bios", "partition 3 is new")

    driven(story)


def test_nothing_is_written_before_the_name_was_typed(machine, around, target) -> None:
    async def story() -> None:
        async with a_person(around) as person:
            await to_review(person, machine[1], target)
            await person.presses("enter")
            await person.sees("type the name of the disk")
            await person.types("yes")
            await person.sees("is not the name of the disk; nothing was written")
            await person.presses("escape")
            await person.sees("before and after")

    driven(story)
    with target.open("rb") as file:
        assert not any(file.read())


def test_disks_that_must_not_be_written_say_why_and_cannot_be_chosen(machine, around, tmp_path) -> None:
    with (
        loop_device(sparse_file(tmp_path / "small", 20 * MIB)) as small,
        loop_device(sparse_file(tmp_path / "holder", 200 * MIB)) as holder,
    ):
        call("mkfs.ext4", "-q", holder)
        with mounted(holder, tmp_path / "held") as top:
            (top / "server.img.zst").write_bytes(machine[1].read_bytes())

            async def story() -> None:
                async with a_person(around) as person:
                    await goes_to_image(person, top / "server.img.zst")
                    await person.sees("content")
                    await person.presses("enter")
                    await person.is_offered(str(small), str(holder))
                    for device, words in (
                        (small, "it has 20.0 MiB, and the image needs"),
                        (holder, "it holds the image"),
                    ):
                        option = person.wizard.screen.menu.get_option(str(device))
                        assert option.disabled
                        assert words in str(option.prompt)

            driven(story)


def test_what_the_medium_is_made_of_is_not_listed_as_a_place(around, tmp_path) -> None:
    with (
        loop_device(sparse_file(tmp_path / "layer", 20 * MIB)) as layer,
        loop_device(sparse_file(tmp_path / "usb", 20 * MIB)) as usb,
    ):
        call("mkfs.ext4", "-q", layer)
        call("mkfs.ext4", "-q", usb)
        with mounted(layer, around.medium.parent / "layers"):

            async def story() -> None:
                async with a_person(around) as person:
                    await person.sees("Power off")
                    await person.chooses("restore")
                    await person.sees("$ blkid")
                    await person.is_offered(f"disk:{usb}")
                    listed = {option.id for option in person.wizard.screen.menu.options}
                    assert f"disk:{usb}" in listed
                    assert f"disk:{layer}" not in listed

            driven(story)


def test_an_image_on_a_disk_is_found_by_mounting_and_browsing(machine, around, tmp_path) -> None:
    with loop_device(sparse_file(tmp_path / "usb", 64 * MIB)) as usb:
        call("mkfs.ext4", "-q", "-L", "BACKUP", usb)
        with mounted(usb, tmp_path / "mnt") as top:
            (top / "servers").mkdir()
            (top / "servers/web.img.zst").write_bytes(machine[1].read_bytes())
        before = usb.read_bytes()

        async def story() -> None:
            async with a_person(around) as person:
                await person.sees("Power off")
                await person.chooses("restore")
                await person.is_offered(f"disk:{usb}")
                await person.chooses(f"disk:{usb}")
                await person.sees("servers/", "ls /run/recovery-wizard")
                await person.chooses("entry:servers")
                await person.sees("image", "web.img.zst")
                await person.chooses("entry:web.img.zst")
                await person.sees("content", "rootfs")

        folder = Path("/run/recovery-wizard") / f"dev_{usb.name}"
        try:
            driven(story)
        finally:
            unmount(folder)
        assert usb.read_bytes() == before


def test_a_single_partition_is_restored_into_a_disk_and_the_others_stay(machine, around, tmp_path) -> None:
    image = machine[1]
    with loop_device(sparse_file(tmp_path / "target.raw", 50 * MIB)) as device:  # too small for the whole disk
        sfdisk(device, "label: gpt\nsize=4M\nsize=41M\n")
        with partitions(device) as parts:
            parts[0].write_bytes(b"keep me" * 1000)

            async def story() -> None:
                async with a_person(around) as person:
                    await goes_to_image(person, image)
                    await person.sees("content")
                    await person.presses("enter")
                    await person.is_offered(str(device))
                    await person.chooses(str(device))
                    await person.sees("The whole disk", "and the image needs")
                    await person.chooses("part:2:2")
                    await person.sees(
                        "WILL BE DESTROYED: partition 2 (41.0 MiB)", "New identifiers", "for whole disks only"
                    )
                    assert person.wizard.screen.menu.get_option("new_ids").disabled
                    await person.chooses("go")
                    await person.sees("now on it, and lost")
                    await person.presses("enter")
                    await person.sees("type the name")
                    await person.types(f"/dev/{device.name}")
                    await person.sees("All that was asked for is done.")

            driven(story)
            call("e2fsck", "-f", "-n", parts[1])
            assert parts[0].read_bytes().startswith(b"keep me" * 1000)


def test_a_failing_command_shows_its_message_and_its_hint(machine, around, tmp_path) -> None:
    damaged = tmp_path / "damaged.img.zst"
    content = bytearray(machine[1].read_bytes())
    damaged.write_bytes(content[: len(content) // 2])
    expected = subprocess.run([IMAGER, "info", damaged], check=False, capture_output=True, text=True)

    async def story() -> None:
        async with a_person(around) as person:
            await goes_to_image(person, damaged)
            await person.sees("This cannot be restored:")
            for words in expected.stderr.removeprefix("imager:").splitlines():
                await person.reads(words)

    driven(story)


@needs_fuse
def test_a_restore_is_cancelled_in_the_middle_and_called_half_written(around, tmp_path) -> None:
    """From a disk that gets so slow in its middle that nobody comes too late."""
    source, image = tmp_path / "source.raw", tmp_path / "big.img.zst"
    source.write_bytes(random.Random(4).randbytes(64 * MIB))
    call(IMAGER, "capture", "--quiet", "--level", "fast", "--all-blocks", source, image)
    with (
        faulty_file(image, tmp_path, delays=[(32 * MIB, 60 * MIB, 2.0)]) as slow,
        loop_device(sparse_file(tmp_path / "target.raw", 64 * MIB)) as device,
    ):

        async def story() -> None:
            async with a_person(around) as person:
                await goes_to_image(person, slow.path)
                await person.sees("content")
                await person.presses("enter")
                await person.is_offered(str(device))
                await person.chooses(str(device))
                await person.sees("Go on")
                await person.presses("enter")
                await person.sees("now on it")
                await person.presses("enter")
                await person.sees("type the name")
                await person.types(device.name)
                await person.sees("BEING OVERWRITTEN", "time left")
                await person.presses("escape")
                await person.sees("the disk stays half written")
                await person.chooses("yes")
                await person.sees("half written and will not start: restore again", "not everything is done")

        driven(story)


@pytest.mark.parametrize("size", [(80, 24), (132, 50), (100, 30)])
def test_no_screen_is_wider_than_its_terminal(machine, around, target, size) -> None:
    async def story() -> None:
        async with a_person(around, size=size) as person:
            await to_review(person, machine[1], target)
            assert all(len(line) <= size[0] for line in person.screen.splitlines())
            await person.pilot.resize_terminal(100, 30)
            await person.sees("now on it, and lost")

    driven(story)


def test_an_ascii_terminal_gets_ascii(machine, around, target) -> None:
    async def story() -> None:
        async with a_person(around, Ability(colour=False, blocks=False)) as person:
            for words in ("Power off",):
                assert (await person.sees(words)).isascii()
            await to_review(person, machine[1], target)
            assert person.screen.isascii()
            await person.presses("escape", "escape", "escape")
            assert (await person.sees("|1###")).isascii()

    driven(story)
