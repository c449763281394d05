# SPDX-License-Identifier: GPL-3.0-or-later
"""How what lies in a partition can be made smaller: one way for each content, with what it needs and what it changes.

The one place that knows: the planner takes minimum sizes from here, the plan prints what is said here, and
`imager.shrinking` carries each way out. A way works on a file as large as the partition:

* a *tool* changes the file system on a view of the image's partition; what it does not touch comes from the image;
* a *group* is a physical volume whose logical volumes are made smaller, each in its own way, and moved together;
* a *container* is opened, and what is in it is made smaller in its own way; header and key stay;
* *anew*: the file is blank, as large as the partition will be; a file system is made in it and filled with every file
  of the image's, or, as for swap, with nothing.

All figures are estimates on the safe side, for a plan; nothing depends on them being exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from imager.extents import Extents
from imager.fitting.anew import ANEW, FOR_SECTORS, WHY_NOT_ANEW, ext_refusal_of
from imager.fitting.way import BYTES_A_SECOND, GIB, MIB, TOOL_MEMORY, Outlay, Way
from imager.layout import Content, Partition

__all__ = ("GIB", "MIB", "TOOL_MEMORY", "WAYS", "Outlay", "Way", "least_bytes", "tool_outlay", "way_of", "why_not")


def way_of(content: Content | None) -> Way | None:
    """The way for a content; None when it cannot be made smaller (`why_not` says why)."""
    return None if content is None or why_not(content) else WAYS[content.type]


def anew_way_of(content: Content | None) -> Way | None:
    """The way of making a content anew, as when it cannot live with a disk's sectors; None when there is none."""
    way = way_of(content)
    if way is None or content is None or way.kind == "anew":
        return way
    return FOR_SECTORS.get(content.type) if not ext_refusal_of(content) else None


def why_not(content: Content) -> str:
    """Why a content cannot be made smaller; "" when it can."""
    if content.type not in WAYS:
        return f"nothing makes {content.type} smaller"
    if WAYS[content.type].kind == "container":
        return _container_open(content)
    if content.whole_reason:
        return f"it is not trusted: {content.whole_reason}"
    if content.used_bytes is None:
        return "it does not say how much of it is in use"
    return _SPECIAL[content.type](content) if content.type in _SPECIAL else ""


def least_bytes(entry: Partition) -> int:
    """The smallest size that a partition can have: what it has, when it cannot be smaller."""
    content = entry.content
    way = way_of(content)
    if way is None or content is None or not entry.captured:
        return entry.size_bytes
    return min(entry.size_bytes, way.least(content, content.used_bytes or 0))


def _spare(_: Content, used_bytes: int) -> int:
    """A file system cannot be as small as what it holds: it needs tables, and room to move blocks around."""
    return used_bytes + used_bytes // 8 + 16 * MIB


def tool_outlay(used: Extents, old_size: int, new_size: int) -> Outlay:
    """What lies behind the new end is written again, and tables for it; all tables are read."""
    behind = used.clip(new_size, old_size).total_bytes
    scratch = behind + behind // 16 + used.total_bytes // 64 + 32 * MIB
    seconds = (2 * scratch + used.total_bytes // 32) / BYTES_A_SECOND + 5
    return Outlay(scratch, TOOL_MEMORY + old_size // 16384, seconds)


# --- Btrfs --------------------------------------------------------------------------------------------------------

_BTRFS_LEAST: Final = 256 * MIB
"""The kernel makes no device smaller than that (btrfs_ioctl_resize)."""


def _btrfs_chunk(size_bytes: int) -> int:
    """A tenth of the device, at most 1 GiB: how much space the kernel takes for data at a time."""
    return min(GIB, size_bytes // 10)


def _btrfs_least(content: Content, used_bytes: int) -> int:
    chunks = 2 * _btrfs_chunk(content.size_bytes or GIB)
    return max(_BTRFS_LEAST, used_bytes + used_bytes // 8 + chunks + 64 * MIB)


def _btrfs_outlay(used: Extents, old_size: int, new_size: int) -> Outlay:
    """Whole chunks move: those that reach behind the new end, and what a chunk in front of it shares with one."""
    before = max(0, new_size - _btrfs_chunk(old_size))
    moved = used.clip(before, old_size).total_bytes
    scratch = moved + moved // 16 + used.total_bytes // 64 + 96 * MIB
    seconds = (2 * scratch + used.total_bytes // 16) / BYTES_A_SECOND + 10
    return Outlay(scratch, TOOL_MEMORY + 64 * MIB, seconds)


def _btrfs_alone(content: Content) -> str:
    devices = content.facts.get("device", "1 of 1 devices")
    return "" if devices.endswith(" of 1 devices") else f"it lies on several devices ({devices})"


# --- LVM ----------------------------------------------------------------------------------------------------------


def extent_bytes(content: Content) -> int:
    """The length of an extent of a physical volume's group."""
    text = content.facts.get("extent_size_bytes", "")
    return int(text) if text.isdecimal() and 0 < int(text[:19]) < 2**50 else 4 * MIB


def volume_bytes(content: Content, extent: int) -> int:
    """The size of a logical volume, as far as its content reaches, in whole extents."""
    return -(-(content.size_bytes or 0) // extent) * extent


def spare_bytes(content: Content, extent: int, way: Way | None = None) -> int:
    """How much smaller a logical volume can be, in whole extents; by another way than its own, if one is given."""
    way = way or way_of(content)
    if way is None or content.used_bytes is None or not content.size_bytes or way.kind not in ("tool", "anew"):
        return 0
    least = -(-way.least(content, content.used_bytes) // extent) * extent
    return max(0, volume_bytes(content, extent) - least)


def _group_least(content: Content, used_bytes: int) -> int:
    """Free extents go, and what the file systems in the logical volumes can do without."""
    extent = extent_bytes(content)
    spare = sum(spare_bytes(each, extent) for each in content.inside)
    return used_bytes - spare + 2 * extent + 2 * MIB


def _group_outlay(used: Extents, old_size: int, new_size: int) -> Outlay:
    """Of the group itself; what its volumes need comes on top (`imager.fitting.volumes`)."""
    return Outlay(8 * MIB, TOOL_MEMORY, 5)


def _group_alone(content: Content) -> str:
    count = content.facts.get("physical_volumes", "1")
    return "" if count == "1" else f"its volume group lies on {count} physical volumes"


# --- LUKS ---------------------------------------------------------------------------------------------------------

_HEADER_BYTES: Final = 32 * MIB
"""More than cryptsetup puts in front of the payload."""


def _container_least(content: Content, _: int) -> int:
    inner = content.inside[0]
    return _HEADER_BYTES + WAYS[inner.type].least(inner, inner.used_bytes or 0)


def _container_outlay(used: Extents, old_size: int, new_size: int) -> Outlay:
    """Of the container itself; what is in it comes on top."""
    return Outlay(0, TOOL_MEMORY, 5)


def _container_open(content: Content) -> str:
    if len(content.inside) != 1:
        return "it is locked (--unlock opens it)"
    return why_not(content.inside[0])


_BLOCKS_MOVE: Final = ("blocks lie in other places",)
_EXT: Final = Way("tool", "resize2fs makes it smaller", ("e2fsck", "resize2fs"), _spare, tool_outlay, _BLOCKS_MOVE)

WAYS: Final[dict[str, Way]] = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), _EXT),
    "ntfs": Way(
        "tool",
        "ntfsresize makes it smaller",
        ("ntfsresize", "ntfsfix"),
        _spare,
        tool_outlay,
        (*_BLOCKS_MOVE, "Windows checks it once at the next start"),
        as_root=True,
    ),
    "btrfs": Way(
        "tool",
        "the kernel's Btrfs makes it smaller",
        ("btrfs",),
        _btrfs_least,
        _btrfs_outlay,
        (*_BLOCKS_MOVE, "its generation counter is higher"),
        as_root=True,
        mounts="btrfs",
    ),
    "LVM2_member": Way(
        "group",
        "its logical volumes are made smaller or anew where that is needed, and moved together",
        ("lvm",),
        _group_least,
        _group_outlay,
        ("logical volumes lie in other extents",),
        as_root=True,
    ),
    "crypto_LUKS": Way(
        "container",
        "header and keys stay, and what is in it is changed in its own way",
        (),
        _container_least,
        _container_outlay,
        as_root=True,
    ),
    **ANEW,
}
"""By blkid's name of the content."""

_SPECIAL: Final[dict[str, Callable[[Content], str]]] = {
    "btrfs": _btrfs_alone,
    "LVM2_member": _group_alone,
    **WHY_NOT_ANEW,
}
"""What else may speak against it."""
