# SPDX-License-Identifier: GPL-3.0-or-later
"""What kind of system a tree of files is: its name, what makes its initramfs, what boot loader it has.

Pure, but for reading the tree: nothing of it is run to find out.

References:
    os-release(5); Debian initramfs-tools, initramfs.conf(5); dracut(8); mkinitcpio(8); GRUB manual, "Installation".
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Final, Literal

from imager.booting.tree import Tree

InitramfsTool = Literal["initramfs-tools", "dracut", "mkinitcpio", ""]
LoaderKind = Literal["grub", "systemd-boot", ""]
_GRUB_FOLDERS: Final = ("/boot/grub", "/boot/grub2")
_PLATFORMS: Final = ("i386-pc", "x86_64-efi", "i386-efi", "arm64-efi")
_ESP_PLACES: Final = ("/boot/efi", "/efi", "/boot")


@dataclass(frozen=True)
class Installed:
    """A system as its files show it.

    Attributes:
        name: For people.
        id: os-release's word for the distribution, such as debian.
        like: The distributions that it is made after, itself included.
        initramfs_tool: What makes its initramfs; "" when none is known.
        loader: What starts its kernels; "" when none is known.
        grub_folder: Where GRUB keeps its configuration.
        grub_platforms: The platforms that its GRUB can be installed for.
        kernels: Versions of the kernels that have modules, the newest last as names sort.
        esp_place: Where it mounts its EFI system partition; "" when nowhere that is known.
    """

    name: str
    id: str
    like: tuple[str, ...]
    initramfs_tool: InitramfsTool
    loader: LoaderKind
    grub_folder: str
    grub_platforms: tuple[str, ...]
    kernels: tuple[str, ...]
    esp_place: str = ""

    def is_like(self, *names: str) -> bool:
        """Whether it is one of these distributions or made after one."""
        return any(name in self.like for name in names)


def is_system(tree: Tree) -> bool:
    """Whether this is the root of a Linux system."""
    has_name = bool(_os_release(tree))
    return has_name and tree.is_folder("/etc") and (tree.is_file("/etc/fstab") or bool(_kernels(tree)))


def look_at(tree: Tree) -> Installed:
    """What kind of system it is."""
    release = _os_release(tree)
    own = release.get("ID", "linux")
    return Installed(
        name=release.get("PRETTY_NAME") or release.get("NAME") or own,
        id=own,
        like=(own, *release.get("ID_LIKE", "").split()),
        initramfs_tool=_initramfs_tool(tree),
        loader=_loader(tree),
        grub_folder=next((each for each in _GRUB_FOLDERS if tree.is_folder(each)), ""),
        grub_platforms=grub_platforms(tree),
        kernels=_kernels(tree),
        esp_place=esp_place(tree),
    )


def grub_platforms(tree: Tree) -> tuple[str, ...]:
    """The platforms that a system's GRUB can be installed for."""
    return tuple(each for each in _PLATFORMS if tree.is_file(f"/usr/lib/grub/{each}/modinfo.sh"))


def _os_release(tree: Tree) -> dict[str, str]:
    text = tree.text("/etc/os-release") or tree.text("/usr/lib/os-release")
    found: dict[str, str] = {}
    for name, value in re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE):
        try:
            words = shlex.split(value)
        except ValueError:
            words = []
        found[name] = "".join(words[:1])
    return found


def modules_folder(tree: Tree) -> str:
    """Where the kernels' modules are."""
    return "/usr/lib/modules" if tree.is_folder("/usr/lib/modules") else "/lib/modules"


def _kernels(tree: Tree) -> tuple[str, ...]:
    folder = modules_folder(tree)
    return tuple(name for name in tree.listing(folder) if tree.is_file(f"{folder}/{name}/modules.dep"))


def _initramfs_tool(tree: Tree) -> InitramfsTool:
    """Where there are several, the one that a new kernel calls: both of Debian's can be installed in part."""
    if tree.program("update-initramfs") and not tree.is_file("/etc/kernel/postinst.d/dracut"):
        return "initramfs-tools"
    if tree.program("dracut"):
        return "dracut"
    return "mkinitcpio" if tree.program("mkinitcpio") else ""


def _loader(tree: Tree) -> LoaderKind:
    """What starts the kernels. Entries of the Boot Loader Specification alone say nothing: Fedora's GRUB reads them."""
    if any(tree.is_file(f"{folder}/grub.cfg") for folder in _GRUB_FOLDERS):
        return "grub"
    for place in _ESP_PLACES:
        if tree.is_folder(f"{place}/EFI/systemd") or tree.is_file(f"{place}/loader/loader.conf"):
            return "systemd-boot"
    return "grub" if tree.program("grub-install", "grub2-install") else ""


def esp_place(tree: Tree) -> str:
    """Where the EFI system partition is seen, if it is mounted now; "" when nowhere that is known."""
    return next((place for place in _ESP_PLACES if tree.is_folder(f"{place}/EFI")), "")


def has_modules_of_this_machine_only(tree: Tree) -> bool:
    """Whether initramfs-tools takes only drivers of the machine that it runs on (initramfs.conf(5), MODULES=dep)."""
    chosen = ""
    for folder in ("/usr/share/initramfs-tools/conf.d", "/etc/initramfs-tools/conf.d"):
        names = [f"{folder}/{name}" for name in tree.listing(folder)]
        first = ["/etc/initramfs-tools/initramfs.conf"] if folder.startswith("/usr") else []
        for path in (*first, *names):
            for value in re.findall(r"^\s*MODULES=[\"']?(\w+)", tree.text(path), re.MULTILINE):
                chosen = value
    return chosen in ("dep", "list")
