# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the systems on restored disks and puts their trees together, as their own fstab says.

Only volumes of the restored disks are mounted, whatever an fstab names: a UUID that is on another disk of this machine
is not looked for there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from imager.booting import tabs
from imager.booting.installed import is_system
from imager.booting.old_names import Candidate, resolve
from imager.booting.system_partition import is_system_partition
from imager.booting.tree import Tree
from imager.errors import VolumeFailed
from imager.layout import Layout
from imager.opening import Opened, OpenVolume, mounted
from imager.opening.mapper import lvm_name
from imager.process import ProgramFailed, run

_LINUX: Final = ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "nilfs2")
_POINTS: Final = ("/usr", "/var", "/boot", "/boot/efi", "/efi")
"""What an initramfs and a boot loader are made from; the outer ones come first."""
_USUAL_SUBVOLUMES: Final = ("", "@", "@rootfs", "root")
_WHOLE_BTRFS: Final = ("subvolid=5",)
_NAMED: Final = re.compile(r"(UUID|LABEL|PARTUUID|PARTLABEL)=\"?([^\"]+)\"?")
_LINK: Final = re.compile(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)")


@dataclass(frozen=True)
class Root:
    """Where a system's root lies.

    Attributes:
        volume: Its file system.
        subvolume: Of btrfs: the path of the subvolume from the top; "" for the top itself.
    """

    volume: OpenVolume
    subvolume: str = ""

    @property
    def known_as(self) -> str:
        """For people."""
        return f"{self.volume.known_as}{f', subvolume {self.subvolume}' if self.subvolume else ''}"


@dataclass(frozen=True)
class Assembled:
    """A system's tree, mounted.

    Attributes:
        tree: Its files.
        boot: The volume that holds its folder /boot.
        esp_place: Where its EFI system partition is mounted; "" when nowhere.
        unmounted: What could not be mounted, and why, in sentences.
    """

    tree: Tree
    boot: OpenVolume
    esp_place: str = ""
    unmounted: tuple[str, ...] = ()


def _is_btrfs(volume: OpenVolume) -> bool:
    return volume.content.type == "btrfs"


@contextmanager
def _whole(volume: OpenVolume, *, writable: bool) -> Iterator[Path]:
    """A file system, of btrfs with all its subvolumes."""
    kind = "vfat" if volume.content.type in ("vfat", "fat12", "fat16", "fat32") else ""
    with mounted(volume, writable=writable, options=_WHOLE_BTRFS if _is_btrfs(volume) else (), kind=kind) as folder:
        yield folder


def find_roots(opened: Opened) -> tuple[tuple[Root, ...], tuple[str, ...]]:
    """The systems on open volumes, and what could not be looked into."""
    roots: list[Root] = []
    problems: list[str] = []
    seen: set[str] = set()
    for volume in opened.of_type(_LINUX):
        if volume.path in seen:
            continue
        seen |= {volume.path, *volume.companions}
        try:
            with _whole(volume, writable=False) as folder:
                roots += [Root(volume, each) for each in _system_folders(volume, folder)]
        except VolumeFailed as error:
            problems.append(error.message)
    return tuple(roots), tuple(problems)


def _system_folders(volume: OpenVolume, folder: Path) -> Iterator[str]:
    names = _USUAL_SUBVOLUMES if _is_btrfs(volume) else ("",)
    default = _default_subvolume(folder) if _is_btrfs(volume) else ""
    top = Tree(folder)
    for name in dict.fromkeys((*names, default)):
        if top.is_folder(name) and is_system(Tree(top.place(name))):
            yield name


def _default_subvolume(folder: Path) -> str:
    """The path of what is mounted when nothing else is said; snapshots that a system was rolled back to are such."""
    with suppress(ProgramFailed):
        said = run(["btrfs", "subvolume", "get-default", str(folder)]).output.decode(errors="replace")
        match = re.search(r" path (.+)$", said.strip())
        return match[1] if match else ""
    return ""


def candidates(opened: Opened, root: Root | None = None) -> tuple[Candidate, ...]:
    """The partitions of the restored disks, as what old names may mean."""
    return tuple(
        Candidate(
            disk=volume.disk,
            number=volume.partition.number,
            type=volume.content.type,
            uuid=volume.content.uuid,
            is_root=root is not None and volume.path in (root.volume.path, *root.volume.companions),
        )
        for volume in opened.volumes
        if volume.partition is not None and not volume.members
    )


def container_names(crypttab: str, opened: Opened) -> dict[str, str]:
    """What a crypttab calls the containers on the disks: names by their UUIDs."""
    found: dict[str, str] = {}
    old = resolve(tabs.crypttab_names(crypttab), candidates(opened))
    for line in crypttab.splitlines():
        words = line.split()
        if len(words) >= 2 and not words[0].startswith("#"):
            place = old.get(words[1])
            volume = opened.in_partition(place.number, place.disk) if place else find_volume(words[1], opened)
            if volume is not None and volume.content.type == "crypto_LUKS":
                found[volume.content.uuid] = words[0]
    return found


def find_volume(text: str, opened: Opened, containers: Mapping[str, str] | None = None) -> OpenVolume | None:
    """The volume that a device name means, among those that are open; not for names of the old machine's disks."""
    name = _NAMED.fullmatch(text) or _LINK.fullmatch(text)
    if name:
        return next((each for each in opened.volumes if _has_name(each, name[1].upper(), name[2])), None)
    return next((each for each in opened.volumes if text in _mapped_names(each, containers or {})), None)


def _has_name(volume: OpenVolume, kind: str, text: str) -> bool:
    if kind.startswith("PART"):
        entry = None if volume.members else volume.partition
        return entry is not None and text.lower() == (entry.uuid.lower() if kind == "PARTUUID" else entry.name.lower())
    content = volume.content
    return text.lower() == content.uuid.lower() if kind == "UUID" else text == content.label


def _mapped_names(volume: OpenVolume, containers: Mapping[str, str]) -> Iterator[str]:
    group, _, name = volume.name.partition("/")
    if name:
        yield from (f"/dev/{volume.name}", f"/dev/mapper/{lvm_name(group, name)}")
    uuid = volume.name.removeprefix("luks-")
    if uuid != volume.name and uuid in containers:
        yield f"/dev/mapper/{containers[uuid]}"


@contextmanager
def assembled(
    root: Root, opened: Opened, layouts: Sequence[tuple[str, Layout]], *, writable: bool
) -> Iterator[Assembled]:
    """A system's tree, with what it mounts for its kernels and its boot loader; unmounted at the end.

    Raises:
        VolumeFailed: Its root cannot be mounted.
    """
    with ExitStack() as stack:
        top = stack.enter_context(_whole(root.volume, writable=writable))
        tree = Tree(Tree(top).place(root.subvolume))
        gathering = _Gathering(stack, root, opened, top, Assembled(tree, root.volume), writable=writable)
        for point, (device, _, options) in gathering.wanted():
            gathering.add(point, device, options)
        if not gathering.done.esp_place:
            gathering.add_unlisted_esp(layouts)
        yield gathering.done


@dataclass
class _Gathering:
    """Mounts one file system after another."""

    stack: ExitStack
    root: Root
    opened: Opened
    top: Path
    done: Assembled
    writable: bool

    def wanted(self) -> Iterator[tuple[str, tabs.Entry]]:
        """What is mounted, the outer ones first."""
        listed = tabs.mount_points(self.done.tree.text("/etc/fstab"))
        return ((point, listed[point]) for point in _POINTS if point in listed)

    def _find(self, device: str) -> OpenVolume | None:
        old = resolve(tabs.fstab_names(self.done.tree.text("/etc/fstab")), candidates(self.opened, self.root))
        if device in old:
            return self.opened.in_partition(old[device].number, old[device].disk)
        containers = container_names(self.done.tree.text("/etc/crypttab"), self.opened)
        return find_volume(device, self.opened, containers)

    def add(self, point: str, device: str, options: Sequence[str]) -> None:
        """Mount what an fstab names, if it is on the restored disks."""
        volume = self._find(device)
        if volume is None:
            is_needed = not {"nofail", "noauto"} & set(options)
            if is_needed:
                self._tell(f"{device}, which it mounts at {point}, is on none of the restored disks")
            return
        try:
            self._mount(point, volume, options)
        except VolumeFailed as error:
            self._tell(error.message)

    def _mount(self, point: str, volume: OpenVolume, options: Sequence[str]) -> None:
        folder = self._folder_of(volume, options)
        place = self.done.tree.real_path(point)
        tree = replace(self.done.tree, mounts={**self.done.tree.mounts, place: folder})
        self.done = replace(
            self.done,
            tree=tree,
            boot=volume if point == "/boot" else self.done.boot,
            esp_place=point if volume.content.type == "vfat" and point != "/usr" else self.done.esp_place,
        )

    def _folder_of(self, volume: OpenVolume, options: Sequence[str]) -> Path:
        if volume.path in (self.root.volume.path, *self.root.volume.companions):
            whole = self.top  # btrfs: another subvolume of what is mounted already
        else:
            whole = self.stack.enter_context(_whole(volume, writable=self.writable))
        subvolume = next((each.removeprefix("subvol=") for each in options if each.startswith("subvol=")), "")
        return Tree(whole).place(subvolume) if _is_btrfs(volume) else whole

    def add_unlisted_esp(self, layouts: Sequence[tuple[str, Layout]]) -> None:
        """An EFI system partition that systemd mounts by itself (systemd-gpt-auto-generator(8)), when there is one."""
        found = [
            self.opened.in_partition(entry.number, path)
            for path, layout in layouts
            for entry in layout.partitions
            if is_system_partition(layout, entry) and path == self.root.volume.disk
        ]
        point = next((each for each in ("/efi", "/boot/efi", "/boot") if self._is_free(each)), "")
        if len(found) == 1 and found[0].content.type == "vfat" and point:
            with suppress(VolumeFailed):
                self._mount(point, found[0], ())

    def _is_free(self, point: str) -> bool:
        tree = self.done.tree
        return tree.is_folder(point) and not tree.listing(point) and point not in tree.mounts

    def _tell(self, sentence: str) -> None:
        self.done = replace(self.done, unmounted=(*self.done.unmounted, sentence))
