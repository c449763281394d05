# SPDX-License-Identifier: GPL-3.0-or-later
"""What is grown, in which order, and what stays as it is: decided from a layout, without a disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imager.errors import UsageError
from imager.growing import table
from imager.growing.filesystems import _GROWERS
from imager.growing.steps import grow_steps
from imager.layout import Content, Partition
from tests.harness.restoring import bare_layout, gpt_layout

GIB = 2**30
MIB = 2**20
UUID = "1b2c3d4e-0000-4000-8000-000000000001"


def disk(*contents, **changes):
    """Partitions of 4 GiB, one after the other."""
    entries = tuple(
        Partition(number, number * 4 * GIB, (number + 1) * 4 * GIB, content=content)
        for number, content in enumerate(contents, 1)
    )
    return replace(gpt_layout(64 * GIB), partitions=entries, **changes)


def grown(*numbers):
    return {number: (4 * GIB, 8 * GIB) for number in numbers or (1,)}


def filesystem(kind="ext4", *, size=4 * GIB, name="", **changes):
    return Content("swap" if kind == "swap" else "filesystem", kind, size_bytes=size, name=name, **changes)


def container(*inside, uuid=UUID):
    return Content("encrypted", "crypto_LUKS", uuid=uuid, size_bytes=4 * GIB, inside=inside)


def physical_volume(*inside, group="vg0", extents=1023, allocated=1023):
    facts = {"volume_group": group, "extent_size_bytes": str(4 * MIB), "extents": str(extents)}
    return Content(
        "volume-manager", "LVM2_member", facts=facts, inside=inside, used_bytes=allocated * 4 * MIB, size_bytes=4 * GIB
    )


def kinds(plan):
    return [(step.kind, step.known_as) for step in plan.steps]


def test_a_file_system_in_a_partition():
    plan = grow_steps(disk(filesystem()), grown())
    assert plan.lines() == ["grow the ext4 in partition 1 from 4.0 GiB to 8.0 GiB (e2fsck, resize2fs)"]
    assert plan.steps[0].commands == ("e2fsck -f /dev/sdX1", "resize2fs /dev/sdX1")


def test_commands_name_the_target():
    [step] = grow_steps(disk(filesystem()), grown(), disk="/dev/nvme0n1").steps
    assert step.commands[1] == "resize2fs /dev/nvme0n1p1"


def test_a_disk_without_a_table():
    plan = grow_steps(bare_layout(4 * GIB), {0: (4 * GIB, 8 * GIB)})
    assert plan.lines()[0].startswith("grow the ext4 in the disk from")
    assert plan.steps[0].commands[1] == "resize2fs /dev/sdX"


def test_the_whole_stack_from_the_outside_inward():
    root = filesystem("xfs", name="vg0/root", size=3 * GIB)
    layout = disk(container(replace(physical_volume(root), name=f"luks-{UUID}")))
    plan = grow_steps(layout, grown(), unlocked=[UUID])
    assert kinds(plan) == [
        ("luks", "partition 1"),
        ("physical-volume", "the container in partition 1"),
        ("logical-volume", "vg0/root"),
        ("filesystem", "vg0/root"),
    ]
    assert [(step.outer, step.volume) for step in plan.steps] == [
        ("", ""), ("", f"luks-{UUID}"), (f"luks-{UUID}", "vg0/root"), ("vg0/root", "vg0/root"),
    ]  # fmt: skip
    assert (plan.steps[3].before_bytes, plan.steps[3].after_bytes) == (3 * GIB, 7 * GIB)
    assert plan.staying == ()


def test_a_locked_container_is_told_with_all_commands_for_later():
    root = filesystem("xfs", name="vg0/root", size=3 * GIB)
    layout = disk(container(replace(physical_volume(root), name=f"luks-{UUID}")))
    plan = grow_steps(layout, grown(), disk="/dev/sda")
    assert plan.steps == ()
    assert plan.staying[0].commands == (
        "cryptsetup open /dev/sda1 luks-1b2c3d4e",
        "pvresize /dev/mapper/luks-1b2c3d4e",
        "lvextend -l +100%FREE vg0/root",
        "mount /dev/vg0/root /mnt",
        "xfs_growfs /mnt",
        "umount /mnt",
    )
    assert "needs the passphrase" in plan.staying[0].reason


def test_a_container_whose_content_the_image_does_not_know_stays():
    plan = grow_steps(disk(container()), grown(), unlocked=[UUID])
    assert plan.steps == ()
    assert plan.staying[0].commands[1] == "grow what is in it"


def test_of_several_volumes_the_one_with_the_largest_file_system():
    inside = [
        filesystem("ext4", name="vg0/var", size=GIB),
        filesystem("ext4", name="vg0/root", size=2 * GIB),
        filesystem("swap", name="vg0/swap", size=3 * GIB),
        filesystem("vfat", name="vg0/fat", size=3 * GIB),
    ]
    plan = grow_steps(disk(physical_volume(*inside)), grown())
    assert kinds(plan)[1:] == [("logical-volume", "vg0/root"), ("filesystem", "vg0/root")]
    assert plan.lines()[1].endswith("; it has the largest file system that can grow of 4 volumes")


def test_free_extents_count():
    root = filesystem(name="vg0/root", size=2 * GIB)
    plan = grow_steps(disk(physical_volume(root, extents=1023, allocated=512)), grown())
    assert plan.steps[1].after_bytes == 2 * GIB + 4 * GIB + 511 * 4 * MIB


def test_a_volume_that_is_named_gets_the_room():
    inside = [filesystem(name="vg0/root"), filesystem("swap", name="vg0/swap", size=GIB)]
    plan = grow_steps(disk(physical_volume(*inside)), grown(), "vg0/swap")
    assert kinds(plan)[1:] == [("logical-volume", "vg0/swap"), ("swap", "vg0/swap")]


def test_a_volume_that_is_not_there_is_an_error_of_the_command():
    with pytest.raises(UsageError, match="no logical volume vg0/rot in what grows; there is vg0/root"):
        grow_steps(disk(physical_volume(filesystem(name="vg0/root"))), grown(), "vg0/rot")


def test_a_partition_that_is_not_there_is_an_error():
    with pytest.raises(UsageError, match="no partition 7"):
        grow_steps(disk(filesystem()), grown(7))


def test_two_physical_volumes_of_a_group_give_their_room_to_one_volume():
    root = filesystem(name="vg0/root", size=4 * GIB)
    plan = grow_steps(disk(physical_volume(root), physical_volume(root)), grown(1, 2))
    assert kinds(plan) == [
        ("physical-volume", "partition 1"),
        ("physical-volume", "partition 2"),
        ("logical-volume", "vg0/root"),
        ("filesystem", "vg0/root"),
    ]
    assert plan.steps[2].after_bytes == 12 * GIB


def test_a_group_without_a_file_system_that_can_grow_keeps_the_room_free():
    plan = grow_steps(disk(physical_volume(filesystem("vfat", name="vg0/fat"))), grown())
    assert kinds(plan) == [("physical-volume", "partition 1")]
    assert plan.lines()[-1] == (
        "vg0 (LVM) stays as it is: vg0 gets more free space, and has no volume with a file system that can grow; "
        "by hand: lvextend -l +100%FREE vg0/VOLUME"
    )


def test_a_container_in_a_logical_volume():
    inner = filesystem("btrfs", name=f"luks-{UUID}", size=3 * GIB)
    layout = disk(physical_volume(replace(container(inner), name="vg0/crypt")))
    assert kinds(grow_steps(layout, grown(), unlocked=[UUID])) == [
        ("physical-volume", "partition 1"),
        ("logical-volume", "vg0/crypt"),
        ("luks", "vg0/crypt"),
        ("filesystem", "the container in partition 1"),
    ]


def test_what_says_that_it_is_not_in_order_stays():
    dirty = filesystem("ntfs", facts={"volume_flags": "dirty"})
    plan = grow_steps(disk(dirty), grown(), disk="/dev/sda")
    assert plan.steps == ()
    assert plan.lines() == [
        "partition 1 (ntfs) stays as it is: Windows has marked it for a check; "
        "by hand: in Windows: chkdsk /f, shut down; ntfsresize /dev/sda1"
    ]
    flagged = filesystem("ext4", facts={"state": "errors flagged"})
    assert grow_steps(disk(flagged), grown()).staying[0].commands == ("e2fsck -f /dev/sdX1", "resize2fs /dev/sdX1")


@pytest.mark.parametrize(
    ("version", "cluster", "size", "grows"),
    [
        ("FAT12", 4096, 4 * GIB, False),
        ("FAT16", 4096, 4 * GIB, False),
        ("FAT32", 4096, 300 * MIB, True),
        ("FAT32", 32768, 4 * GIB, True),
        ("FAT32", 512, 64 * MIB, False),  # an EFI system partition, as mkfs.fat makes it
        ("FAT32", 4096, 100 * MIB, False),  # fewer clusters than a FAT32 has: libparted would make FAT16 of it
        ("", 4096, 4 * GIB, False),
    ],
)
def test_of_fat_only_fat32_with_large_clusters_grows(version, cluster, size, grows):
    content = filesystem("vfat", size=size, block_size_bytes=cluster, facts={"version": version})
    plan = grow_steps(disk(content), grown())
    assert bool(plan.steps) == grows == (not plan.staying)


@pytest.mark.parametrize("name", sorted({name for each in table.STAYING for name in each.types}))
def test_what_stays_says_why(name):
    plan = grow_steps(disk(filesystem(name)), grown())
    assert plan.steps == ()
    assert plan.lines()[0].startswith(f"partition 1 ({name}) stays as it is: ")
    assert "{" not in plan.lines()[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Content("unknown", "unknown"), "it is not known what it holds"),
        (Content("blank", "blank"), "it is empty"),
        (Content("ambiguous", "ext4 + xfs"), "more than one thing claims it"),
        (Content("filesystem", "zonefs"), "there is no way known to grow it"),
    ],
)
def test_what_is_not_understood_stays(content, reason):
    assert reason in grow_steps(disk(content), grown()).staying[0].reason


def test_partitions_that_were_left_out_stay():
    layout = disk(filesystem())
    layout = replace(layout, partitions=(replace(layout.partitions[0], captured=False),))
    assert "left out" in grow_steps(layout, grown()).staying[0].reason


def test_nothing_grows_beneath_a_system_that_sleeps():
    asleep = filesystem("swap", facts={"hibernated": "S1SUSPEND"})
    plan = grow_steps(disk(filesystem(), asleep), grown())
    assert plan.steps == ()
    assert "a system is hibernated on this disk" in plan.staying[0].reason


def test_partitions_that_do_not_grow_are_not_named():
    assert grow_steps(disk(filesystem()), {1: (4 * GIB, 4 * GIB)}).lines() == []


def test_numbers_of_a_hostile_image_do_no_harm():
    facts = {"volume_group": "vg0", "extent_size_bytes": "9" * 400, "extents": "-1"}
    content = replace(physical_volume(filesystem(name="vg0/root")), facts=facts)
    assert kinds(grow_steps(disk(content), grown()))[-1] == ("filesystem", "vg0/root")


def test_everything_in_the_table_has_somebody_who_does_it():
    assert set(_GROWERS) == {name for each in (*table.FILE_SYSTEMS, table.SWAP) for name in each.types}
