# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard restores a machine with several disks, from images that were captured together; other programs judge."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

import imager.process
from bootmedia.recovery.places import Surroundings
from bootmedia.wizard.terminal import Ability
from tests.harness.disks import MIB, Part, gpt_disk, needs_table_tools
from tests.harness.faulty import faulty_file, needs_fuse
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, needs_root
from tests.harness.programs import call
from tests.harness.wizarding import Person, a_person, driven, goes_to_image

pytestmark = [needs_root, needs_table_tools]
IMAGER = Path(sys.executable).parent / "imager"
SIZE = 32 * MIB
PLAIN = Ability(colour=False, blocks=False)
"""A serial line: no colours, and ASCII only."""


@pytest.fixture(autouse=True)
def _our_programs(monkeypatch):
    monkeypatch.setattr(imager.process, "_PATH", f"{IMAGER.parent}{os.pathsep}{imager.process._PATH}")


@pytest.fixture(scope="module")
def disks(tmp_path_factory) -> list[Path]:
    """A machine with two disks; the second one has two partitions, the last of which has room for less."""
    folder = tmp_path_factory.mktemp("disks")
    names = ("system", "data")
    found = []
    for name in names:
        disk = gpt_disk(folder / name, SIZE, [Part(24 * MIB, name=name)])
        call("mke2fs", "-q", "-t", "ext4", "-L", name, "-E", f"offset={MIB}", disk, "24576k")
        found.append(disk)
    return found


@pytest.fixture
def images(disks, tmp_path) -> list[Path]:
    folder = tmp_path / "set"
    call(IMAGER, "capture", "--quiet", "--all-blocks", *disks, folder)
    return [folder / f"{disk.name}.img.zst" for disk in disks]


@pytest.fixture
def around(tmp_path):
    return Surroundings(medium=tmp_path / "medium", mounts=tmp_path / "mounts", volumes=list)


@pytest.fixture
def targets(tmp_path):
    """Two disks of the same size, and one that is too small for either image."""
    with ExitStack() as stack:
        files = [sparse_file(tmp_path / name, size) for name, size in (("a", SIZE), ("b", SIZE), ("small", 8 * MIB))]
        for file in files:
            file.write_bytes(b"\x5a" * file.stat().st_size)
        yield [stack.enter_context(loop_device(file)) for file in files]


def is_untouched(device: Path) -> bool:
    content = device.read_bytes()
    return content == b"\x5a" * len(content)


async def goes_to_which_disks(person: Person, image: Path) -> None:
    await goes_to_image(person, image)
    await person.sees("one of 2 disks of a machine")
    await person.presses("enter")
    await person.sees("one disk, or the whole machine", "2 disks were captured together")


async def gives_each_a_target(person: Person, images: Sequence[Path], targets: Sequence[Path]) -> None:
    for number, (image, target) in enumerate(zip(images, targets, strict=True), 1):
        await person.sees(f"which disk, {number} of {len(images)}", f"For {image.name}", str(target))
        await person.chooses(str(target))
    await person.sees("Go on: show before and after", "WILL BE DESTROYED: EVERYTHING on 2 disks")


def test_a_whole_machine_is_restored_by_keys_alone(disks, images, targets, around) -> None:
    onto = [targets[1], targets[0]]
    pairs = [f"--to {image}={target}" for image, target in zip(images, onto, strict=True)]

    async def story() -> None:
        async with a_person(around, PLAIN) as person:
            await goes_to_which_disks(person, images[1])  # any of them is enough
            await person.sees("here     system.img.zst", "here     data.img.zst", "The whole machine (2 disks)")
            await person.chooses("all")
            await gives_each_a_target(person, images, onto)
            await person.chooses("go")
            await person.sees("restore 1 of 2", "before |", "now on it, and lost")
            assert person.screen.isascii()
            await person.presses("end")
            await person.sees("partition 1 (data")
            await person.presses("enter")
            await person.sees("names of the disks, in this order", "replaced by system.img.zst")
            await person.reads(" ".join(pairs))
            assert all(len(line) <= 80 for line in person.screen.splitlines())
            await person.types(onto[0].name)  # one of them is no agreement to both
            await person.sees("is not the names of all disks, in their order; nothing was written")
            assert all(map(is_untouched, targets))
            await person.presses("ctrl+u")
            await person.types(" ".join(target.name for target in onto))
            await person.sees("All that was asked for is done.", "All 2 disks are restored.")
            for target in onto:
                await person.sees(f"written to {target}, and read back: it is the same")

    driven(story)
    for disk, image, target in zip(disks, images, onto, strict=True):
        assert target.read_bytes() == disk.read_bytes()
        call(IMAGER, "verify", "--quiet", "--against", target, image)
        dumps = [call("sfdisk", "--dump", path).splitlines()[5:] for path in (disk, target)]
        assert [line.split(" : ")[-1] for line in dumps[0]] == [line.split(" : ")[-1] for line in dumps[1]]
        label = call("blkid", "-p", "-O", MIB, "-S", 24 * MIB, "-s", "LABEL", "-o", "value", target)
        assert label.strip() == disk.name
    assert is_untouched(targets[2])


def test_a_disk_is_the_target_of_one_image_only_and_going_back_keeps_what_was_chosen(images, targets, around) -> None:
    async def story() -> None:
        async with a_person(around) as person:
            await goes_to_which_disks(person, images[0])
            await person.chooses("all")
            await person.sees("which disk, 1 of 2", "it has 8.0 MiB, and the image needs")
            assert person.wizard.screen.menu.get_option(str(targets[2])).disabled
            await person.chooses(str(targets[0]))
            await person.sees("which disk, 2 of 2", "it is for system.img.zst")
            assert person.wizard.screen.menu.get_option(str(targets[0])).disabled
            await person.chooses(str(targets[1]))
            await person.sees("Go on")
            await person.chooses("new_ids")
            await person.presses("escape")
            await person.sees("which disk, 2 of 2")
            await person.presses("escape")
            await person.sees("which disk, 1 of 2")
            assert person.wizard.screen.menu.highlighted_option.id == str(targets[0])
            await person.chooses(str(targets[1]))  # that of the second image: the second is asked for again
            await person.sees("which disk, 2 of 2", "it is for system.img.zst")
            assert person.wizard.screen.menu.get_option(str(targets[1])).disabled
            await person.chooses(str(targets[0]))
            await person.sees("[x] New identifiers")
            await person.reads(f"--to {images[0]}={targets[1]} --to {images[1]}={targets[0]}")

    driven(story)
    assert all(map(is_untouched, targets))


def test_an_image_that_is_missing_is_named_and_the_other_is_restored_alone(disks, images, targets, around) -> None:
    elsewhere = images[1].parent.parent / images[1].name
    images[1].rename(elsewhere)

    async def story() -> None:
        async with a_person(around) as person:
            await goes_to_which_disks(person, images[0])
            await person.reads("1 of 2 images not found: data.img.zst.")
            await person.sees("MISSING  data.img.zst", "only this image is here")
            assert person.wizard.screen.menu.get_option("all").disabled
            await person.chooses("one")
            await person.sees("which disk", str(targets[0]))
            await person.chooses(str(targets[0]))
            await person.sees("The whole disk", "[x] Verify")
            await person.chooses("go")
            await person.sees("now on it, and lost")
            await person.presses("end")
            await person.sees("the set is not complete", "data.img.zst is not restored")
            await person.presses("enter")
            await person.sees("type the name of the disk")
            await person.types(targets[0].name)
            await person.sees("All that was asked for is done.", "The disk is restored.")

    driven(story)
    assert targets[0].read_bytes() == disks[0].read_bytes()
    assert is_untouched(targets[1])


def test_a_folder_that_is_gone_for_a_while_is_looked_into_again(images, around) -> None:
    folder, elsewhere = images[0].parent, images[0].parent.with_name("elsewhere")

    async def story() -> None:
        async with a_person(around) as person:
            await goes_to_image(person, images[0])
            await person.sees("one of 2 disks of a machine")
            folder.rename(elsewhere)
            await person.presses("enter")
            await person.sees("This disk alone")
            await person.reads(f"cannot read {folder}: No such file or directory")
            await person.reads("r looks again.")
            elsewhere.rename(folder)
            await person.presses("r")
            await person.sees("The whole machine (2 disks)", "here     data.img.zst")

    driven(story)


def test_an_image_that_comes_later_or_has_another_name_is_found(images, around) -> None:
    elsewhere = images[1].parent.parent / images[1].name
    images[1].rename(elsewhere)
    (images[1].parent / images[1].name).write_bytes(elsewhere.read_bytes()[:200])  # its name, and not its content

    async def story() -> None:
        async with a_person(around) as person:
            await goes_to_which_disks(person, images[0])
            await person.sees("MISSING  data.img.zst", "it cannot be read")
            elsewhere.rename(images[1].parent / "renamed.img.zst")
            await person.presses("r")
            await person.sees("here     renamed.img.zst", "The whole machine (2 disks)")

    driven(story)


def test_a_disk_that_fails_is_told_of_and_the_others_are_written(disks, images, targets, around) -> None:
    content = bytearray(images[0].read_bytes())
    content[len(content) // 2] ^= 0xFF
    images[0].write_bytes(content)

    async def story() -> None:
        async with a_person(around) as person:
            await goes_to_which_disks(person, images[0])
            await person.chooses("all")
            await gives_each_a_target(person, images, targets[:2])
            await person.chooses("go")
            await person.sees("now on it, and lost")
            await person.presses("enter")
            await person.sees("names of the disks")
            await person.types(f"/dev/{targets[0].name} /dev/{targets[1].name}")
            await person.sees("Not every disk is restored.", "not everything is done")
            await person.chooses("lines")
            await person.sees(f"{targets[0]}: NOT RESTORED", f"written to {targets[1]}, and read back")

    driven(story)
    assert targets[0].read_bytes()[:MIB] == bytes(MIB)
    assert targets[1].read_bytes() == disks[1].read_bytes()


@needs_fuse
def test_a_set_is_cancelled_in_the_middle_and_each_disk_is_told_of(around, tmp_path) -> None:
    """The second image gets so slow in its middle that nobody comes too late; its path is longer than a line."""
    sources = [sparse_file(tmp_path / "one", SIZE), tmp_path / "two"]
    sources[1].write_bytes(random.Random(4).randbytes(64 * MIB))
    folder = tmp_path / "the images of a machine that has two disks, with a name that is longer than a line"
    call(IMAGER, "capture", "--quiet", "--level", "fast", "--all-blocks", *sources, folder)
    images = [folder / f"{source.name}.img.zst" for source in sources]
    whole = images[1].rename(tmp_path / images[1].name)
    with (
        faulty_file(whole, tmp_path, delays=[(32 * MIB, 60 * MIB, 2.0)]) as slow,
        loop_device(sparse_file(tmp_path / "x", SIZE)) as first,
        loop_device(sparse_file(tmp_path / "y", 64 * MIB)) as second,
    ):
        images[1].symlink_to(slow.path)

        async def story() -> None:
            async with a_person(around) as person:
                await goes_to_which_disks(person, images[0])
                await person.chooses("all")
                await gives_each_a_target(person, images, [first, second])
                await person.chooses("go")
                await person.sees("now on it")
                await person.presses("enter")
                await person.sees("names of the disks")
                await person.types(f"{first.name} {second.name}")
                await person.sees("BEING OVERWRITTEN: EVERYTHING on 2 disks", "restore 2 of 2")
                await person.presses("escape")
                await person.sees("stays half written")
                await person.chooses("yes")
                await person.sees(
                    "Recovery", "Not every disk is written", "not everything is done", "Back to the beginning"
                )
                await person.sees(f"written to {first}", f"{second}: NOT RESTORED")

        driven(story)
        assert first.read_bytes() == sources[0].read_bytes()
        done = subprocess.run([IMAGER, "verify", "--quiet", "--against", second, whole], check=False)
        assert done.returncode == 8
