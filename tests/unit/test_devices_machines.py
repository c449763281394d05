# SPDX-License-Identifier: GPL-3.0-or-later
"""Inventory, identity and use on recorded machines that no test host is."""

from __future__ import annotations

import pytest

from imager.devices.beneath import is_on_disk, running_system_disks
from imager.devices.hidden import hidden_content, hidden_disks
from imager.devices.identity import identify, identity_of
from imager.devices.inventory import disk_info, list_disks
from imager.devices.sysfs import System, natural
from imager.devices.target import capabilities
from imager.devices.usage import uses_of
from tests.harness import machines
from tests.harness.machines import Disk, Machine, build, write


@pytest.fixture
def machine(tmp_path):
    """Make a recorded machine the one that is looked at."""
    return lambda recording: System(build(recording, tmp_path))


def names(disks):
    return [disk.name for disk in disks]


def sentences(path, system):
    return [str(use) for use in uses_of(path, system=system)]


@pytest.mark.parametrize(
    ("recording", "path", "expected"),
    [
        ("LAPTOP", "/dev/nvme0n1", ("SAMSUNG MZVLB512HBJQ-000L7", "S4ENNX0N123456", "eui.0025388b01b2c3d4", "nvme")),
        ("SERVER", "/dev/sda", ("HITACHI HUC109060CSS600", "KZH1A2BC", "0x5000cca0724b1d38", "sas")),
        ("RAID", "/dev/sdb", ("WDC WD20EFRX-68EUZN0", "WD-WCC4M0123456", "0x50014ee2b5b1c0f2", "sata")),
        ("TABLET", "/dev/mmcblk0", ("DF4064", "0x1a2b3c4d", "", "mmc")),
        ("LIVE", "/dev/sdb", ("SanDisk Ultra Fit", "4C530001234567890123", "", "usb")),
        ("VIRTUAL", "/dev/vda", ("", "disk-1", "", "virtio")),
        ("RAID", "/dev/md0", ("MD raid1", "c0ffee00-1111-2222-3333-444455556666", "", "md")),
    ],
)
def test_identity_without_udev(machine, recording, path, expected):
    found = identify(path, system=machine(getattr(machines, recording)))
    assert (found.model, found.serial, found.wwn, found.transport) == expected
    assert found.path == path


def test_a_partition_has_the_identity_of_its_disk(machine):
    found = identify("/dev/nvme0n1p2", system=machine(machines.LAPTOP))
    assert (found.path, found.serial) == ("/dev/nvme0n1p2", "S4ENNX0N123456")


def test_udev_fills_what_sysfs_lacks_and_overrules_nothing(machine):
    system = machine(machines.VIRTUAL)
    udev = {"ID_MODEL_ENC": r"Odd\x20Name\x20\x20", "ID_SERIAL_SHORT": "other", "ID_WWN": "0x5000"}
    found = identity_of("vda", system, udev=udev)
    assert (found.model, found.serial, found.wwn) == ("Odd Name", "disk-1", "0x5000")


def test_names_from_a_drive_cannot_command_the_terminal(machine):
    disk = Disk("sda", "pci0/host1/t", "8:0", 512, device={"model": "x\x1b[2Jy\x07", "type": "0"})
    assert identify("/dev/sda", system=machine(Machine([disk]))).model == "x [2Jy"


def test_the_list_has_disks_and_nothing_else(machine):
    assert names(list_disks(system=machine(machines.LIVE))) == ["loop0", "sda", "sdb"]


def test_boot_areas_and_volumes_are_no_disks_of_their_own(machine, tmp_path):
    assert names(list_disks(system=machine(machines.TABLET))) == ["mmcblk0"]
    assert names(list_disks(system=System(build(machines.LAPTOP, tmp_path / "laptop")))) == ["nvme0n1"]


def test_a_multipath_device_is_a_disk_and_names_its_transport(machine):
    system = machine(machines.SERVER)
    found = {disk.name: disk for disk in list_disks(system=system)}
    assert sorted(found) == ["dm-0", "sda", "sdb"]
    assert found["dm-0"].identity.transport == "multipath"
    assert found["dm-0"].path == "/dev/mapper/mpatha"


def test_sizes_partitions_and_kinds_are_told(machine):
    usb = disk_info("/dev/sdb1", system=machine(machines.LIVE))
    assert (usb.size_bytes, usb.is_removable, usb.is_read_only) == (15376318464, True, False)
    partition = usb.partitions[0]
    assert (partition.path, partition.number) == ("/dev/sdb1", 1)
    assert (partition.start_bytes, partition.size_bytes) == (64 * 512, 30029760 * 512)


def test_what_is_no_block_device_has_no_disk(machine):
    assert disk_info("/dev/zero", system=machine(machines.VIRTUAL)) is None


def test_use_goes_up_through_encryption_and_volumes(machine):
    assert sentences("/dev/nvme0n1", machine(machines.LAPTOP)) == [
        "/dev/nvme0n1p3 holds the open encrypted volume /dev/mapper/nvme0n1p3_crypt",
        "/dev/mapper/nvme0n1p3_crypt holds the active logical volume /dev/mapper/vg-root",
        "/dev/mapper/nvme0n1p3_crypt holds the active logical volume /dev/mapper/vg-swap_1",
        "/dev/mapper/vg-swap_1 is in use as swap space",
        "/dev/mapper/vg-root is mounted at /",
        "/dev/nvme0n1p2 is mounted at /boot",
        "/dev/nvme0n1p1 is mounted at /boot/efi",
    ]


def test_a_partition_is_not_used_by_what_is_on_its_neighbours(machine):
    assert sentences("/dev/nvme0n1p1", machine(machines.LAPTOP)) == ["/dev/nvme0n1p1 is mounted at /boot/efi"]


def test_a_path_of_a_multipath_device_is_held(machine):
    found = uses_of("/dev/sdb", system=machine(machines.SERVER))
    assert [(use.kind, use.detail) for use in found] == [
        ("holder", "/dev/mapper/mpatha"),
        ("holder", "/dev/mapper/mpatha-part1"),
        ("mounted", "/srv"),
    ]


def test_a_member_of_an_array_with_btrfs_on_it_is_mounted(machine):
    assert sentences("/dev/sdb", machine(machines.RAID)) == [
        "/dev/sdb1 is a member of the running array /dev/md0",
        "/dev/md0 is mounted at /",
    ]


def test_mounts_of_other_processes_count(machine, tmp_path):
    system = machine(machines.SERVER)
    write(tmp_path / "proc/77/mountinfo", "9 1 8:16 / /elsewhere ro - ext4 /dev/sdb ro")
    assert "/dev/sdb is mounted at /elsewhere (read-only)" in sentences("/dev/sdb", system)


def test_a_read_only_root_is_a_use_that_does_not_write(machine):
    assert [use.writable for use in uses_of("/dev/vda", system=machine(machines.VIRTUAL))] == [False]


@pytest.mark.parametrize(
    ("recording", "disks"),
    [
        ("LAPTOP", {"/dev/nvme0n1", "/dev/nvme0n1p3", "/dev/mapper/nvme0n1p3_crypt", "/dev/mapper/vg-root"}),
        ("RAID", {"/dev/md0", "/dev/sda", "/dev/sda1", "/dev/sdb", "/dev/sdb1"}),
        ("LIVE", {"/dev/loop0", "/dev/sdb", "/dev/sdb1"}),
        ("VIRTUAL", {"/dev/vda", "/dev/vda1"}),
    ],
)
def test_the_disks_of_the_running_system(machine, recording, disks):
    found = running_system_disks(system=machine(getattr(machines, recording)))
    assert {path for path in found if not path.startswith("/dev/dm-")} == disks
    assert len([path for path in found if path.startswith("/dev/dm-")]) == len(
        [path for path in disks if path.startswith("/dev/mapper/")]
    )


def test_an_image_on_a_mounted_path_is_on_every_path_of_the_disk(machine, tmp_path):
    system = machine(machines.SERVER)
    write(tmp_path / "srv/images/a.img.zst", "")
    for disk in ("/dev/sda", "/dev/sdb", "/dev/mapper/mpatha"):
        assert is_on_disk("/srv/images/a.img.zst", disk, system=system)
    assert not is_on_disk("/home/a.img.zst", "/dev/sda", system=system)


@pytest.mark.parametrize(
    ("recording", "path", "expected"),
    [
        ("LAPTOP", "/dev/nvme0n1p1", "write-zeroes"),
        ("VIRTUAL", "/dev/vda", "discard+zero-edges"),
        ("SERVER", "/dev/sda", "zero-edges"),
        ("SERVER", "/home/disk.img", "punch-hole"),
    ],
)
def test_how_unused_ranges_can_be_cleared(machine, recording, path, expected):
    assert capabilities(path, system=machine(getattr(machines, recording))) == expected


def test_an_emmc_warns_of_its_boot_areas(machine):
    warnings = hidden_content("mmcblk0", machine(machines.TABLET)).warnings
    assert len(warnings) == 2
    assert "/dev/mmcblk0boot0 and /dev/mmcblk0boot1" in warnings[0]
    assert "RPMB" in warnings[1]


def test_a_drive_with_two_namespaces_warns_of_the_other(machine):
    disks = [Disk(f"nvme0n{n}", machines._NVME, f"259:{n}", 4096, device={"transport": "pcie"}) for n in (1, 2)]
    warnings = hidden_content("nvme0n1", machine(Machine(disks))).warnings
    assert [("/dev/nvme0n2" in text) for text in warnings] == [True]


def test_drives_behind_a_controller_in_raid_mode_are_told(machine, tmp_path):
    system = machine(machines.VIRTUAL)
    pci = tmp_path / "sys/bus/pci/devices"
    write(pci / "0000:00:17.0/remapped_nvme", "1")
    write(pci / "0000:00:0e.0/class", "0x010400")
    write(pci / "0000:00:0e.0/vendor", "0x8086")
    write(pci / "0000:00:1f.2/class", "0x010601")
    told = hidden_disks(system)
    assert ["0000:00:0e.0" in told[0], "0000:00:17.0" in told[1], len(told)] == [True, True, 2]


def test_names_are_sorted_as_people_count():
    mixed = ["sdaa", "nvme10n1", "sdb", "nvme2n1", "sda", "loop0"]
    assert sorted(mixed, key=natural) == ["loop0", "nvme2n1", "nvme10n1", "sda", "sdb", "sdaa"]


def test_a_machine_without_sysfs_has_no_disks(tmp_path):
    assert list_disks(system=System(tmp_path)) == ()
