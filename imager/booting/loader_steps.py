# SPDX-License-Identifier: GPL-3.0-or-later
"""Installs a restored system's boot loader again, for the firmware that this machine was started with.

The firmware's entries are no part of this: they are made afterwards, in one way for all loaders, and only if that was
not ruled out. So every loader is told to leave the firmware's variables alone.

References:
    grub-install(8), grub-mkconfig(8); Fedora documentation, "GRUB 2" (on UEFI, grub2-install is not to be used);
    bootctl(1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from imager.booting.installed import Installed
from imager.booting.steps import SYSTEM, Step
from imager.booting.tree import Tree

_SIGNED: Final = "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
_RELAXED: Final = (("SYSTEMD_RELAX_ESP_CHECKS", "1"),)
"""bootctl asks udev what a partition is; inside of the system there is none."""
_EFI_PLATFORMS: Final = {"ia32": "i386-efi", "x64": "x86_64-efi", "aa64": "arm64-efi"}
_DEBIAN_PACKAGES: Final = {"i386-pc": "grub-pc", "x86_64-efi": "grub-efi-amd64", "i386-efi": "grub-efi-ia32"}
_FEDORA_PACKAGES: Final = {"i386-pc": "grub2-pc", "x86_64-efi": "grub2-efi-x64 shim-x64", "i386-efi": "grub2-efi-ia32"}


@dataclass(frozen=True)
class BootPlace:
    """Where a boot loader goes.

    Attributes:
        disk: The disk that holds the folder /boot.
        is_uefi: Whether UEFI started this machine.
        arch: How UEFI calls the processor in file names.
        esp_place: Where the EFI system partition is mounted in the system; "" when nowhere.
        boot_uuid: Of the file system that holds /boot.
        has_bios_room: Whether the disk has room for GRUB's core: the gap of an MBR, or a BIOS boot partition.
        is_only_system: Whether no other system lies on the disk.
        platforms_here: The platforms that GRUB of this machine, which is the medium, can be installed for.
    """

    disk: str
    is_uefi: bool
    arch: str = "x64"
    esp_place: str = ""
    boot_uuid: str = ""
    has_bios_room: bool = True
    is_only_system: bool = True
    platforms_here: tuple[str, ...] = ()

    @property
    def platform(self) -> str:
        """GRUB's name for the firmware."""
        return _EFI_PLATFORMS.get(self.arch, "x86_64-efi") if self.is_uefi else "i386-pc"

    @property
    def firmware(self) -> str:
        """For people."""
        return "UEFI" if self.is_uefi else "BIOS"


def loader_steps(tree: Tree, system: Installed, place: BootPlace) -> Iterator[Step]:
    """What is done for the loader that the system has."""
    if system.loader == "systemd-boot":
        yield from _systemd_boot_steps(tree, place)
    elif system.loader == "grub":
        yield from _grub_install_steps(tree, system, place)
        yield from _grub_config_steps(tree, system)


def _systemd_boot_steps(tree: Tree, place: BootPlace) -> Iterator[Step]:
    if place.is_uefi and place.esp_place and tree.program("bootctl"):
        command = ("bootctl", "install", f"--esp-path={place.esp_place}", "--no-variables")
        text = f"install systemd-boot again on the EFI system partition at {place.esp_place}"
        yield Step("run", text, command=command, environment=_RELAXED)


def _grub_install_steps(tree: Tree, system: Installed, place: BootPlace) -> Iterator[Step]:
    if _comes_from_here(system, place):
        yield _grub_from_here(place)
        return
    if place.is_uefi:
        if tree.program("grub2-install"):
            yield from _stub_steps(tree, system, place)
        elif tree.program("grub-install") and place.platform in system.grub_platforms and place.esp_place:
            yield _grub_for_uefi(tree, system, place)
        return
    program = tree.program("grub-install", "grub2-install").rpartition("/")[2]
    if program and "i386-pc" in system.grub_platforms and place.has_bios_room and place.is_only_system:
        text = f"install GRUB again for BIOS (i386-pc) on {place.disk}"
        yield Step("run", text, command=(program, "--target=i386-pc", place.disk))


def _grub_for_uefi(tree: Tree, system: Installed, place: BootPlace) -> Step:
    name = _vendor_folder(tree, system, place)
    command = [
        "grub-install",
        f"--target={place.platform}",
        f"--efi-directory={place.esp_place}",
        f"--bootloader-id={name}",
        "--no-nvram",
    ]
    signed = place.platform == "x86_64-efi" and tree.is_file(_SIGNED)
    if signed and system.is_like("debian", "ubuntu"):  # other distributions' grub-install has no such option
        command.append("--uefi-secure-boot")
    kept = ", with the files signed for Secure Boot" if signed else ""
    text = f"install GRUB again for UEFI ({place.platform}) in EFI/{name} on {place.esp_place}{kept}"
    return Step("run", text, command=tuple(command))


def _comes_from_here(system: Installed, place: BootPlace) -> bool:
    """Whether the system's GRUB is none for this firmware, and that of the medium can stand in for it.

    It reads a menu that was made by GRUB as its project makes it; those of Fedora and SUSE have words of their own.
    """
    has_room = bool(place.esp_place) if place.is_uefi else place.has_bios_room and place.is_only_system
    lacks = place.platform not in system.grub_platforms and place.platform in place.platforms_here
    return lacks and has_room and system.grub_folder == "/boot/grub"


def _grub_from_here(place: BootPlace) -> Step:
    """Debian's signed GRUB looks for its configuration in EFI/debian, whatever system it is to start."""
    command = ["grub-install", f"--target={place.platform}", f"--boot-directory={SYSTEM}/boot"]
    if place.is_uefi:
        command += [f"--efi-directory={SYSTEM}{place.esp_place}", "--bootloader-id=debian", "--no-nvram"]
        command += ["--uefi-secure-boot", "--force-extra-removable"]
        where = f"in EFI/debian and on the fallback path EFI/BOOT of {place.esp_place}"
    else:
        command.append(place.disk)
        where = f"on {place.disk}"
    text = f"install this medium's GRUB for {place.firmware} ({place.platform}) {where}: the system has none for it"
    return Step("run-here", text, command=tuple(command))


def _vendor_folder(tree: Tree, system: Installed, place: BootPlace) -> str:
    """The folder that GRUB is in now: signed files of GRUB look for their configuration there and nowhere else."""
    folder = f"{place.esp_place}/EFI"
    grubs = [
        name
        for name in tree.listing(folder)
        if name.casefold() != "boot"
        and any(file.casefold().startswith("grub") for file in tree.listing(f"{folder}/{name}"))
    ]
    own = [name for name in grubs if name.casefold() in system.like]
    return next(iter(own or grubs), system.id)


def _stub_steps(tree: Tree, system: Installed, place: BootPlace) -> Iterator[Step]:
    """Fedora and its like: shim and GRUB on the EFI system partition are signed and stay; a stub leads to grub.cfg."""
    folder = f"{place.esp_place}/EFI/{_vendor_folder(tree, system, place)}"
    path, prefix = f"{folder}/grub.cfg", "/grub2" if _boot_is_apart(tree) else "/boot/grub2"
    text = tree.text(path)
    if not place.esp_place or not place.boot_uuid or place.boot_uuid in text or not tree.is_folder(folder):
        return
    if text and "configfile" not in text:
        return  # the whole configuration lies there, as it did before Fedora 34 and RHEL 9
    stub = (
        f"search --no-floppy --fs-uuid --set=dev {place.boot_uuid}\nset prefix=($dev){prefix}\n"
        "export $prefix\nconfigfile $prefix/grub.cfg\n"
    )
    yield Step("rewrite", f"let {path} lead to the file system {place.boot_uuid}", path=path, new_text=stub)


def _boot_is_apart(tree: Tree) -> bool:
    return "/boot" in tree.mounts


def _grub_config_steps(tree: Tree, system: Installed) -> Iterator[Step]:
    if tree.program("update-grub"):
        yield Step("run", "make GRUB's menu again: update-grub", command=("update-grub",))
        return
    program = tree.program("grub2-mkconfig", "grub-mkconfig").rpartition("/")[2]
    if program and system.grub_folder:
        file = f"{system.grub_folder}/grub.cfg"
        yield Step("run", f"make GRUB's menu again: {program} -o {file}", command=(program, "-o", file))


def missing_for_loader(system: Installed, place: BootPlace) -> Iterator[str]:
    """What the system lacks to be started by this machine's firmware, and what to do."""
    if not system.loader:
        yield (
            "no boot loader is known in it (GRUB, systemd-boot): its boot code is what the image brought; if it does "
            "not start, install its boot loader by hand"
        )
    elif place.is_uefi and not place.esp_place:
        yield (
            "UEFI started this machine, and the system mounts no EFI system partition: switch the machine's firmware "
            "to legacy mode (CSM), start the medium in it, and repair again"
        )
    elif system.loader == "systemd-boot" and not place.is_uefi:
        yield (
            "BIOS started this machine, and systemd-boot needs UEFI: switch the machine's firmware to UEFI, start the "
            "medium in it, and repair again"
        )
    elif system.loader == "grub":
        yield from _missing_for_grub(system, place)


def _missing_for_grub(system: Installed, place: BootPlace) -> Iterator[str]:
    if _comes_from_here(system, place):
        return
    is_signed_elsewhere = place.is_uefi and system.is_like("fedora", "rhel", "suse", "opensuse")
    if place.platform not in system.grub_platforms and not is_signed_elsewhere:
        there = f"it has GRUB for {', '.join(system.grub_platforms)}" if system.grub_platforms else "it has none"
        yield (
            f"its GRUB cannot be installed for {place.firmware} ({place.platform}): {there}. "
            f"{_how_to_get(system, place.platform)}, or start this machine with the other kind of firmware"
        )
    elif not place.is_uefi and not place.has_bios_room:
        yield (
            f"{place.disk} has a GPT without a BIOS boot partition, which GRUB for BIOS needs: switch the machine's "
            "firmware to UEFI, or make a partition of 1 MiB with the type BIOS boot (sgdisk --typecode=N:ef02)"
        )
    elif not place.is_uefi and not place.is_only_system:
        yield (
            f"there are several systems on {place.disk}: its boot code stays as the image brought it, and leads to one "
            f"of them; `grub-install {place.disk}` inside of the other would make it lead there"
        )


def loader_notes(system: Installed, place: BootPlace) -> Iterator[str]:
    """What is to be done when the system runs, for its next updates to find what was installed."""
    if system.loader == "grub" and _comes_from_here(system, place):
        yield (
            f"GRUB for {place.firmware} came from the medium, and the system does not know it: after its first start, "
            f"{_how_to_get(system, place.platform)[:1].lower()}{_how_to_get(system, place.platform)[1:]}"
        )


def _how_to_get(system: Installed, platform: str) -> str:
    if system.is_like("debian", "ubuntu"):
        package = _DEBIAN_PACKAGES.get(platform)
        return f"Install it inside of the system: apt-get install {package}" if package else "Install it"
    if system.is_like("fedora", "rhel"):
        package = _FEDORA_PACKAGES.get(platform)
        return f"Install it inside of the system: dnf install {package}" if package else "Install it"
    return "Install the package of GRUB for that firmware inside of the system"
