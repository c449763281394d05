# SPDX-License-Identifier: GPL-3.0-or-later
"""Follows volumes into volumes: partition -> LUKS -> physical volume -> logical volume -> ext4, over several disks.

Downwards, in rounds: every volume is examined; members of a volume manager are handed to it, all at once; what it puts
together are the volumes of the next round. When a later round finds further members of the same manager, they are put
together anew with the earlier ones; a volume that comes out as it was stays, with all that was found in it, others are
forgotten with all of it. Upwards, once: the used bytes of each volume become used bytes of its members, and what the
manager itself uses is added. A member that cannot be followed is copied whole, with the reason.

A manager's volume may hold members of the same manager (a physical volume inside of a logical one). Such members are
a group of their own, so that no volume can become a part of itself.

Parity is computed over used and unused bytes alike. So a volume with parity is used in whole stripes: what is used of
one member for any reason is used of all. Its members' other bytes must be zeros after a restore, whose parity is zero.
That can be promised of bytes on disks only; where the members are volumes themselves, all of it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from imager.blocks import BlockReader, OutOfRange
from imager.errors import SourceUnreadable
from imager.examine import Examined, Volume, edges, examine, trusted
from imager.extents import Extents
from imager.filesystems.base import NotTrusted
from imager.filesystems.expectations import contradiction
from imager.filesystems.leaving_out import NO_FILES, FilesToSkip
from imager.filesystems.registry import SHARED
from imager.layout import Content
from imager.volumes import tables
from imager.volumes.base import Assembly, Manager, Member
from imager.volumes.base import Volume as AssembledVolume
from imager.volumes.mapping import AgreedReader
from imager.volumes.tables import InnerPartition

_MOST_DEPTH: Final = 8
_MOST_VOLUMES: Final = 4096


@dataclass(frozen=True)
class _Node:
    """A volume at any depth: one that the caller gave, or one that a manager put together.

    Attributes:
        volumes: Its bytes, once for each copy.
        depth: How many managers lie between it and a disk.
        through: The managers that lie between, by their place in the list, ascending.
    """

    key: int
    name: str
    volumes: tuple[Volume, ...]
    depth: int = 0
    through: tuple[int, ...] = ()
    assembled: AssembledVolume | None = None


@dataclass
class _Group:
    """Members of one manager that may belong together, and what it made of them.

    Attributes:
        settled: What all that lies in the members makes of each, by the members' keys; empty until that is known.
    """

    manager: int
    members: list[_Node] = field(default_factory=list)
    assembly: Assembly = field(default_factory=Assembly)
    children: list[_Node] = field(default_factory=list)
    settled: dict[int, Examined] = field(default_factory=dict)


@dataclass
class _Carried:
    """What a member carries of the volumes that were put together.

    Attributes:
        inside: What lies in each volume that has bytes here.
        used: Bytes of the member that are used for them.
        has_parity: Some of these bytes are covered by parity.
    """

    inside: list[Content] = field(default_factory=list)
    used: list[Extents] = field(default_factory=list)
    has_parity: bool = False


def examine_nested(
    volumes: Sequence[Volume],
    names: Sequence[str],
    managers: Sequence[Manager],
    *,
    all_blocks: bool = False,
    skip: FilesToSkip = NO_FILES,
) -> list[Examined]:
    """Say what volumes hold, at any depth, and which of their bytes a capture must copy.

    Args:
        volumes: Partitions and disks without a table, of all disks of a set.
        names: What each is called in messages.
        managers: Volume managers that may put members together.
        all_blocks: Copy every block even where the used map could be trusted.
        skip: Files whose content is not wanted.
    """
    walk = _Walk(managers, all_blocks=all_blocks, skip=skip)
    given = [_Node(key, name, (each,)) for key, (name, each) in enumerate(zip(names, volumes, strict=True))]
    walk.descend(given)
    return [walk.result(node) for node in given]


class _Walk:
    """One walk through everything that lies in a set of disks."""

    def __init__(self, managers: Sequence[Manager], *, all_blocks: bool, skip: FilesToSkip) -> None:
        self._managers = managers
        self._all_blocks = all_blocks
        self._skip = skip
        self._examined: dict[int, Examined] = {}
        self._groups: dict[tuple[int, int], _Group] = {}
        self._group_of: dict[int, _Group] = {}
        self._results: dict[int, Examined] = {}
        self._shrunk: dict[int, _Group] = {}
        """Groups that lost a member which is no more; they are put together anew."""
        self._next_key = 0

    def descend(self, nodes: Sequence[_Node]) -> None:
        """Examine volumes and what lies in them."""
        self._next_key = len(nodes)
        seen: list[_Node] = []
        while nodes or self._shrunk:
            for node in nodes:
                self._examined[node.key] = _examine_copies(node, all_blocks=self._all_blocks, skip=self._skip)
            seen += nodes
            grown = self._sort_into_groups(nodes)
            nodes = [child for group in grown for child in self._assemble(group)]
        self._unite_devices([node for node in seen if node.key in self._examined])

    def _unite_devices(self, nodes: Sequence[_Node]) -> None:
        """Read file systems that lie on several devices through all of them that were found, at once."""
        shared: dict[tuple[str, str], list[_Node]] = {}
        for node in nodes:
            content, volume = self._examined[node.key].content, node.volumes[0]
            is_alone = len(node.volumes) == 1 and not contradiction(volume.partition_type, content)
            if content.type in SHARED and content.whole_reason and is_alone and not self._all_blocks:
                shared.setdefault((content.type, content.uuid), []).append(node)
        for (kind, _), devices in shared.items():
            try:
                maps = SHARED[kind].used_maps([node.volumes[0].reader for node in devices])
            except (NotTrusted, OutOfRange, SourceUnreadable) as error:
                for node in devices:
                    self._refuse(node, str(error))
                continue
            for node, found in zip(devices, maps, strict=True):
                self._examined[node.key] = trusted(node.volumes[0], found, self._examined[node.key].content.claims)

    def _refuse(self, node: _Node, reason: str) -> None:
        """Give the reason that all devices together have; what each said alone is that there are others."""
        examined = self._examined[node.key]
        self._examined[node.key] = replace(examined, content=replace(examined.content, whole_reason=reason))

    def _sort_into_groups(self, nodes: Sequence[_Node]) -> list[_Group]:
        """Put the members among the nodes into groups; the groups that grew or shrank."""
        grown, self._shrunk = self._shrunk, {}
        for node in nodes:
            content = self._examined[node.key].content
            number = self._manager_of(content)
            if number is None or node.depth >= _MOST_DEPTH or (not node.depth and self._managers[number] is tables):
                continue  # in a partition, a table is more often a remainder than a disk of its own
            generation = node.through.count(number)
            group = self._groups.setdefault((number, generation), _Group(number))
            group.members.append(node)
            self._group_of[node.key] = group
            grown[id(group)] = group
        return list(grown.values())

    def _manager_of(self, content: Content) -> int | None:
        """The manager whose member the content is; None when there is none, or when it is anybody's guess.

        What mirrored arrays with their superblock at the end hold is seen from the member as well: both names are
        right then. Whether nothing else is claimed is checked when the array is put together.
        """
        names = content.claims if content.kind == "ambiguous" else (content.type,)
        found = [number for number, each in enumerate(self._managers) if set(each.TYPES) & set(names)]
        if content.kind == "ambiguous":
            types = {number: set(self._managers[number].TYPES) for number in found}
            found = [number for number in found if "linux_raid_member" in types[number] or types[number] >= set(names)]
        return found[0] if found else None

    def _assemble(self, group: _Group) -> Iterator[_Node]:
        """Let the manager put a group together, and give the volumes that come out."""
        members = [Member(node.key, _agreed(node), node.name) for node in group.members]
        group.assembly = self._managers[group.manager].assemble(members) if members else Assembly()
        earlier, group.children = group.children, []
        through = tuple(sorted((*max((node.through for node in group.members), key=len, default=()), group.manager)))
        depth = 1 + max((node.depth for node in group.members), default=0)
        for volume in group.assembly.volumes:
            known = next((child for child in earlier if child.assembled and _is_same(child.assembled, volume)), None)
            if known is not None:
                group.children.append(known)
            elif self._next_key < _MOST_VOLUMES:
                kind = volume.partition_type if isinstance(volume, InnerPartition) else ""
                parts = tuple(Volume(reader, partition_type=kind) for reader in volume.readers)
                child = _Node(self._next_key, volume.name, parts, depth, through, volume)
                self._next_key += 1
                group.children.append(child)
                yield child
        still = {child.key for child in group.children}
        self._forget([child for child in earlier if child.key not in still])

    def _forget(self, nodes: Sequence[_Node]) -> None:
        """Forget volumes that are no more, and what was put together with them."""
        for node in nodes:
            self._examined.pop(node.key, None)
            group = self._group_of.pop(node.key, None)
            if group is not None:
                group.members = [member for member in group.members if member.key != node.key]
                self._shrunk[id(group)] = group

    def result(self, node: _Node) -> Examined:
        """What a volume holds and uses, with all that lies in it."""
        if node.key not in self._results:
            group = self._group_of.get(node.key)
            if group:
                group.settled = group.settled or self._settle(group)
            self._results[node.key] = group.settled[node.key] if group else self._examined[node.key]
        return self._results[node.key]

    def _settle(self, group: _Group) -> dict[int, Examined]:
        """What all that lies in a group makes of its members."""
        carried = {node.key: _Carried() for node in group.members}
        found = [(child, *self._lies_on(child)) for child in group.children]
        for child, held, places in found:
            for key, used in places.items():
                carried[key].inside.append(replace(held.content, name=child.name))
                carried[key].used.append(used)
        reasons = {node.key: self._reason(node, group, carried[node.key].inside) for node in group.members}
        for child, held, _ in found:
            if child.assembled is not None and child.assembled.has_parity:
                touched = child.assembled.touched_by(
                    {node.key: self._used_anyway(node, reasons[node.key]) for node in group.members}
                )
                for key, used in child.assembled.back(held.used | touched).items():
                    carried[key].used.append(used)
                    carried[key].has_parity = True
        return {
            node.key: self._with_carried(node, group, carried[node.key], reasons[node.key]) for node in group.members
        }

    def _lies_on(self, child: _Node) -> tuple[Examined, dict[int, Extents]]:
        """What a volume holds, and where its used bytes lie on the members."""
        held = self.result(child)
        return held, child.assembled.back(held.used) if child.assembled else {}

    def _used_anyway(self, node: _Node, reason: str) -> Extents:
        """Bytes of a member that are used whatever lies there."""
        size = node.volumes[0].reader.size
        return Extents.single(0, size) if reason or node.depth else edges(size)

    def _reason(self, node: _Node, group: _Group, inside: Sequence[Content]) -> str:
        """Why a member must be copied whole; empty when nothing speaks against its map."""
        content = self._examined[node.key].content
        reason = group.assembly.whole.get(node.key, "")
        if node.key not in group.assembly.own and not reason:
            reason = content.whole_reason
        reason = reason or self._unexplained(content, group, inside)
        return reason or ("every block was asked for" if self._all_blocks else "")

    def _with_carried(self, node: _Node, group: _Group, carried: _Carried, reason: str) -> Examined:
        examined, size = self._examined[node.key], node.volumes[0].reader.size
        described = group.assembly.contents.get(node.key, examined.content)
        content = replace(described, claims=examined.content.claims, inside=(*described.inside, *carried.inside))
        if reason:
            return Examined(replace(content, mapped_bytes=size, whole_reason=reason), Extents.single(0, size))
        own = group.assembly.own.get(node.key, Extents())
        used = Extents.union_of((own, edges(size), *carried.used)).clip(0, size)
        content = replace(content, unused_is_zero=carried.has_parity)
        return Examined(replace(content, mapped_bytes=used.total_bytes, whole_reason=""), used)

    def _unexplained(self, seen: Content, group: _Group, inside: Sequence[Content]) -> str:
        """Why a member that others claim too is not trusted; empty when they are what lies in the array."""
        explained = set(self._managers[group.manager].TYPES).union(*(content.claims for content in inside))
        return seen.whole_reason if seen.kind == "ambiguous" and set(seen.claims) - explained else ""


def _is_same(one: AssembledVolume, other: AssembledVolume) -> bool:
    """Whether both have the same bytes, by their places on the members."""
    if one.name != other.name:
        return False
    sizes = [[reader.size for reader in each.readers] for each in (one, other)]
    if sizes[0] != sizes[1]:
        return False
    whole = Extents.single(0, max(sizes[0], default=0))
    return one.back(whole) == other.back(whole)


def _agreed(node: _Node) -> BlockReader:
    """A volume's bytes as all copies of it have them."""
    readers = [each.reader for each in node.volumes]
    return readers[0] if len(readers) == 1 else AgreedReader(readers)


def _examine_copies(node: _Node, *, all_blocks: bool, skip: FilesToSkip) -> Examined:
    """Examine a volume; where several copies of it exist, the union of the maps read from each."""
    try:
        found = [examine(each, all_blocks=all_blocks, skip=skip) for each in node.volumes]
        if skip.names and any(each.used != found[0].used for each in found):
            refused = replace(skip, refused="the copies of its volume differ")
            found = [examine(each, all_blocks=all_blocks, skip=refused) for each in node.volumes]
    except (OutOfRange, SourceUnreadable) as error:
        size = node.volumes[0].reader.size
        content = Content("unknown", "unknown", mapped_bytes=size, whole_reason=f"it could not be read: {error}")
        return Examined(content, Extents.single(0, size))
    first = found[0]
    used = Extents.union_of(each.used for each in found)
    if any(each.content.type != first.content.type for each in found):
        reason = f"its copies differ: {', '.join(sorted({each.content.type for each in found}))}"
        size = node.volumes[0].reader.size
        return Examined(replace(first.content, mapped_bytes=size, whole_reason=reason), Extents.single(0, size))
    doubts = [each.content.whole_reason for each in found if each.content.whole_reason]
    reason = first.content.whole_reason or (f"of one copy of it: {doubts[0]}" if doubts else "")
    return Examined(replace(first.content, mapped_bytes=used.total_bytes, whole_reason=reason), used)
