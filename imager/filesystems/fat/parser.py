# SPDX-License-Identifier: GPL-3.0-or-later
"""FAT12, FAT16 and FAT32: which clusters are in use.

A cluster is used when any of the FATs says so, the inactive ones too: a superset is always right. Everything in
front of the first cluster is used: reserved sectors with FSInfo and the backup boot sector, all FATs, the root
directory region. FSInfo's count of free clusters is advisory by the specification and decides nothing.

Clusters that every FAT marks as bad are not used: no file can lie in them, and reading them would fail.

A volume that was not cleanly unmounted can have directory entries that reached the disk before the FAT did. Drivers
read the first cluster of such a file without asking the FAT, so `fat_walk` adds what the directory tree points to.

Limitations: Atari's variants with sectors beyond 4096 bytes and exFAT are not recognised here.

References:
    Microsoft Extensible Firmware Initiative FAT32 File System Specification, version 1.03 (fatgen103).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader, OutOfRange
from imager.extents import Extents
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.filesystems.collecting import RangeCollector
from imager.filesystems.fat import walk
from imager.filesystems.fat.boot import (
    DIRECTORY_ENTRY_BYTES,
    BootSector,
    Geometry,
    check_geometry,
    read_boot_sector,
)
from imager.layout import Content

DOC: Final = ParserDoc(
    name="FAT12, FAT16, FAT32",
    types=("vfat",),
    handled=(
        "sectors of 512 to 4096 bytes, clusters of 1 to 128 sectors",
        "one or more FATs, mirrored or with one active (BPB_ExtFlags): all are united",
        "FATs that differ: united, with a warning",
        "not cleanly unmounted (ClnShutBitMask): FATs united with what the directory tree points to",
        "bad clusters: not copied",
    ),
    whole_when=(
        ("BPB_FSVer is not 0", "an unknown version of FAT32"),
        ("the type by cluster count and BS_FilSysType disagree", "entries could be read at two widths"),
        ("the first FAT entry does not hold BPB_Media", "what lies there is no FAT"),
        ("a FAT entry points outside of the data region", "the FAT is damaged"),
        ("the root directory's cluster is marked free", "the FAT is damaged"),
        ("it reaches beyond the end of the volume", "the volume was cut or the boot sector is another's"),
    ),
    references=("Microsoft FAT32 File System Specification 1.03 (fatgen103)",),
)

_PIECE_BYTES: Final = 4 * 1024 * 1024
_LABEL_BYTES_READ: Final = 2 * 1024 * 1024
_FSINFO_SIGNATURES: Final = ((0, b"RRaA"), (484, b"rrAa"), (508, b"\x00\x00\x55\xaa"))
_FSINFO_UNKNOWN: Final = 0xFFFFFFFF
_STATE_DIRTY: Final = 0x01
"""Of BS_Reserved1, by Windows NT and Linux."""

UintArray = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]


def probe(reader: BlockReader) -> Content | None:
    """Recognise FAT by its boot sector."""
    boot = read_boot_sector(reader)
    return _describe(reader, boot) if boot else None


def used_map(reader: BlockReader) -> UsedMap:
    """The clusters that any FAT marks as used, and everything in front of the first cluster.

    Raises:
        NotTrusted: The boot sector or a FAT says what cannot be.
    """
    boot = read_boot_sector(reader)
    if boot is None:
        raise NotTrusted("it has no FAT boot sector")
    geometry = check_geometry(boot, reader.size)
    state = _read_state(reader, geometry, boot)
    tables = _read_tables(reader, geometry)
    clusters = tables.clusters.extents()
    if state.dirty:
        clusters = clusters | walk.clusters_in_tree(reader, geometry)
    used = Extents.union_of(
        (
            Extents.single(0, geometry.data_offset),
            _clusters_to_bytes(clusters, geometry),
            Extents.single(geometry.data_end, geometry.end),
        )
    )
    return UsedMap(used, _describe_map(reader, boot, geometry, state, tables))


# --- What the first two entries say ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _State:
    dirty: bool
    warnings: tuple[str, ...]


def _entries(content: bytes, bits: int) -> UintArray:
    """The entries of a FAT; FAT32's upper four bits are reserved and masked away."""
    if bits == 32:
        return np.frombuffer(content, dtype="<u4") & np.uint32(0x0FFFFFFF)
    if bits == 16:
        return np.frombuffer(content, dtype="<u2").astype(np.uint32)
    padded = content + bytes(-len(content) % 3)
    triples = np.frombuffer(padded, dtype=np.uint8).astype(np.uint32).reshape(-1, 3)
    entries = np.empty((len(triples), 2), dtype=np.uint32)
    entries[:, 0] = triples[:, 0] | (triples[:, 1] & 0x0F) << 8
    entries[:, 1] = triples[:, 1] >> 4 | triples[:, 2] << 4
    return entries.reshape(-1)


def _bad(bits: int) -> int:
    return 0x0FFFFFF7 if bits == 32 else (1 << bits) - 9


def _read_state(reader: BlockReader, geometry: Geometry, boot: BootSector) -> _State:
    """Check that each active FAT is one, and read ClnShutBitMask and HrdErrBitMask."""
    dirty = bool(boot.tail.BS_Reserved1 & _STATE_DIRTY)
    failed = False
    width = 28 if geometry.bits == 32 else geometry.bits
    for number in geometry.active_fats:
        first = reader.read(geometry.fat_offset + number * geometry.fat_bytes, 12)
        media, flags = (int(entry) for entry in _entries(first, geometry.bits)[:2])
        if media != (1 << width) - 256 + boot.bpb.BPB_Media:
            raise NotTrusted(
                f"FAT {number} does not begin with the media type {boot.bpb.BPB_Media:#x} "
                f"of the boot sector, but with {media:#x}"
            )
        if geometry.bits > 12:
            dirty = dirty or not flags >> (width - 1) & 1
            failed = failed or not flags >> (width - 2) & 1
    warnings = []
    if dirty:
        warnings.append("it was not cleanly unmounted")
    if failed:
        warnings.append("it met read or write errors when it was last in use")
    return _State(dirty, tuple(warnings))


# --- The FATs -------------------------------------------------------------------------------------------------------


@dataclass
class _Tables:
    """What the FATs say, united, gathered piece by piece."""

    clusters: RangeCollector = field(default_factory=RangeCollector)
    used_count: int = 0
    bad_count: int = 0
    differing_count: int = 0

    def add(self, first_cluster: int, used: Mask) -> None:
        """Add what is known of the clusters from first_cluster on."""
        edges = np.diff(used.astype(np.int8), prepend=np.int8(0), append=np.int8(0))
        starts = np.flatnonzero(edges == 1).astype(np.int64) + first_cluster
        ends = np.flatnonzero(edges == -1).astype(np.int64) + first_cluster
        self.clusters.add(starts, ends)
        self.used_count += int(np.count_nonzero(used))


def _read_tables(reader: BlockReader, geometry: Geometry) -> _Tables:
    tables = _Tables()
    size_bytes = -(-(geometry.cluster_count + 2) * geometry.bits // 8)
    # FAT12 is at most 6 KiB and so one piece; the other widths divide the piece.
    for position in range(0, size_bytes, _PIECE_BYTES):
        length = min(_PIECE_BYTES, size_bytes - position)
        first = position * 8 // geometry.bits
        _unite_piece(reader, geometry, tables, position, length, first)
    root = geometry.root_cluster
    if root and not tables.clusters.extents().holds(root, root + 1):
        raise NotTrusted(f"its FAT marks cluster {root}, the root directory, as free")
    return tables


def _unite_piece(
    reader: BlockReader, geometry: Geometry, tables: _Tables, position: int, length: int, first: int
) -> None:
    """Add one piece of all FATs; copies of the one before, as they nearly always are, are not looked at twice."""
    skip = 2 if position == 0 else 0
    count = min(geometry.cluster_count + 2 - first, length * 8 // geometry.bits) - skip
    used = np.zeros(count, dtype=bool)
    bad = np.ones(count, dtype=bool)
    before = b""
    entries = reference = None
    for number in range(geometry.fat_count):
        content = reader.read(geometry.fat_offset + number * geometry.fat_bytes + position, length)
        if entries is None or content != before:
            before = content
            entries = _entries(content, geometry.bits)[skip : skip + count]
            is_bad = entries == _bad(geometry.bits)
            used |= (entries != 0) & ~is_bad
            bad &= is_bad
        if number not in geometry.active_fats:
            continue
        if reference is None:
            reference = entries
        if reference is not entries:
            tables.differing_count += int(np.count_nonzero(entries != reference))
        _check_pointers(entries, geometry, number)
    tables.bad_count += int(np.count_nonzero(bad))
    tables.add(first + skip, used)


def _check_pointers(entries: UintArray, geometry: Geometry, number: int) -> None:
    """Refuse a FAT that has a chain leave the data region: it is damaged, and so may be what it calls free."""
    reserved_from = _bad(geometry.bits) - 7
    wrong = (entries >= geometry.cluster_count + 2) & (entries < reserved_from)
    if np.any(wrong):
        raise NotTrusted(
            f"FAT {number} is damaged: {int(np.count_nonzero(wrong))} or more entries "
            f"point beyond cluster {geometry.cluster_count + 1}, the last one"
        )


def _clusters_to_bytes(clusters: Extents, geometry: Geometry) -> Extents:
    origin = geometry.data_offset - 2 * geometry.cluster_bytes
    return Extents(clusters.starts * geometry.cluster_bytes + origin, clusters.ends * geometry.cluster_bytes + origin)


# --- What people are told -------------------------------------------------------------------------------------------


def _describe(reader: BlockReader, boot: BootSector) -> Content:
    facts = {"version": f"FAT{boot.bits}", "sector_size_bytes": str(boot.bpb.BPB_BytsPerSec)}
    return Content(
        kind="filesystem",
        type="vfat",
        label=_label(reader, boot),
        uuid=boot.serial,
        block_size_bytes=boot.bpb.BPB_SecPerClus * boot.bpb.BPB_BytsPerSec,
        size_bytes=boot.size_bytes,
        facts=facts,
    )


def _describe_map(reader: BlockReader, boot: BootSector, geometry: Geometry, state: _State, tables: _Tables) -> Content:
    known = _describe(reader, boot)
    warnings = list(state.warnings)
    if tables.differing_count:
        warnings.append(f"its FATs differ in {tables.differing_count} entries: all were united")
    facts = dict(known.facts)
    facts["fats"] = str(geometry.fat_count)
    facts["clusters"] = str(geometry.cluster_count)
    if tables.bad_count:
        facts["bad_clusters"] = str(tables.bad_count)
    free = _fsinfo_free_count(reader, boot)
    if free is not None:
        facts["fsinfo_free_clusters"] = str(free)
    return Content(
        kind=known.kind,
        type=known.type,
        label=known.label,
        uuid=known.uuid,
        block_size_bytes=known.block_size_bytes,
        size_bytes=known.size_bytes,
        used_bytes=geometry.data_offset + tables.used_count * geometry.cluster_bytes,
        warnings=tuple(warnings),
        facts=facts,
    )


def _fsinfo_free_count(reader: BlockReader, boot: BootSector) -> int | None:
    """FSI_Free_Count, when there is an FSInfo sector that says anything."""
    if not boot.bpb32 or not 0 < boot.bpb32.BPB_FSInfo < boot.bpb.BPB_RsvdSecCnt:
        return None
    sector = reader.read(boot.bpb32.BPB_FSInfo * boot.bpb.BPB_BytsPerSec, 512)
    if any(not sector[offset:].startswith(magic) for offset, magic in _FSINFO_SIGNATURES):
        return None
    free = int.from_bytes(sector[488:492], "little")
    return None if free == _FSINFO_UNKNOWN else free


def _label(reader: BlockReader, boot: BootSector) -> str:
    """The label of the root directory's first cluster or region; BS_VolLab is only a copy, often a stale one."""
    try:
        directory = _root_directory(reader, boot)
    except OutOfRange:
        return ""
    for position in range(0, len(directory) // DIRECTORY_ENTRY_BYTES * DIRECTORY_ENTRY_BYTES, DIRECTORY_ENTRY_BYTES):
        name, attributes = directory[position : position + 11], directory[position + 11]
        if name[0] == 0:
            break
        if name[0] != 0xE5 and attributes & 0x3F != 0x0F and attributes & 0x18 == 0x08:
            return _printable(name)
    return ""


def _root_directory(reader: BlockReader, boot: BootSector) -> bytes:
    sector_bytes = boot.bpb.BPB_BytsPerSec
    if boot.bpb32:
        length = boot.bpb.BPB_SecPerClus * sector_bytes
        offset = boot.first_data_sector * sector_bytes + (boot.bpb32.BPB_RootClus - 2) * length
        return reader.read(offset, length)
    offset = (boot.first_data_sector - boot.root_sectors) * sector_bytes
    return reader.read(offset, min(boot.root_sectors * sector_bytes, _LABEL_BYTES_READ))


def _printable(name: bytes) -> str:
    text = (b"\xe5" + name[1:] if name[0] == 0x05 else name).decode("cp437")
    return "".join(char if char.isprintable() else "?" for char in text).rstrip(" ?")
