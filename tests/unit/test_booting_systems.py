# SPDX-License-Identifier: GPL-3.0-or-later
"""What is planned for systems of several distributions, on trees of files made after theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imager.booting.differences import differences
from imager.booting.drivers import Device, chain_of, missing_names, module_names, needs
from imager.booting.firmware import Firmware
from imager.booting.installed import is_system, look_at
from imager.booting.loader_steps import BootPlace
from imager.booting.network_names import strange_cards
from imager.booting.old_names import Candidate
from imager.booting.repair_plan import Found, plan_repair
from imager.booting.steps import RepairPlan
from imager.booting.system_partition import BIOS_BOOT_GUID, ESP_GUID
from imager.booting.tree import Tree
from imager.devices.sysfs import System
from imager.fitting.firmware import rule_for_firmware
from imager.fitting.model import Rule
from imager.layout import Identity, Partition
from tests.harness import layouts
from tests.harness.systems import KERNEL, MODULES_ALIAS, made_system

# What OVMF's AHCI and NVMe controllers, and a virtio disk say of themselves (Linux 6.12 on QEMU 7.2).
MIB = 1024 * 1024
AHCI = Device("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", "ahci")
NVME = Device("pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02", "nvme")
SCSI_DISK = Device("scsi:t-0x00", "sd")
VIRTIO = Device("virtio:d00000002v00001AF4", "virtio_blk")
BIOS = BootPlace("/dev/sda", is_uefi=False)
UEFI = BootPlace("/dev/sda", is_uefi=True, esp_place="/boot/efi", boot_uuid="1111")
EFI_MODULES = {"/usr/lib/grub/x86_64-efi/modinfo.sh": ""}


def planned(
    root: Path, kind: str, place: BootPlace, files: dict[str, str] | None = None, devices: tuple[Device, ...] = (NVME,)
) -> RepairPlan:
    tree = Tree(made_system(root, kind, files))
    return plan_repair(Found(tree, (Candidate("/dev/sda", 2, "ext4", "1111", is_root=True),), place, devices, "ext4"))


def commands(plan: RepairPlan) -> list[str]:
    return [" ".join(step.command) for step in plan.steps if step.kind == "run"]


@pytest.mark.parametrize(
    ("kind", "name", "tool", "folder"),
    [
        ("debian", "Debian GNU/Linux 12 (bookworm)", "initramfs-tools", "/boot/grub"),
        ("ubuntu", "Ubuntu 24.04 LTS", "initramfs-tools", "/boot/grub"),
        ("fedora", "Fedora Linux 40", "dracut", "/boot/grub2"),
        ("rhel", "Rocky Linux 9.4", "dracut", "/boot/grub2"),
        ("arch", "Arch Linux", "mkinitcpio", "/boot/grub"),
    ],
)
def test_systems_are_known_by_their_files(tmp_path: Path, kind: str, name: str, tool: str, folder: str) -> None:
    tree = Tree(made_system(tmp_path, kind))
    assert is_system(tree)
    found = look_at(tree)
    assert (found.name, found.initramfs_tool, found.loader, found.grub_folder) == (name, tool, "grub", folder)
    assert found.kernels == (KERNEL,)
    assert found.grub_platforms == ("i386-pc",)


def test_a_folder_of_files_is_no_system(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/fstab").write_text("")
    assert not is_system(Tree(tmp_path))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("debian", ["update-initramfs -u -k all", "grub-install --target=i386-pc /dev/sda", "update-grub"]),
        ("ubuntu", ["update-initramfs -u -k all", "grub-install --target=i386-pc /dev/sda", "update-grub"]),
        (
            "fedora",
            [
                "dracut --force --regenerate-all --no-hostonly",
                "grub2-install --target=i386-pc /dev/sda",
                "grub2-mkconfig -o /boot/grub2/grub.cfg",
            ],
        ),
        (
            "arch",
            [
                "mkinitcpio -P",
                "grub-install --target=i386-pc /dev/sda",
                "grub-mkconfig -o /boot/grub/grub.cfg",
            ],
        ),
    ],
)
def test_with_bios_each_system_is_repaired_with_its_own_programs(
    tmp_path: Path, kind: str, expected: list[str]
) -> None:
    plan = planned(tmp_path, kind, BIOS)
    assert commands(plan) == expected
    assert not plan.missing


def test_debian_with_uefi_keeps_its_signed_files_and_its_folder(tmp_path: Path) -> None:
    files = {
        **EFI_MODULES,
        "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": "",
        "/boot/efi/EFI/debian/grubx64.efi": "",
        "/boot/efi/EFI/other/grubx64.efi": "",
    }
    words = "--target=x86_64-efi --efi-directory=/boot/efi --bootloader-id=debian --no-nvram --uefi-secure-boot"
    assert f"grub-install {words}" in commands(planned(tmp_path, "debian", UEFI, files))


def test_arch_with_uefi_is_installed_into_the_folder_that_it_has(tmp_path: Path) -> None:
    files = {**EFI_MODULES, "/efi/EFI/GRUB/grubx64.efi": ""}
    place = replace(UEFI, esp_place="/efi")
    assert ("grub-install --target=x86_64-efi --efi-directory=/efi --bootloader-id=GRUB --no-nvram") in commands(
        planned(tmp_path, "arch", place, files)
    )


@pytest.mark.parametrize("kind", ["fedora", "rhel"])
def test_on_fedora_and_its_like_signed_files_stay_and_the_stub_is_set_right(tmp_path: Path, kind: str) -> None:
    own = {"fedora": "fedora", "rhel": "rocky"}[kind]
    files = {
        f"/boot/efi/EFI/{own}/grubx64.efi": "",
        f"/boot/efi/EFI/{own}/grub.cfg": "search --fs-uuid --set=dev 9999\nconfigfile $prefix/grub.cfg\n",
    }
    plan = planned(tmp_path, kind, UEFI, files)
    assert not [command for command in commands(plan) if command.startswith("grub2-install")]
    assert "grub2-mkconfig -o /boot/grub2/grub.cfg" in commands(plan)
    (stub,) = [step for step in plan.steps if step.path == f"/boot/efi/EFI/{own}/grub.cfg"]
    assert "search --no-floppy --fs-uuid --set=dev 1111\nset prefix=($dev)/boot/grub2\n" in stub.new_text
    assert not plan.missing


def test_a_stub_that_leads_to_the_right_place_stays(tmp_path: Path) -> None:
    files = {"/boot/efi/EFI/fedora/grub.cfg": "search --fs-uuid --set=dev 1111\nconfigfile $prefix/grub.cfg\n"}
    assert not [step for step in planned(tmp_path, "fedora", UEFI, files).steps if step.kind == "rewrite"]


def test_systemd_boot_is_installed_on_its_partition(tmp_path: Path) -> None:
    root = made_system(tmp_path, "arch", {"/efi/EFI/systemd/systemd-bootx64.efi": "", "/usr/bin/bootctl": ""})
    (root / "boot/grub/grub.cfg").unlink()
    plan = plan_repair(Found(Tree(root), (), replace(UEFI, esp_place="/efi")))
    assert "bootctl install --esp-path=/efi --no-variables" in commands(plan)
    assert not [command for command in commands(plan) if "grub" in command]
    (sentence,) = plan_repair(Found(Tree(root), (), BIOS)).missing
    assert "BIOS started this machine, and systemd-boot needs UEFI" in sentence


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (
            UEFI,
            "its GRUB cannot be installed for UEFI (x86_64-efi): it has GRUB for i386-pc. Install it inside",
        ),
        (replace(UEFI, esp_place=""), "the system mounts no EFI system partition"),
        (replace(BIOS, has_bios_room=False), "has a GPT without a BIOS boot partition"),
        (replace(BIOS, is_only_system=False), "there are several systems on /dev/sda"),
    ],
)
def test_what_is_missing_is_told_with_what_to_do(tmp_path: Path, place: BootPlace, said: str) -> None:
    plan = planned(tmp_path, "debian", place)
    assert said in plan.missing[0]
    assert not [command for command in commands(plan) if command.startswith("grub-install")]


def test_a_system_for_one_machine_gets_all_drivers_for_this_run(tmp_path: Path) -> None:
    files = {
        "/etc/initramfs-tools/initramfs.conf": "MODULES=most\n",
        "/etc/initramfs-tools/conf.d/policy": "MODULES=dep\n",
    }
    (step,) = [
        step for step in planned(tmp_path, "debian", BIOS, files).steps if step.command[:1] == ("update-initramfs",)
    ]
    assert [(file.path, file.text) for file in step.during] == [
        ("/etc/initramfs-tools/conf.d/zzz-repair-boot", "MODULES=most\n")
    ]


def test_a_system_with_most_drivers_needs_no_other_setting(tmp_path: Path) -> None:
    files = {
        "/etc/initramfs-tools/initramfs.conf": "MODULES=dep\n",
        "/etc/initramfs-tools/conf.d/policy": "MODULES=most\n",
    }
    assert not [step for step in planned(tmp_path, "debian", BIOS, files).steps if step.during]


def test_arch_makes_its_initramfs_without_the_hook_that_looks_at_the_machine(tmp_path: Path) -> None:
    text = "MODULES=()\nHOOKS=(base udev autodetect modconf block filesystems)\n"
    plan = planned(tmp_path, "arch", BIOS, {"/etc/mkinitcpio.conf": text})
    (step,) = [step for step in plan.steps if step.command == ("mkinitcpio", "-P")]
    assert [(file.path, file.text) for file in step.during] == [
        ("/etc/mkinitcpio.conf", "MODULES=()\nHOOKS=(base udev modconf block filesystems)\n")
    ]


def test_a_kernel_without_an_initramfs_gets_one(tmp_path: Path) -> None:
    root = made_system(tmp_path, "debian")
    (root / f"boot/initrd.img-{KERNEL}").unlink()
    plan = plan_repair(Found(Tree(root), (), BIOS))
    assert f"update-initramfs -c -k {KERNEL}" in commands(plan)


# Drivers.


def test_drivers_are_looked_for_in_the_restored_kernel(tmp_path: Path) -> None:
    tree = Tree(made_system(tmp_path, "debian"))
    found = needs(tree, KERNEL, [NVME, AHCI, SCSI_DISK, VIRTIO])
    assert [need.modules for need in found] == [("nvme",), ("ahci",), ("sd_mod",), ("virtio_blk",)]


def test_a_driver_that_is_a_part_of_the_kernel_needs_no_module(tmp_path: Path) -> None:
    files = {f"/usr/lib/modules/{KERNEL}/modules.builtin.modinfo": "scsi_mod.x=y\0sd_mod.alias=scsi:t-0x00*\0"}
    tree = Tree(made_system(tmp_path, "debian", files))
    (need,) = needs(tree, KERNEL, [SCSI_DISK])
    assert need.is_known
    assert need.modules == ()


def test_a_driver_that_is_built_in_without_its_aliases_is_known_by_its_name(tmp_path: Path) -> None:
    """As Debian 13 has virtio_pci: in modules.builtin, with no alias in modules.builtin.modinfo."""
    folder, device = f"/usr/lib/modules/{KERNEL}", Device("pci:v00001AF4d00001001sv00001AF4sd00000002", "virtio-pci")
    files = {
        f"{folder}/modules.alias": "",
        f"{folder}/modules.builtin": "kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio_pci.ko\n",
        f"{folder}/modules.builtin.modinfo": "virtio_pci.license=GPL\0virtio_pci.file=drivers/virtio/virtio_pci\0",
    }
    (need,) = needs(Tree(made_system(tmp_path / "one", "debian", files)), KERNEL, [device])
    assert need.is_known
    assert need.modules == ()
    files[f"{folder}/modules.builtin"] = "kernel/drivers/virtio/virtio.ko\n"
    (need,) = needs(Tree(made_system(tmp_path / "two", "debian", files)), KERNEL, [device])
    assert not need.is_known


def test_a_kernel_that_cannot_drive_this_machine_is_told(tmp_path: Path) -> None:
    text = "".join(line for line in MODULES_ALIAS.splitlines(keepends=True) if "ahci" not in line)
    files = {f"/usr/lib/modules/{KERNEL}/modules.alias": text}
    plan = planned(tmp_path, "debian", BIOS, files, devices=(SCSI_DISK, AHCI))
    assert f"its kernel {KERNEL} has no driver for {AHCI.alias} (here driven by ahci)" in plan.missing[0]


def test_the_devices_between_processor_and_disk_are_read_from_sysfs(tmp_path: Path) -> None:
    """As OVMF's AHCI disk was shown by Linux 6.12."""
    chain = tmp_path / "sys/devices/pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0"
    (chain / "block/sda").mkdir(parents=True)
    (chain / "modalias").write_text("scsi:t-0x00\n")
    (chain.parents[3] / "modalias").write_text(f"{AHCI.alias}\n")
    for name in ("sd", "ahci"):
        (tmp_path / "sys/bus/drivers" / name).mkdir(parents=True)
    (chain / "driver").symlink_to(tmp_path / "sys/bus/drivers/sd")
    (chain.parents[3] / "driver").symlink_to(tmp_path / "sys/bus/drivers/ahci")
    (tmp_path / "sys/class/block").mkdir(parents=True)
    (tmp_path / "sys/class/block/sda").symlink_to(chain / "block/sda")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/sda").write_text("")
    assert chain_of("/dev/sda", System(tmp_path)) == (SCSI_DISK, AHCI)


def test_what_an_initramfs_lacks_is_found_in_its_listing() -> None:
    listing = "\n".join(
        [
            "usr/lib/modules/6.1/kernel/drivers/nvme/host/nvme-core.ko",
            "-rw-r--r--   1 root  root  123 Jan  1 1980 usr/lib/modules/6.1/kernel/drivers/ata/ahci.ko.xz",
            "usr/lib/modules/6.1/kernel/drivers/block/virtio_blk.ko.zst",
            "usr/share/doc/nvme.kombi",
        ]
    )
    assert module_names(listing) == {"nvme_core", "ahci", "virtio_blk"}
    assert missing_names(listing, [("nvme",), ("ahci", "ata_generic"), ("virtio-blk",)]) == ("nvme",)


# Firmware of the other kind, with the medium's own GRUB.

BOTH = ("i386-pc", "x86_64-efi")


def from_here(plan: RepairPlan) -> list[str]:
    return [" ".join(step.command) for step in plan.steps if step.kind == "run-here"]


def test_a_system_without_grub_for_uefi_gets_that_of_the_medium(tmp_path: Path) -> None:
    place = replace(UEFI, platforms_here=BOTH)
    plan = planned(tmp_path, "debian", place)
    assert from_here(plan) == [
        "grub-install --target=x86_64-efi --boot-directory={system}/boot --efi-directory={system}/boot/efi "
        "--bootloader-id=debian --no-nvram --uefi-secure-boot --force-extra-removable"
    ]
    assert commands(plan)[-1] == "update-grub"
    assert not plan.missing
    assert "apt-get install grub-efi-amd64" in "".join(plan.notes)


def test_a_system_without_grub_for_bios_gets_that_of_the_medium(tmp_path: Path) -> None:
    root = made_system(tmp_path, "debian", EFI_MODULES)
    (root / "usr/lib/grub/i386-pc/modinfo.sh").unlink()
    found = Found(Tree(root), (), replace(BIOS, platforms_here=BOTH), (), "ext4")
    assert from_here(plan_repair(found)) == ["grub-install --target=i386-pc --boot-directory={system}/boot /dev/sda"]
    no_room = replace(found, boot=replace(found.boot, has_bios_room=False))
    assert not from_here(plan_repair(no_room))
    assert plan_repair(no_room).missing


def test_fedoras_menu_cannot_be_read_by_another_grub(tmp_path: Path) -> None:
    plan = planned(tmp_path, "fedora", replace(BIOS, is_uefi=False, platforms_here=BOTH), EFI_MODULES)
    assert not from_here(plan)


# Network cards.


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/systemd/network/10-lan.link", "[Match]\nMACAddress=52:54:00:AA:BB:CC\n"),
        ("/etc/udev/rules.d/70-persistent-net.rules", 'ATTR{address}=="52:54:00:aa:bb:cc", NAME="lan0"\n'),
        ("/etc/NetworkManager/system-connections/lan.nmconnection", "[ethernet]\nmac-address=52-54-00-AA-BB-CC\n"),
        ("/etc/netplan/01.yaml", "      match:\n        macaddress: 52:54:00:aa:bb:cc\n"),
        ("/etc/sysconfig/network-scripts/ifcfg-eth0", "HWADDR=52:54:00:AA:BB:CC\n"),
    ],
)
def test_settings_for_cards_of_the_old_machine_are_told(tmp_path: Path, path: str, text: str) -> None:
    tree = Tree(made_system(tmp_path, "debian", {path: text}))
    (said,) = strange_cards(tree, ["00:11:22:33:44:55"])
    assert f"{path} is for the network card 52:54:00:aa:bb:cc" in said
    assert "here: 00:11:22:33:44:55" in said
    assert not [*strange_cards(tree, ["52:54:00:aa:bb:cc"])]


def test_comments_and_other_numbers_name_no_card(tmp_path: Path) -> None:
    text = "# 52:54:00:aa:bb:cc\nAddress=fe80:11:22:33:44:55:66:77\nid=52:54:00:aa:bb:cc:dd:ee\n"
    assert not [*strange_cards(Tree(made_system(tmp_path, "debian", {"/etc/systemd/network/a.network": text})), [])]


# What an image's machine and this one have in common.

ESP = layouts.part(1, MIB, 100 * MIB, content="filesystem:vfat", type=ESP_GUID)
GRUBS_OWN = layouts.part(1, MIB, 2 * MIB, content="unknown:unknown", type=BIOS_BOOT_GUID)
ROOT = layouts.part(2, 100 * MIB, 900 * MIB, type="0fc63daf-8483-4772-8e79-3d69d8477de4")
HERE = Identity("/dev/nvme0n1", transport="nvme")


def told(transport: str, first: Partition, *, is_uefi: bool) -> str:
    layout = replace(layouts.gpt(1024 * MIB, first, ROOT), identity=Identity("/dev/sda", transport=transport))
    return "\n".join(differences(layout, HERE, Firmware(is_uefi)))


def test_another_controller_and_another_firmware_are_told_with_what_helps() -> None:
    assert "was on sata, this one is on nvme" in told("sata", ESP, is_uefi=True)
    assert "--repair-boot" in told("sata", ESP, is_uefi=True)
    assert not told("nvme", ESP, is_uefi=True)
    assert "--to-bios" in told("nvme", ESP, is_uefi=False)
    assert "--to-uefi" in told("nvme", GRUBS_OWN, is_uefi=True)
    assert not told("nvme", GRUBS_OWN, is_uefi=False)


def test_of_a_disk_that_nothing_starts_from_nothing_is_told() -> None:
    assert not told("sata", replace(ESP, type=ROOT.type), is_uefi=True)
    assert "was on" not in told("file", ESP, is_uefi=True)


# The partition that another firmware needs.


def test_a_disk_that_bios_started_gets_an_efi_system_partition_and_a_gpt() -> None:
    old = layouts.mbr(1024 * MIB, layouts.part(1, MIB, 1000 * MIB))
    rule = rule_for_firmware(None, old, "uefi")
    assert rule
    (new,) = rule.new
    assert (new.type, new.filesystem, rule.to_gpt) == (ESP_GUID, "vfat", True)
    assert rule_for_firmware(None, layouts.gpt(1024 * MIB, ESP, ROOT), "uefi") is None


def test_a_disk_that_uefi_started_gets_a_bios_boot_partition() -> None:
    rule = rule_for_firmware(Rule.parse("last"), layouts.gpt(1024 * MIB, ESP, ROOT), "bios")
    assert rule
    assert rule.kind == "last"
    assert [(each.type, each.size) for each in rule.new] == [(BIOS_BOOT_GUID, MIB)]
    assert rule_for_firmware(None, layouts.mbr(1024 * MIB, layouts.part(1, MIB, 1000 * MIB)), "bios") is None
