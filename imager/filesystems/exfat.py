# SPDX-License-Identifier: GPL-3.0-or-later
"""exFAT: which clusters are in use.

The allocation bitmap says so; the FAT does not, because files in one piece have no chain there. Everything in front of
the cluster heap is used: main and backup boot region, FATs, the space between them. TexFAT's second bitmap is united
with the first.

Limitations: a volume that was not cleanly unmounted is copied whole, because its bitmap may be older than its files.
A bitmap in more than one piece is not trusted: drivers differ in whether they follow its chain.

References:
    Microsoft, exFAT file system specification, revision 1.00 (2019): sections 3 (boot regions), 4 (FAT), 6 and 7
    (directory, bitmap, up-case table, label). Field names are its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct
from typing import Final, NamedTuple

import numpy as np

from imager.blocks import BlockReader, OutOfRange
from imager.extents import Extents, set_bit_runs
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.collecting import RangeCollector
from imager.layout import Content

DOC: Final = ParserDoc(
    name="exFAT",
    types=("exfat",),
    handled=(
        "sectors of 512 to 4096 bytes, clusters up to 32 MiB",
        "main and backup boot region",
        "TexFAT: two FATs and two bitmaps, united",
    ),
    whole_when=(
        ("VolumeDirty is set", "the allocation bitmap may be older than the files"),
        ("the boot checksum is wrong", "the boot region is damaged"),
        ("FileSystemRevision is not 1.x", "an unknown version"),
        ("the allocation bitmap is missing, short or in fragments", "drivers would read it in different ways"),
        ("bitmap, up-case table or root directory are marked free", "the allocation bitmap is damaged"),
    ),
    references=("Microsoft exFAT file system specification 1.00",),
)

_BOOT_BYTES: Final = 512
_CHECKED_SECTORS: Final = 11
_UNCHECKED_BYTES: Final = frozenset((106, 107, 112))
"""VolumeFlags and PercentInUse change without a new checksum."""
_ACTIVE_FAT: Final = 0x0001
_VOLUME_DIRTY: Final = 0x0002
_MEDIA_FAILURE: Final = 0x0004
_MOST_CLUSTERS: Final = 2**32 - 11
_FIRST_CLUSTER: Final = 2
_ENTRY_BYTES: Final = 32
_MOST_ROOT_BYTES: Final = 256 * 1024 * 1024
_PIECE_BYTES: Final = 256 * 1024
_END_OF_CHAIN: Final = 0xFFFFFFFF
_END_OF_DIRECTORY: Final = 0x00
_BITMAP: Final = 0x81
_UPCASE_TABLE: Final = 0x82
_LABEL: Final = 0x83
_LABEL_MOST_CHARACTERS: Final = 11


class BootSector(NamedTuple):
    """The main boot sector's fields from offset 64 on."""

    PartitionOffset: int
    VolumeLength: int
    FatOffset: int
    FatLength: int
    ClusterHeapOffset: int
    ClusterCount: int
    FirstClusterOfRootDirectory: int
    VolumeSerialNumber: int
    FileSystemRevision: int
    VolumeFlags: int
    BytesPerSectorShift: int
    SectorsPerClusterShift: int
    NumberOfFats: int
    DriveSelect: int
    PercentInUse: int

    @property
    def sector_bytes(self) -> int:
        """Bytes of a sector."""
        return 1 << self.BytesPerSectorShift

    @property
    def cluster_bytes(self) -> int:
        """Bytes of a cluster."""
        return self.sector_bytes << self.SectorsPerClusterShift

    @property
    def size_bytes(self) -> int:
        """How far the volume says that it reaches."""
        return self.VolumeLength * self.sector_bytes

    @property
    def heap_offset(self) -> int:
        """Where cluster 2 begins."""
        return self.ClusterHeapOffset * self.sector_bytes

    @property
    def heap_end(self) -> int:
        """The byte after the last cluster."""
        return self.heap_offset + self.ClusterCount * self.cluster_bytes

    @property
    def active_fat_offset(self) -> int:
        """Where the FAT lies that is kept up to date."""
        number = self.VolumeFlags & _ACTIVE_FAT if self.NumberOfFats > 1 else 0
        return (self.FatOffset + number * self.FatLength) * self.sector_bytes

    def has_cluster(self, cluster: int) -> bool:
        """Whether a cluster of that number exists."""
        return _FIRST_CLUSTER <= cluster < self.ClusterCount + _FIRST_CLUSTER

    def cluster_offset(self, cluster: int) -> int:
        """Where a cluster begins."""
        return self.heap_offset + (cluster - _FIRST_CLUSTER) * self.cluster_bytes


_BOOT: Final = Struct("<QQIIIIIIHHBBBBB")
_BOOT_OFFSET: Final = 64
_STREAM: Final = Struct("<20xIQ")
"""FirstCluster and DataLength, at the same place in the entries of bitmap and up-case table."""


@dataclass(frozen=True)
class _Stream:
    """Where a critical structure of the root directory lies."""

    flags: int
    first_cluster: int
    data_length: int


@dataclass(frozen=True)
class _Root:
    bitmaps: tuple[_Stream, ...]
    upcase_tables: tuple[_Stream, ...]
    clusters: tuple[int, ...]


def probe(reader: BlockReader) -> Content | None:
    """Recognise exFAT by its boot sector."""
    boot = read_boot_sector(reader)
    if boot is None:
        return None
    return Content(
        kind="filesystem",
        type="exfat",
        label=_label(reader, boot),
        uuid=f"{boot.VolumeSerialNumber >> 16:04X}-{boot.VolumeSerialNumber & 0xFFFF:04X}",
        block_size_bytes=boot.cluster_bytes,
        size_bytes=boot.size_bytes,
        facts={"sector_size_bytes": str(boot.sector_bytes)},
    )


def used_map(reader: BlockReader) -> UsedMap:
    """The clusters of the allocation bitmaps, and everything in front of the cluster heap.

    Raises:
        NotTrusted: The volume is dirty, or its structures say what cannot be.
    """
    boot = read_boot_sector(reader)
    content = probe(reader)
    if boot is None or content is None:
        raise NotTrusted("it has no exFAT boot sector")
    check_boot_sector(reader, boot)
    root = _read_root(reader, boot)
    clusters = _read_bitmaps(reader, boot, root)
    origin = boot.cluster_offset(0)
    in_heap = Extents(clusters.starts * boot.cluster_bytes + origin, clusters.ends * boot.cluster_bytes + origin)
    outside = Extents.of(((0, boot.heap_offset), (boot.heap_end, boot.size_bytes)))
    failed = ("it met read or write errors when it was last in use",) if boot.VolumeFlags & _MEDIA_FAILURE else ()
    described = replace(
        content,
        used_bytes=boot.heap_offset + clusters.total_bytes * boot.cluster_bytes,
        warnings=failed,
        facts={**content.facts, "clusters": str(boot.ClusterCount), "fats": str(boot.NumberOfFats)},
    )
    return UsedMap(in_heap | outside, described)


# --- Boot region ----------------------------------------------------------------------------------------------------


def read_boot_sector(reader: BlockReader) -> BootSector | None:
    """The boot sector, or None when this is not exFAT or its sizes have no meaning."""
    if reader.size < _BOOT_BYTES:
        return None
    sector = reader.read(0, _BOOT_BYTES)
    if sector[3:11] != b"EXFAT   " or any(sector[11:64]) or sector[510:] != b"\x55\xaa":
        return None
    boot = BootSector(*_BOOT.unpack_from(sector, _BOOT_OFFSET))
    sound = (
        9 <= boot.BytesPerSectorShift <= 12
        and boot.SectorsPerClusterShift <= 25 - boot.BytesPerSectorShift
        and boot.NumberOfFats in (1, 2)
        and boot.VolumeLength < 2**63 >> boot.BytesPerSectorShift
        and 0 < boot.ClusterCount <= _MOST_CLUSTERS
    )
    return boot if sound else None


def check_boot_sector(reader: BlockReader, boot: BootSector) -> None:
    """Check every field that becomes a size or an offset, and the checksum of the boot region.

    Raises:
        NotTrusted: One is wrong, or it was not cleanly unmounted.
    """
    if boot.FileSystemRevision >> 8 != 1:
        version = f"{boot.FileSystemRevision >> 8}.{boot.FileSystemRevision & 0xFF:02}"
        raise NotTrusted(f"it has exFAT revision {version}; only 1.x is known")
    if boot.size_bytes > reader.size:
        raise NotTrusted(f"it says that it has {boot.size_bytes} bytes, in a volume of {reader.size}")
    if boot.heap_end > boot.size_bytes:
        raise NotTrusted(f"its {boot.ClusterCount} clusters do not fit into its {boot.size_bytes} bytes")
    fats_end = boot.FatOffset + boot.FatLength * boot.NumberOfFats
    if boot.FatOffset < 24 or fats_end > boot.ClusterHeapOffset:
        raise NotTrusted("its FATs do not lie between its boot regions and its clusters")
    if boot.FatLength * boot.sector_bytes // 4 < boot.ClusterCount + _FIRST_CLUSTER:
        raise NotTrusted(f"its FAT is too short for {boot.ClusterCount} clusters")
    if boot.VolumeFlags & _ACTIVE_FAT and boot.NumberOfFats == 1:
        raise NotTrusted("its second FAT is said to be active, and it has one")
    _check_sum(reader, boot)
    if boot.VolumeFlags & _VOLUME_DIRTY:
        raise NotTrusted("it was not cleanly unmounted", warnings=("it was not cleanly unmounted",))


def _check_sum(reader: BlockReader, boot: BootSector) -> None:
    """Compare the main boot region with its checksum sector."""
    length = _CHECKED_SECTORS * boot.sector_bytes
    region = reader.read(0, length + boot.sector_bytes)
    total = 0
    for offset, byte in enumerate(region[:length]):
        if offset not in _UNCHECKED_BYTES:
            total = ((total >> 1 | total << 31) + byte) & 0xFFFFFFFF
    if region[length:] != total.to_bytes(4, "little") * (boot.sector_bytes // 4):
        raise NotTrusted("the checksum of its boot region is wrong")


# --- Root directory -------------------------------------------------------------------------------------------------


def _next_cluster(reader: BlockReader, boot: BootSector, cluster: int) -> int:
    return int.from_bytes(reader.read(boot.active_fat_offset + 4 * cluster, 4), "little")


def _read_root(reader: BlockReader, boot: BootSector) -> _Root:
    """Find the bitmaps and the up-case table; the root directory always has a chain in the FAT."""
    found: dict[int, list[_Stream]] = {_BITMAP: [], _UPCASE_TABLE: []}
    clusters: list[int] = []
    cluster = boot.FirstClusterOfRootDirectory
    while cluster != _END_OF_CHAIN:
        if not boot.has_cluster(cluster):
            raise NotTrusted(f"its root directory leads to cluster {cluster} of {boot.ClusterCount}")
        clusters.append(cluster)
        if len(clusters) * boot.cluster_bytes > _MOST_ROOT_BYTES + boot.cluster_bytes:
            raise NotTrusted("its root directory has no end")
        content = reader.read(boot.cluster_offset(cluster), boot.cluster_bytes)
        if _collect_streams(content, found):
            break
        cluster = _next_cluster(reader, boot, cluster)
    return _Root(tuple(found[_BITMAP]), tuple(found[_UPCASE_TABLE]), tuple(clusters))


def _collect_streams(directory: bytes, found: dict[int, list[_Stream]]) -> bool:
    """Add bitmaps and up-case tables of a piece of the root directory; whether the directory ends in it."""
    kinds = np.frombuffer(directory, dtype=np.uint8)[::_ENTRY_BYTES]
    ends = np.flatnonzero(kinds == _END_OF_DIRECTORY)
    last = int(ends[0]) if ends.size else len(kinds)
    for kind, streams in found.items():
        for index in np.flatnonzero(kinds[:last] == kind)[:3].tolist():
            first_cluster, length = _STREAM.unpack_from(directory, index * _ENTRY_BYTES)
            streams.append(_Stream(directory[index * _ENTRY_BYTES + 1], first_cluster, length))
    return bool(ends.size)


def _label(reader: BlockReader, boot: BootSector) -> str:
    """The volume label, when it lies in the root directory's first cluster."""
    if not boot.has_cluster(boot.FirstClusterOfRootDirectory):
        return ""
    try:
        content = reader.read(boot.cluster_offset(boot.FirstClusterOfRootDirectory), min(boot.cluster_bytes, 65536))
    except OutOfRange:
        return ""
    for position in range(0, len(content), _ENTRY_BYTES):
        if content[position] == _END_OF_DIRECTORY:
            break
        if content[position] == _LABEL:
            length = 2 * min(content[position + 1], _LABEL_MOST_CHARACTERS)
            text = content[position + 2 : position + 2 + length].decode("utf-16-le", errors="replace")
            return "".join(char if char.isprintable() else "?" for char in text)
    return ""


# --- Allocation bitmap ----------------------------------------------------------------------------------------------


def _read_bitmaps(reader: BlockReader, boot: BootSector, root: _Root) -> Extents:
    """Numbers of the used clusters, of all bitmaps united."""
    wanted = list(range(boot.NumberOfFats))
    if sorted(stream.flags & 1 for stream in root.bitmaps) != wanted:
        raise NotTrusted(f"it has {len(root.bitmaps)} allocation bitmaps for {boot.NumberOfFats} FATs")
    if len(root.upcase_tables) != 1:
        raise NotTrusted(f"it has {len(root.upcase_tables)} up-case tables")
    used = Extents.union_of([_read_bitmap(reader, boot, stream) for stream in root.bitmaps])
    # The bitmap must know of what is certainly in use, or it is not this volume's bitmap.
    certain = [(cluster, cluster + 1) for cluster in root.clusters]
    for stream in (*root.bitmaps, *root.upcase_tables):
        count = -(-stream.data_length // boot.cluster_bytes)
        certain.append((stream.first_cluster, stream.first_cluster + count))
    for first, end in certain:
        if not boot.has_cluster(first) or not used.holds(first, end):
            raise NotTrusted(f"its allocation bitmap marks cluster {first}, which holds a system structure, as free")
    return used


def _read_bitmap(reader: BlockReader, boot: BootSector, stream: _Stream) -> Extents:
    length = -(-boot.ClusterCount // 8)
    if stream.data_length < length:
        raise NotTrusted(f"its allocation bitmap has {stream.data_length} bytes for {boot.ClusterCount} clusters")
    count = -(-length // boot.cluster_bytes)
    _check_in_one_piece(reader, boot, stream.first_cluster, count)
    collector = RangeCollector()
    for position in range(0, length, _PIECE_BYTES):
        size = min(_PIECE_BYTES, length - position)
        piece = reader.read(boot.cluster_offset(stream.first_cluster) + position, size)
        first = position * 8
        starts, ends = set_bit_runs(piece, count=min(size * 8, boot.ClusterCount - first))
        collector.add(starts + first + _FIRST_CLUSTER, ends + first + _FIRST_CLUSTER)
    return collector.extents()


def _check_in_one_piece(reader: BlockReader, boot: BootSector, first: int, count: int) -> None:
    """Refuse a bitmap whose chain does not run straight: some drivers follow the chain, some do not."""
    if not boot.has_cluster(first) or not boot.has_cluster(first + count - 1):
        raise NotTrusted(f"its allocation bitmap is said to lie at clusters {first} to {first + count - 1}")
    chain = np.frombuffer(reader.read(boot.active_fat_offset + 4 * first, 4 * (count - 1)), dtype="<u4")
    if not np.array_equal(chain, np.arange(first + 1, first + count)):
        raise NotTrusted("its allocation bitmap does not lie in one piece")
