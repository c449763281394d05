# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens disks from the partitions inward: containers and arrays first, volume groups when nothing else is left to open.

Works from a Layout, and looks for itself where that knows nothing: in a container that was locked when the image was
made. In reverse order all of it is closed, whatever happens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from imager.devices.sysfs import System
from imager.errors import ImagerError, Interrupted, VolumeFailed
from imager.layout import Content, Layout
from imager.opening import arrays, luks, lvm, mapper
from imager.opening.identify import content_of
from imager.opening.model import Opened, OpenVolume, Secrets, Unopened
from imager.opening.nodes import loop_device, partition_node, settle, tell_kernel

_MOST_ROUNDS = 8


@contextmanager
def opened_volumes(
    disks: Sequence[tuple[str, Layout]],
    secrets: Secrets | None = None,
    *,
    writable: bool,
    closed: Collection[str] = (),
) -> Iterator[Opened]:
    """Open the volumes of disks that belong together; they are closed when the block is left.

    Args:
        disks: Path of each, a block device or a raw file, and what lies on it.
        secrets: For containers.
        writable: Other programs may write to them.
        closed: Contents, by blkid's names, that are not opened: crypto_LUKS, LVM2_member, linux_raid_member.

    Raises:
        VolumeFailed: A partition cannot be shown as a device, or something cannot be closed afterwards.
    """
    with ExitStack() as stack:
        settle()
        walk = _Walk(stack, secrets or {}, writable=writable, closed=closed)
        walk.open_disks(disks)
        walk.go_inward()
        yield Opened(_with_companions(walk.opened.volumes), walk.opened.unopened)


def _with_companions(volumes: Sequence[OpenVolume]) -> list[OpenVolume]:
    """Tell each device of a file system on several devices of the others."""
    from imager.filesystems.registry import SHARED  # not on top: all parsers come with it

    def others(volume: OpenVolume) -> tuple[str, ...]:
        mine = (volume.content.type, volume.content.uuid)
        same = [each.path for each in volumes if (each.content.type, each.content.uuid) == mine]
        return tuple(path for path in same if path != volume.path)

    return [
        replace(volume, companions=others(volume)) if volume.content.type in SHARED else volume for volume in volumes
    ]


class _Walk:
    """One walk inward.

    Attributes:
        opened: What was found so far.
    """

    def __init__(self, stack: ExitStack, secrets: Secrets, *, writable: bool, closed: Collection[str]) -> None:
        self.opened = Opened()
        self._stack = stack
        self._secrets = secrets
        self._writable = writable
        self._closed = closed
        self._settled: set[str] = set()
        """Paths of members that were opened, or cannot be."""

    def open_disks(self, disks: Sequence[tuple[str, Layout]]) -> None:
        """The partitions of all disks, and disks without a table."""
        for path, layout in disks:
            if layout.whole_reason:
                content = layout.content or Content("unknown", "unknown")
                self.opened.unopened.append(Unopened(path, layout.whole_reason, content, path))
            elif layout.content is not None:
                device = self._whole_disk(path, layout)
                self.opened.volumes.append(OpenVolume(device, layout.content, path))
            else:
                self._open_partitions(path, layout)

    def _whole_disk(self, path: str, layout: Layout) -> str:
        if System().is_block_device(path):
            return path
        return self._loop(path, 0, layout.size_bytes, layout)

    def _open_partitions(self, path: str, layout: Layout) -> None:
        entries = [entry for entry in layout.partitions if entry.content is not None]
        if not all(partition_node(path, entry) for entry in entries):
            tell_kernel(path)
        for entry in entries:
            device = partition_node(path, entry) or self._loop(path, entry.start, entry.size_bytes, layout)
            self.opened.volumes.append(OpenVolume(device, entry.content or Content("unknown", ""), path, entry))

    def _loop(self, path: str, start: int, size: int, layout: Layout) -> str:
        sector_size = layout.logical_sector_bytes
        return loop_device(self._stack, path, start, size, writable=self._writable, sector_size=sector_size)

    def go_inward(self) -> None:
        """Open what lies in the volumes, round by round."""
        for _ in range(_MOST_ROUNDS):
            before = len(self.opened.volumes)
            self._open_containers()
            self._open_arrays()
            if len(self.opened.volumes) == before:
                self._open_groups()
            if len(self.opened.volumes) == before:
                break
        self._tell_of_groups()

    def _waiting(self, content_type: str) -> list[OpenVolume]:
        if content_type in self._closed:
            return []
        return [each for each in self.opened.of_type([content_type]) if each.path not in self._settled]

    def _open_containers(self) -> None:
        for volume in self._waiting("crypto_LUKS"):
            self._settled.add(volume.path)
            try:
                path = luks.open_container(self._stack, volume, self._secrets, writable=self._writable)
            except VolumeFailed as error:
                self._not_opened([volume], error.message)
            else:
                self._add([volume], path, f"luks-{volume.content.uuid}")

    def _open_arrays(self) -> None:
        together: dict[str, list[OpenVolume]] = {}
        for volume in self._waiting("linux_raid_member"):
            together.setdefault(volume.content.uuid, []).append(volume)
        for members in together.values():
            self._settled.update(member.path for member in members)
            try:
                path = arrays.open_array(self._stack, members, writable=self._writable)
            except VolumeFailed as error:
                self._not_opened(members, error.message)
            else:
                self._add(members, path, members[0].content.facts.get("array", "md"))

    def _open_groups(self) -> None:
        members = self._waiting("LVM2_member")
        if not members:
            return
        try:
            if mapper.is_there():
                self._activate_groups(members)
            else:
                self._show_linear_volumes(members)
        except Interrupted:
            raise
        except ImagerError as error:
            self._not_opened(members, error.message)
            self._settled.update(member.path for member in members)

    def _activate_groups(self, members: Sequence[OpenVolume]) -> None:
        devices = [member.path for member in members]
        found = lvm.groups(devices)
        for group in (each for each in found if not each.missing):
            own = [member for member in members if _group_of(member) == group.uuid]
            self._settled.update(member.path for member in own)
            if [each.name for each in found].count(group.name) > 1:
                self._not_opened(own, f"there are two volume groups {group.name} on these disks")
                continue
            try:
                paths = lvm.activate(self._stack, group, devices, writable=self._writable)
            except VolumeFailed as error:
                self._not_opened(own, error.message)
                continue
            for name, path in paths.items():
                self._add(own, path, name)
            self._tell_of_inactive(own, paths.keys())

    def _tell_of_inactive(self, members: Sequence[OpenVolume], active: Collection[str]) -> None:
        """Logical volumes that lvm did not activate: damaged ones, and those that are marked to be skipped."""
        inside = {each.name: (each, member) for member in members for each in member.content.inside}
        for name, (content, member) in inside.items():
            if name not in active and content.type != "thin-pool":
                reason = "lvm did not activate it"
                self.opened.unopened.append(Unopened(name, reason, content, member.disk, member.partition))

    def _show_linear_volumes(self, members: Sequence[OpenVolume]) -> None:
        paths, others = lvm.shown_by_loops(self._stack, members, writable=self._writable)
        self._settled.update(member.path for member in members)
        for name, path in paths.items():
            self._add([each for each in members if _inside(each, name)] or members, path, name)
        for name, reason in others.items():
            first = next((each for each in members if _inside(each, name)), members[0])
            content = _inside(first, name) or Content("unknown", "unknown", name=name)
            self.opened.unopened.append(Unopened(name, reason, content, first.disk, first.partition))

    def _tell_of_groups(self) -> None:
        """Members that are left: of groups that are not complete."""
        for member in self._waiting("LVM2_member"):
            group = member.content.facts.get("volume_group", "")
            self._not_opened([member], f"not all physical volumes of {group or 'its volume group'} are here")

    def _not_opened(self, members: Sequence[OpenVolume], reason: str) -> None:
        for each in members:
            self.opened.unopened.append(Unopened(each.known_as, reason, each.content, each.disk, each.partition))

    def _add(self, members: Sequence[OpenVolume], path: str, name: str) -> None:
        """A volume that was put together from members."""
        first = members[0]
        known = next((found for member in members if (found := _inside(member, name))), None)
        if known is None or known.kind == "unknown":
            known = replace(content_of(path), name=name)
        paths = tuple(member.path for member in members)
        self.opened.volumes.append(OpenVolume(path, known, first.disk, first.partition, name, paths))


def _inside(member: OpenVolume, name: str) -> Content | None:
    return next((content for content in member.content.inside if content.name == name), None)


def _group_of(member: OpenVolume) -> str:
    return member.content.facts.get("volume_group_uuid", "")
