# SPDX-License-Identifier: GPL-3.0-or-later
"""Used blocks of Btrfs, on one device or on several.

Used are extents, not the chunks that are allocated for them: the extent tree names them by logical address, and the
chunk tree says where these lie on each device, with every copy. Added are what the extent tree does not hold: the
superblocks, the first MiB, and, after a crash, the log trees with the data that only they refer to.

Every node that is read is proven by checksum, generation, owner, level and place, and the sums of the extents must be
those of every block group and of the superblock. The file system is copied as of its last commit; its log is replayed
when it is mounted, from the blocks in the map.

Limitations: of several devices all must be at hand, or, where everything is mirrored, one side of the mirror. RAID5 and
RAID6 are mapped in whole rows of stripes, since parity is made from all of a row.

References:
    Linux Documentation/filesystems/btrfs.rst, fs/btrfs (Linux 6.12), include/uapi/linux/btrfs_tree.h.
    btrfs-progs Documentation: dev/On-disk-format.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from imager.blocks import BlockReader, OutOfRange
from imager.extents import Extents, Int64Array
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.btrfs.chunks import ChunkMap
from imager.filesystems.btrfs.csum import NAMES, csums_are_right
from imager.filesystems.btrfs.extents import BlockGroups, ExtentSum, LogTrees, roots_in
from imager.filesystems.btrfs.nodes import Leaves, NodeReader
from imager.filesystems.btrfs.structs import (
    BLOCK_GROUP_TREE,
    CHUNK,
    CHUNK_ITEM_KEY,
    CHUNK_TREE,
    COMPAT_RO,
    DEV_EXTENT,
    DEV_EXTENT_KEY,
    DEV_ITEM,
    DEV_ITEM_KEY,
    DEV_REPLACE,
    DEV_REPLACE_KEY,
    DEV_TREE,
    EXTENT_TREE,
    FIRST_CHUNK_TREE_OBJECTID,
    HAS_BLOCK_GROUP_TREE,
    INCOMPAT,
    MAGIC,
    ROOT_TREE,
    STRIPE,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_OFFSETS,
    Records,
    Superblock,
    TreeRoot,
    as_offsets,
    check_superblock,
)
from imager.layout import Content

DOC: Final = ParserDoc(
    name="Btrfs",
    types=("btrfs",),
    handled=(
        *sorted({*INCOMPAT.values(), *COMPAT_RO.values()}),
        "checksums: crc32c, xxhash64, sha256, blake2b",
        "profiles: single, DUP, RAID0, RAID1, RAID1C3, RAID1C4, RAID10, RAID5, RAID6",
        "several devices; when some are missing, those that hold no more than copies of what they hold",
        "log trees after a crash",
    ),
    whole_when=(
        ("zoned, extent_tree_v2, raid_stripe_tree, remap_tree", "blocks are found in ways that are not handled"),
        ("an unknown feature or superblock flag", "it may keep data where the extent tree shows none"),
        ("errors are flagged", "the kernel found damage"),
        ("a device replacement is under way", "a second device is about to take the place of this one"),
        ("it stands on a seed device", "a part of its metadata belongs to another file system"),
        ("a change of ids or checksums is under way", "its trees are not of one kind"),
        ("the first superblock is damaged", "the kernel would not mount it; its copies are older at times"),
        ("metadata is damaged in every copy", "not all extents are known"),
        ("a device is missing, which may hold what no other has", "it may have been written to last"),
        ("extents disagree with the block groups' or the superblock's count", "it is damaged"),
        ("devices are of different generations", "one of them has missed writes"),
    ),
    references=(
        "https://btrfs.readthedocs.io/en/latest/dev/On-disk-format.html",
        "https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/btrfs_tree.h",
    ),
)

_FIRST_MIB: Final = 1024 * 1024
"""Boot loaders write there, and the kernel allocates nothing."""
_MOST_NAMED: Final = 16
_REPLACE_STARTED: Final = 1
_REPLACE_SUSPENDED: Final = 4


def probe(reader: BlockReader) -> Content | None:
    """Recognise Btrfs by its first superblock."""
    sb = _read_superblock(reader)
    return _content(sb) if sb else None


def used_map(reader: BlockReader) -> UsedMap:
    """What is used of a volume that is the only device of its file system.

    Raises:
        NotTrusted: The map cannot be proven, or the file system has other devices.
    """
    devices = _sound_superblock(reader)["num_devices"]
    if devices > 1:
        raise NotTrusted(f"it is one of {devices} devices, and only together they show what is used")
    return used_maps([reader])[0]


def used_maps(readers: Sequence[BlockReader]) -> list[UsedMap]:
    """What is used of each device of one file system.

    A device that is missing may be newer than those that are here: a crash came between the writes of their
    superblocks, or it was mounted without them. Then this map lacks what was written last. So some may be missing only
    where they hold a copy of all that is here.

    Args:
        readers: All of its devices that could be found, in any order.

    Returns:
        One map for each reader, in the order of the readers.

    Raises:
        NotTrusted: No map can be proven for any of them.
    """
    found = [_sound_superblock(reader) for reader in readers]
    members = {sb["dev_item.devid"]: reader for sb, reader in zip(found, readers, strict=True)}
    _check_members(found, members)
    volume = _Volume(found[0], members)
    volume.read()
    return [volume.map_of(sb, reader) for sb, reader in zip(found, readers, strict=True)]


def _read_superblock(reader: BlockReader) -> Superblock | None:
    offset = SUPERBLOCK_OFFSETS[0]
    if reader.size < offset + SUPERBLOCK_BYTES:
        return None
    sb = Superblock(reader.read(offset, SUPERBLOCK_BYTES))
    return sb if sb.raw_field("magic") == MAGIC else None


def _sound_superblock(reader: BlockReader) -> Superblock:
    sb = _read_superblock(reader)
    if sb is None:
        raise NotTrusted("it has no Btrfs superblock")
    if sb["csum_type"] not in NAMES:
        raise NotTrusted(f"it has checksums of an unknown type {sb['csum_type']}")
    if not _has_right_csum(sb):
        raise NotTrusted("the superblock has a wrong checksum")
    check_superblock(sb, reader.size)
    return sb


def _has_right_csum(sb: Superblock) -> bool:
    return bool(csums_are_right(np.frombuffer(sb.raw, dtype=np.uint8)[None, :], sb["csum_type"])[0])


def _check_members(found: Sequence[Superblock], members: Mapping[int, BlockReader]) -> None:
    first = found[0]
    for sb in found[1:]:
        if sb.raw_field("fsid") != first.raw_field("fsid"):
            raise NotTrusted("the volumes belong to different file systems")
    if len(members) != len(found):
        raise NotTrusted("two of the volumes are the same device of one file system")
    if len(members) > first["num_devices"]:
        raise NotTrusted(f"it has {first['num_devices']} devices, but {len(members)} say that they belong to it")
    generations = sorted({sb["generation"] for sb in found})
    if len(generations) > 1:
        raise NotTrusted(f"its devices are of different generations, {generations[0]} to {generations[-1]}")
    # Beside the fields of the device itself, the superblock is the same everywhere.
    for name in ("root", "chunk_root", "log_root", "bytes_used", "num_devices", "csum_type", "nodesize"):
        if len({sb[name] for sb in found}) > 1:
            raise NotTrusted(f"the superblocks of its devices disagree about {name}")


def _content(sb: Superblock) -> Content:
    warnings = ("it was not unmounted: mounting it will replay its log",) if sb["log_root"] else ()
    is_alone = sb["num_devices"] == 1
    size_bytes, used_bytes = sb["dev_item.total_bytes"], sb["bytes_used"]
    return Content(
        kind="filesystem",
        type="btrfs",
        label=sb.label,
        uuid=str(uuid.UUID(bytes=sb.raw_field("fsid"))),
        block_size_bytes=sb["sectorsize"],
        size_bytes=size_bytes if 0 < size_bytes < 2**62 else None,
        used_bytes=used_bytes if is_alone and used_bytes < 2**62 else None,
        warnings=warnings,
        facts={
            "features": sb.features,
            "checksum": NAMES.get(sb["csum_type"], "unknown"),
            "node_size_bytes": str(sb["nodesize"]),
            "generation": str(sb["generation"]),
            "device": f"{sb['dev_item.devid']} of {sb['num_devices']} devices",
            "device_uuid": str(uuid.UUID(bytes=sb.raw_field("dev_item.uuid"))),
            "state": "has a log to replay" if sb["log_root"] else "clean, or as of its last commit",
        },
    )


class _Volume:
    """A file system on the devices that are at hand, from its superblock to its used extents."""

    def __init__(self, sb: Superblock, members: Mapping[int, BlockReader]) -> None:
        self._sb = sb
        self._members = members
        self._bad_copies = 0

    def read(self) -> None:
        """Walk the trees."""
        sb = self._sb
        system = NodeReader(sb, ChunkMap.from_superblock(sb), self._members)
        self._read_chunk_tree(system)
        nodes = NodeReader(sb, self._chunks, self._members)
        roots = self._read_roots(nodes)
        self._read_device_tree(nodes, roots[DEV_TREE])
        total = ExtentSum(self._chunks, sb["sectorsize"], sb["nodesize"])
        groups = BlockGroups()
        for leaves in nodes.leaves(roots[EXTENT_TREE]):
            total.add(leaves)
            groups.add(leaves)
        if sb["compat_ro_flags"] & HAS_BLOCK_GROUP_TREE:
            for leaves in nodes.leaves(roots[BLOCK_GROUP_TREE]):
                groups.add(leaves)
        total.check(groups, sb["bytes_used"])
        self._used = total.extents()
        self._used_bytes = int((total.used_bytes * self._chunks.copies).sum())
        self._check_own_nodes(roots)
        if sb["log_root"]:
            self._used |= LogTrees(nodes, sb, self._chunks).extents()
        self._bad_copies = system.bad_copies + nodes.bad_copies

    def _read_chunk_tree(self, system: NodeReader) -> None:
        sb = self._sb
        root = TreeRoot(sb["chunk_root"], sb["chunk_root_level"], sb["chunk_root_generation"], CHUNK_TREE)
        logical, chunks, stripes, devices = [], [], [], []
        for leaves in system.leaves(root):
            chosen = np.flatnonzero(leaves.of_type(CHUNK_ITEM_KEY))
            if (leaves.items[chosen]["objectid"] != FIRST_CHUNK_TREE_OBJECTID).any():
                raise NotTrusted("its chunk tree holds chunks of an unknown kind")
            records = leaves.records(chosen, CHUNK)
            logical.append(leaves.items[chosen]["offset"])
            chunks.append(records)
            devices.append(leaves.records(leaves.of_type(DEV_ITEM_KEY), DEV_ITEM))
            stripes.append(_stripes(leaves, chosen, records["num_stripes"].astype(np.int64)))
        self._chunks = ChunkMap(
            np.concatenate(logical), np.concatenate(chunks), np.concatenate(stripes), sb["sectorsize"]
        )
        self._devices = np.concatenate(devices)
        missing = sb["num_devices"] - len(self._members)
        if missing > 0 and not self._chunks.have_copies_beside(self._members):
            raise NotTrusted(
                f"{missing} of its {sb['num_devices']} devices are missing, and may be newer: {self._missing_names()}"
            )
        if (self._devices["fsid"] != np.frombuffer(sb.node_fsid, "V16")[0]).any():
            raise NotTrusted("it stands on a seed device, which belongs to another file system")
        if len(self._devices) != sb["num_devices"]:
            raise NotTrusted(f"it lists {len(self._devices)} devices, but says that it has {sb['num_devices']}")

    def _missing_names(self) -> str:
        """The devices that are listed and not at hand, as a person can find them."""
        absent = [each for each in self._devices if int(each["devid"]) not in self._members][:_MOST_NAMED]
        return ", ".join(f"device {each['devid']} ({uuid.UUID(bytes=each['uuid'].tobytes())})" for each in absent)

    def _read_roots(self, nodes: NodeReader) -> dict[int, TreeRoot]:
        sb = self._sb
        wanted = {EXTENT_TREE, DEV_TREE}
        if sb["compat_ro_flags"] & HAS_BLOCK_GROUP_TREE:
            wanted.add(BLOCK_GROUP_TREE)
        found: dict[int, TreeRoot] = {}
        for leaves in nodes.leaves(TreeRoot(sb["root"], sb["root_level"], sb["generation"], ROOT_TREE)):
            found |= roots_in(leaves, wanted)
        if found.keys() != wanted:
            raise NotTrusted(f"its root tree does not name the trees {sorted(wanted - found.keys())}")
        return found

    def _read_device_tree(self, nodes: NodeReader, root: TreeRoot) -> None:
        """What is allocated on each device must be what the chunks say."""
        allocated: dict[int, list[Extents]] = {devid: [] for devid in self._members}
        for leaves in nodes.leaves(root):
            for record in leaves.records(leaves.of_type(DEV_REPLACE_KEY), DEV_REPLACE):
                if int(record["replace_state"]) in (_REPLACE_STARTED, _REPLACE_SUSPENDED):
                    raise NotTrusted("one of its devices is being replaced by another")
            chosen = np.flatnonzero(leaves.of_type(DEV_EXTENT_KEY))
            starts = as_offsets(leaves.items[chosen]["offset"], "a device extent's address")
            ends = starts + as_offsets(leaves.records(chosen, DEV_EXTENT)["length"], "a device extent's length")
            for devid, parts in allocated.items():
                mine = leaves.items[chosen]["objectid"] == devid
                parts.append(Extents(starts[mine], ends[mine]))
        for devid, parts in allocated.items():
            if Extents.union_of(parts) != self._chunks.stripe_ranges(devid):
                raise NotTrusted(f"its chunks are not what is allocated on device {devid}")

    def _check_own_nodes(self, roots: Mapping[int, TreeRoot]) -> None:
        """The extent tree must know at least the blocks that were just read."""
        sb = self._sb
        for start in (sb["root"], sb["chunk_root"], *(root.bytenr for root in roots.values())):
            if not self._used.holds(start, start + sb["nodesize"]):
                raise NotTrusted(f"its extent tree shows the tree at logical address {start} as free")

    def map_of(self, sb: Superblock, reader: BlockReader) -> UsedMap:
        """What is used of one of the devices."""
        devid = sb["dev_item.devid"]
        mine = self._devices[self._devices["devid"] == devid]
        if len(mine) != 1 or mine["uuid"][0].tobytes() != sb.raw_field("dev_item.uuid"):
            raise NotTrusted(f"device {devid} is not one of those that the file system lists")
        size_bytes = max(int(mine["total_bytes"][0]), sb["dev_item.total_bytes"])
        if size_bytes > reader.size:
            raise NotTrusted(f"device {devid} has {size_bytes} bytes, in a volume of {reader.size}")
        self._chunks.check_device(devid, sb.raw_field("dev_item.uuid"), size_bytes)
        used = self._chunks.physical(self._used, devid)
        own = [(0, min(_FIRST_MIB, reader.size))]
        own += [(start, start + SUPERBLOCK_BYTES) for start in SUPERBLOCK_OFFSETS]
        used_bytes = self._used_bytes if sb["num_devices"] == 1 else used.total_bytes
        return UsedMap(
            (used | Extents.of(own)).clip(0, reader.size), self._described(sb, reader, size_bytes, used_bytes)
        )

    def _described(self, sb: Superblock, reader: BlockReader, size_bytes: int, used_bytes: int) -> Content:
        content = _content(sb)
        warnings = list(content.warnings)
        if self._bad_copies:
            warnings.append(f"{self._bad_copies} copies of metadata blocks are damaged; others were sound: run a scrub")
        stale = [offset for offset in SUPERBLOCK_OFFSETS[1:] if not _has_copy(reader, sb, offset)]
        if stale:
            warnings.append(f"the superblock's copy at byte {stale[0]} is damaged")
        missing = sb["num_devices"] - len(self._members)
        if missing:
            names = self._missing_names()
            warnings.append(
                f"{missing} of its {sb['num_devices']} devices are not among the disks that were read: {names}"
            )
        return replace(content, size_bytes=size_bytes, used_bytes=used_bytes, warnings=tuple(warnings))


def _stripes(leaves: Leaves, chosen: Int64Array, counts: Int64Array) -> Records:
    """The stripes that follow each of some chunk items, one item's after the other's."""
    first = np.cumsum(counts) - counts
    found = np.empty(int(counts.sum()), STRIPE)
    for count in np.unique(counts).tolist():
        alike = np.flatnonzero(counts == count)
        content = leaves.data(chosen[alike], count * STRIPE.itemsize, CHUNK.itemsize)
        found[first[alike][:, None] + np.arange(count)] = content.view(STRIPE)
    return found


def _has_copy(reader: BlockReader, sb: Superblock, offset: int) -> bool:
    """Whether a copy of the superblock that must be there is there; the kernel writes it where it fits."""
    if offset + SUPERBLOCK_BYTES > sb["dev_item.total_bytes"]:
        return True
    try:
        copy = Superblock(reader.read(offset, SUPERBLOCK_BYTES))
    except OutOfRange:
        return False
    return copy.raw_field("fsid") == sb.raw_field("fsid") and _has_right_csum(copy)
