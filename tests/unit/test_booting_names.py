# SPDX-License-Identifier: GPL-3.0-or-later
"""Device names of a machine that is gone: which volume they mean, and how files change that name them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imager.booting import tabs
from imager.booting.names_in_files import naming_steps, unclear_names
from imager.booting.old_names import Candidate, OldName, old_name, resolve
from imager.booting.tree import Tree

DISK = (
    Candidate("/dev/nvme0n1", 1, "vfat", "AAAA-BBBB"),
    Candidate("/dev/nvme0n1", 2, "ext4", "1111", is_root=True),
    Candidate("/dev/nvme0n1", 3, "swap", "2222"),
    Candidate("/dev/nvme0n1", 4, "crypto_LUKS", "3333"),
)


@pytest.mark.parametrize(
    ("text", "disk", "number"),
    [
        ("/dev/sda2", "sda", 2),
        ("/dev/vda1", "vda", 1),
        ("/dev/hda7", "hda", 7),
        ("/dev/xvdb1", "xvdb", 1),
        ("/dev/nvme0n1p3", "nvme0n1", 3),
        ("/dev/mmcblk0p1", "mmcblk0", 1),
        ("/dev/disk/by-id/ata-Samsung_SSD_S3Z-part2", "by-id/ata-Samsung_SSD_S3Z", 2),
        ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part5", "by-path/pci-0000:00:1f.2-ata-1", 5),
    ],
)
def test_names_of_hardware_did_not_come_along(text: str, disk: str, number: int) -> None:
    assert old_name(text) == OldName(text, disk, number)


@pytest.mark.parametrize(
    "text",
    [
        "UUID=1111",
        "LABEL=root",
        "PARTUUID=x",
        "/dev/mapper/vg-root",
        "/dev/vg/root",
        "/dev/md0",
        "/dev/sda",
        "/dev/disk/by-uuid/1111",
        "/dev/disk/by-label/x-part2",
        "/dev/disk/by-id/dm-name-x-part1",
        "tmpfs",
        "/dev/sr0",
        "/dev/loop0p1",
    ],
)
def test_names_that_came_along_or_are_no_partition_are_left_alone(text: str) -> None:
    assert old_name(text) is None


def names(*triples: tuple[str, str, bool]) -> list[OldName]:
    return [found for text, kind, is_root in triples if (found := old_name(text, kind, is_root=is_root))]


def meant(*triples: tuple[str, str, bool], candidates: tuple[Candidate, ...] = DISK) -> dict[str, str]:
    return {text: place.uuid for text, place in resolve(names(*triples), candidates).items()}


def test_all_names_of_a_disk_that_fits_are_found() -> None:
    assert meant(("/dev/vda2", "ext4", True), ("/dev/vda3", "swap", False)) == {
        "/dev/vda2": "1111",
        "/dev/vda3": "2222",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        ("/dev/vda2", "xfs", False),  # another type
        ("/dev/vda3", "swap", True),  # said to be the root
        ("/dev/vda9", "ext4", False),  # not there
    ],
)
def test_one_name_that_does_not_fit_speaks_against_the_disk(wrong: tuple[str, str, bool]) -> None:
    assert meant(("/dev/vda1", "vfat", False), wrong) == {}


def test_what_could_be_two_disks_is_neither() -> None:
    other = tuple(Candidate("/dev/sdb", each.number, each.type, f"b{each.uuid}") for each in DISK)
    assert meant(("/dev/sdb3", "swap", False), candidates=DISK + other) == {}
    both = DISK + other
    assert meant(("/dev/sda2", "ext4", True), ("/dev/sda3", "swap", False), candidates=both)["/dev/sda3"] == "2222"


def test_two_disks_of_the_old_machine_are_not_both_the_same() -> None:
    assert meant(("/dev/sda3", "swap", False), ("/dev/sdb1", "vfat", False)) == {}


def test_a_disk_may_be_named_in_two_ways() -> None:
    by_id = "/dev/disk/by-id/ata-x-part3"
    assert meant(("/dev/sda2", "ext4", True), (by_id, "swap", False)) == {"/dev/sda2": "1111", by_id: "2222"}


FSTAB = """\
# /etc/fstab: static file system information.
/dev/vda2\t/           ext4  errors=remount-ro 0 1
UUID=AAAA-BBBB /boot/efi vfat umask=0077 0 1
/dev/vda3       none        swap  sw   0 0
#/dev/vda9 /old ext4 defaults 0 0
/dev/mapper/vg-home /home ext4 defaults 0 2
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0
"""
EXPECTED_FSTAB = """\
# /etc/fstab: static file system information.
# before the repair: /dev/vda2\t/           ext4  errors=remount-ro 0 1
UUID=1111\t/           ext4  errors=remount-ro 0 1
UUID=AAAA-BBBB /boot/efi vfat umask=0077 0 1
# before the repair: /dev/vda3       none        swap  sw   0 0
UUID=2222       none        swap  sw   0 0
#/dev/vda9 /old ext4 defaults 0 0
/dev/mapper/vg-home /home ext4 defaults 0 2
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0
"""


def made_tree(folder: Path, files: dict[str, str]) -> Tree:
    for name, text in files.items():
        path = folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(folder)


def repaired(tree: Tree) -> dict[str, str]:
    return {step.path: step.new_text for step in naming_steps(tree, DISK, root_type="ext4")}


def test_an_fstab_gets_uuids_and_keeps_all_else(tmp_path: Path) -> None:
    tree = made_tree(tmp_path, {"/etc/fstab": FSTAB})
    (step,) = naming_steps(tree, DISK, root_type="ext4")
    assert step.new_text == EXPECTED_FSTAB
    assert "/dev/vda2 becomes UUID=1111, /dev/vda3 becomes UUID=2222" in step.text
    tree.rewrite(step.path, step.new_text)
    assert (tmp_path / "etc/fstab").read_text() == EXPECTED_FSTAB
    assert (tmp_path / "etc/fstab.before-repair").read_text() == FSTAB
    assert not [*naming_steps(tree, DISK, root_type="ext4")]


def test_a_crypttab_gets_uuids_but_not_for_what_is_made_anew_at_each_start(tmp_path: Path) -> None:
    text = "root /dev/vda4 none luks,discard\nswap /dev/vda3 /dev/urandom swap,cipher=aes\n"
    tree = made_tree(tmp_path, {"/etc/crypttab": text})
    assert repaired(tree)["/etc/crypttab"] == (
        "# before the repair: root /dev/vda4 none luks,discard\nroot UUID=3333 none luks,discard\n"
        "swap /dev/vda3 /dev/urandom swap,cipher=aes\n"
    )


def test_boot_options_get_uuids_wherever_they_are_kept(tmp_path: Path) -> None:
    tree = made_tree(
        tmp_path,
        {
            "/etc/default/grub": 'A=5\nGRUB_CMDLINE_LINUX="quiet resume=/dev/vda3 root=/dev/vda2"\n#root=/dev/vda2\n',
            "/etc/initramfs-tools/conf.d/resume": "RESUME=/dev/vda3\n",
            "/boot/loader/entries/a.conf": "title x\noptions root=/dev/vda2 rw cryptdevice=/dev/vda4:root\n",
            "/etc/kernel/cmdline": "root=UUID=1111 rw\n",
        },
    )
    assert repaired(tree) == {
        "/etc/default/grub": 'A=5\nGRUB_CMDLINE_LINUX="quiet resume=UUID=2222 root=UUID=1111"\n#root=/dev/vda2\n',
        "/etc/initramfs-tools/conf.d/resume": "RESUME=UUID=2222\n",
        "/boot/loader/entries/a.conf": "title x\noptions root=UUID=1111 rw cryptdevice=UUID=3333:root\n",
    }


def test_an_environment_block_of_grub_keeps_its_size(tmp_path: Path) -> None:
    head = "# GRUB Environment Block\nkernelopts=root=/dev/vda2 ro resume=/dev/vda3\n"
    tree = made_tree(tmp_path, {"/boot/grub2/grubenv": f"{head:#<1024}"})
    new = repaired(tree)["/boot/grub2/grubenv"]
    assert len(new) == 1024
    assert new.rstrip("#") == "# GRUB Environment Block\nkernelopts=root=UUID=1111 ro resume=UUID=2222\n"


def test_a_map_of_old_disks_is_put_aside(tmp_path: Path) -> None:
    tree = made_tree(tmp_path, {"/boot/grub/device.map": "(hd0)\t/dev/disk/by-id/ata-x\n"})
    (step,) = naming_steps(tree, DISK)
    tree.put_aside(step.path)
    assert not (tmp_path / "boot/grub/device.map").exists()
    assert (tmp_path / "boot/grub/device.map.before-repair").exists()


@pytest.mark.parametrize(
    ("kind", "is_put_aside"), [("sys_wwid", True), ("sys_serial", True), ("devname", True), ("crypt_uuid", False)]
)
def test_a_list_of_old_disks_does_not_keep_lvm_from_the_new_one(tmp_path: Path, kind: str, is_put_aside: bool) -> None:
    text = f"VERSION=1.1.2\nIDTYPE={kind} IDNAME=x DEVNAME=/dev/sda3 PVID=abc PART=3\n"
    tree = made_tree(tmp_path, {"/etc/lvm/devices/system.devices": text})
    paths = [step.path for step in naming_steps(tree, DISK)]
    assert paths == (["/etc/lvm/devices/system.devices"] if is_put_aside else [])


def test_names_that_are_not_clear_are_told(tmp_path: Path) -> None:
    tree = made_tree(tmp_path, {"/etc/fstab": "/dev/sda7 /data ext4 defaults 0 2\n"})
    assert not [*naming_steps(tree, DISK)]
    (sentence,) = unclear_names(tree, DISK)
    assert "/etc/fstab names /dev/sda7" in sentence


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_texts_without_old_names_stay_as_they_are(text: str) -> None:
    assert tabs.with_uuids_in_fstab(text, {}) == text
    assert tabs.with_uuids_in_command_line(text, {}) == text
    [*tabs.fstab_names(text), *tabs.crypttab_names(text), *tabs.command_line_names(text)]
    tabs.mount_points(text)


# The tree of a restored system: its links never lead out of it.


def test_links_stay_inside_of_the_tree(tmp_path: Path) -> None:
    root = tmp_path / "root"
    tree = made_tree(root, {"/usr/lib/os-release": "ID=x\n", "/etc/real": "inside\n"})
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    (root / "etc/passwd").symlink_to("/etc/real")
    (root / "etc/up").symlink_to("../../../../../../etc/real")
    (root / "etc/loop").symlink_to("loop")
    (root / "away").symlink_to(tmp_path)
    assert tree.text("/etc/os-release") == "ID=x\n"
    assert tree.text("/etc/passwd") == "inside\n"
    assert tree.text("/etc/up") == "inside\n"
    assert tree.text("/etc/loop") == ""
    assert not tree.is_folder("/away")
    assert tree.place("/away") == root / str(tmp_path).lstrip("/")


def test_what_a_system_mounts_is_a_part_of_its_tree(tmp_path: Path) -> None:
    made_tree(tmp_path / "root", {"/etc/x": ""})
    made_tree(tmp_path / "boot", {"/grub/grub.cfg": "menu\n"})
    made_tree(tmp_path / "esp", {"/EFI/debian/grub.cfg": "stub\n"})
    (tmp_path / "root/boot").mkdir()
    tree = Tree(tmp_path / "root", {"/boot": tmp_path / "boot", "/boot/efi": tmp_path / "esp"})
    assert tree.text("/boot/grub/grub.cfg") == "menu\n"
    assert tree.listing("/boot/efi/EFI/debian") == ["grub.cfg"]


def test_a_rewritten_file_keeps_owner_and_mode(tmp_path: Path) -> None:
    tree = made_tree(tmp_path, {"/etc/crypttab": "a\n"})
    (tmp_path / "etc/crypttab").chmod(0o640)
    tree.rewrite("/etc/crypttab", "b\n")
    tree.rewrite("/etc/crypttab", "c\n")
    assert (tmp_path / "etc/crypttab").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "etc/crypttab").read_text() == "c\n"
    assert (tmp_path / "etc/crypttab.before-repair").read_text() == "a\n"
    assert sorted(path.name for path in (tmp_path / "etc").iterdir()) == ["crypttab", "crypttab.before-repair"]


@pytest.mark.parametrize("path", ["/etc/initramfs-tools/conf.d/resume", "/etc/grub.d/40_custom"])
def test_an_old_file_among_drop_ins_is_read_by_nobody(tmp_path: Path, path: str) -> None:
    """Else the old swap would be resumed from, and the menu would have the old entries, too."""
    tree = made_tree(tmp_path, {path: "RESUME=UUID=old\n"})
    tree.rewrite(path, "RESUME=UUID=new\n")
    place = tmp_path / path.lstrip("/")
    (kept,) = (each.name for each in place.parent.iterdir() if each != place)
    # mkinitramfs of Debian 13, maybe_add_conf; grub-mkconfig of GRUB 2.12.
    assert not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]*", kept)
    assert kept.endswith("~")
    assert (place.parent / kept).read_text() == "RESUME=UUID=old\n"
