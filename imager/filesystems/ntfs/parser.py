# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS: which clusters are in use.

$Bitmap says so, for all whole clusters. What is left behind the last one is used, too: the backup boot sector lies
there, in the sector after the last one that the volume counts as its own.

NTFS keeps no count of free clusters that $Bitmap could be compared with. Instead it must mark everything that the
system files (records 0 to 11 of the MFT) occupy, the root directory's index and the attribute lists among it.

Whether the map is up to date is decided by the log, not only by the volume's dirty flag: see `log`. A volume
in which Windows is hibernated, as it is after each "shut down" with Fast Startup, is copied whole.

Limitations: ntfs-3g keeps no log. After a power cut while it was writing, a volume looks clean and $Bitmap may be
older than the files; nothing on the volume tells. Shadow copies (restore points, previous versions) keep in their own
files only what was overwritten since. They read the rest from the volume, from clusters too that were freed since, and
these are not in use by $Bitmap: there is a warning.

References:
    ntfs-3g 2022.10.3: include/ntfs-3g/layout.h, libntfs-3g/volume.c. Field names are its own.
    libfsntfs, New Technologies File System (NTFS) format specification.
    libvshadow, Volume Shadow Snapshot (VSS) format, "Volume header".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from struct import Struct
from typing import Final

from imager.blocks import BlockReader, OutOfRange
from imager.extents import Extents
from imager.filesystems.base import HIBERNATED, MARKED_DIRTY, NOT_UNMOUNTED, NotTrusted, ParserDoc, UsedMap
from imager.filesystems.ntfs.bitmap import UsedClusters, read_bitmap
from imager.filesystems.ntfs.boot import (
    BOOT_SECTOR_BYTES,
    BootSector,
    Geometry,
    check_geometry,
    read_boot_sector,
)
from imager.filesystems.ntfs.files import HIBERNATION_FILE, sign_of_hibernation
from imager.filesystems.ntfs.log import read_log_state
from imager.filesystems.ntfs.mft import (
    BAD_CLUS,
    BITMAP,
    LOG_FILE,
    MFT_MIRR,
    SYSTEM_FILES,
    VOLUME,
    Mft,
)
from imager.filesystems.ntfs.records import DATA, VOLUME_INFORMATION, VOLUME_NAME, parse_record
from imager.filesystems.ntfs.streams import Stream
from imager.layout import Content

DOC: Final = ParserDoc(
    name="NTFS",
    types=("ntfs",),
    handled=(
        "versions 1.2, 3.0 and 3.1",
        "sectors of 512 to 4096 bytes, clusters of 512 bytes to 2 MiB, MFT records of 512 to 4096 bytes",
        "the backup boot sector behind the last cluster",
        "$MFT and $Bitmap in any number of pieces, with attribute lists",
        "$LogFile of versions 1.0 and 1.1, or reset",
        "compressed, sparse and encrypted files, alternate data streams, reparse points, bad clusters",
    ),
    whole_when=(
        ("Windows is hibernated in it, or Fast Startup was on", "what is on disk is older than what Windows has"),
        ("$LogFile is not clean, or has version 2.0", "changes that are in the log only may use other clusters"),
        ("the volume's dirty flag is set, or chkdsk was not finished", "$Bitmap may be wrong"),
        ("an unknown version of NTFS or of its log", "they may keep data where $Bitmap shows none"),
        ("$MFT and $MFTMirr, or $Bitmap and the system files, disagree", "the volume is damaged"),
        ("$Bitmap is sparse, compressed, encrypted or too short", "no driver writes it so"),
        ("a record is torn or damaged", "the volume is damaged"),
        ("it reaches beyond the end of the volume", "the volume was cut or the boot sector is another's"),
    ),
    references=(
        "https://github.com/tuxera/ntfs-3g/blob/2022.10.3/include/ntfs-3g/layout.h",
        "https://github.com/libyal/libfsntfs/blob/main/documentation/",
    ),
)

ADVICE: Final = (
    "boot Windows and shut it down with `shutdown /s /f /t 0` (or run chkdsk there) to have only its used blocks copied"
)

_VERSIONS: Final = ((1, 2), (3, 0), (3, 1))
_INFORMATION: Final = Struct("<8xBBH")
_IS_DIRTY: Final = 0x0001
_CHKDSK_UNDERWAY: Final = 0x4000
_FLAGS: Final = {
    _IS_DIRTY: "dirty",
    0x0002: "resize log",
    0x0004: "upgrade on mount",
    0x0008: "mounted on NT 4",
    0x0010: "delete USN under way",
    0x0020: "repair object ids",
    _CHKDSK_UNDERWAY: "chkdsk under way",
    0x8000: "modified by chkdsk",
}
_LABEL_BYTES: Final = 256
_MIRRORED: Final = 4
_NOT_IN_EVERY_VERSION: Final = (9, 11)
"""$Secure was $Quota, and $Extend nothing, before version 3.0."""
_SHADOW_COPIES_AT: Final = 0x1E00
_SHADOW_COPIES_ID: Final = bytes.fromhex("6b87083876c1484eb7ae04046e6cc752")
_CATALOG: Final = slice(48, 56)


@dataclass(frozen=True)
class _Information:
    """What $Volume says."""

    label: str
    version: tuple[int, int]
    flags: int

    @property
    def flag_names(self) -> str:
        """Flags for people; Windows sets some whose meaning is not known."""
        known = [name for bit, name in _FLAGS.items() if self.flags & bit]
        rest = self.flags & ~sum(_FLAGS)
        return ", ".join(known + ([f"{rest:#x}"] if rest else []))


def probe(reader: BlockReader) -> Content | None:
    """Recognise NTFS by its boot sector; `HIBERNATED` is among its facts when a Windows sleeps in it."""
    boot = read_boot_sector(reader)
    return _describe(reader, boot) if boot else None


def used_map(reader: BlockReader) -> UsedMap:
    """The clusters that $Bitmap marks, and what lies behind the last whole one.

    Raises:
        NotTrusted: The volume is dirty or hibernated, or its structures say what cannot be.
    """
    boot = read_boot_sector(reader)
    if boot is None:
        raise NotTrusted("it has no NTFS boot sector")
    geometry = check_geometry(boot, reader.size)
    mft = Mft(reader, geometry)
    information = _read_information(mft)
    _check_version(information)
    _check_mirror(reader, geometry, mft)
    log = _check_clean(mft, geometry, information)
    bitmap = mft.stream(BITMAP, DATA)
    if bitmap is None:
        raise NotTrusted("$Bitmap has no content")
    found = read_bitmap(bitmap, geometry.cluster_count)
    bad_count = _check_system_files(mft, found.clusters)
    used = _in_bytes(found, geometry) | Extents.single(geometry.clusters_end, min(boot.size_bytes, reader.size))
    facts = {"log": log, "bad_clusters": str(bad_count)}
    described = _describe(reader, boot)
    return UsedMap(
        used,
        replace(
            described,
            used_bytes=found.count * geometry.cluster_bytes,
            warnings=tuple(_warnings(reader, geometry, bad_count)),
            facts={**described.facts, **facts},
        ),
    )


def _in_bytes(found: UsedClusters, geometry: Geometry) -> Extents:
    clusters = found.clusters
    return Extents(clusters.starts * geometry.cluster_bytes, clusters.ends * geometry.cluster_bytes)


# --- What people are told -------------------------------------------------------------------------------------------


def _describe(reader: BlockReader, boot: BootSector) -> Content:
    """The volume as far as it can be read; damage decides nothing here."""
    content = Content(
        kind="filesystem",
        type="ntfs",
        uuid=f"{boot.volume_serial_number:016X}",
        block_size_bytes=boot.cluster_bytes,
        size_bytes=boot.size_bytes,
        facts={"sector_size_bytes": str(boot.bytes_per_sector)},
    )
    try:
        geometry = check_geometry(boot, reader.size)
        mft = Mft(reader, geometry)
        information = _read_information(mft)
        facts = {
            **content.facts,
            "version": f"{information.version[0]}.{information.version[1]}",
            "mft_record_bytes": str(geometry.record_bytes),
            "volume_flags": information.flag_names,
            "backup_boot_sector": _backup_state(reader, geometry),
        }
        content = replace(content, label=information.label, facts=facts)
        sign = sign_of_hibernation(mft, geometry)
    except (NotTrusted, OutOfRange):
        return content
    return replace(content, facts={**facts, HIBERNATED: f"{HIBERNATION_FILE} ({sign})"}) if sign else content


def _backup_state(reader: BlockReader, geometry: Geometry) -> str:
    if geometry.backup_offset + BOOT_SECTOR_BYTES > reader.size:
        return "missing"
    backup = reader.read(geometry.backup_offset, BOOT_SECTOR_BYTES)
    return "present" if backup == reader.read(0, BOOT_SECTOR_BYTES) else "differs"


def _warnings(reader: BlockReader, geometry: Geometry, bad_count: int) -> Iterator[str]:
    if bad_count:
        yield f"{bad_count} clusters are marked as bad: no file lies in them, and they may be unreadable"
    backup = _backup_state(reader, geometry)
    if backup != "present":
        yield f"its backup boot sector is {'missing' if backup == 'missing' else 'not like the first one'}"
    if _has_shadow_copies(reader):
        yield (
            "it has shadow copies (restore points, previous versions), which may be damaged in the image: "
            "they need clusters that the volume counts as unused; only a copy of every block keeps them"
        )


def _has_shadow_copies(reader: BlockReader) -> bool:
    """Whether the header that Windows keeps behind the boot code leads to a catalog of shadow copies."""
    if reader.size < _SHADOW_COPIES_AT + BOOT_SECTOR_BYTES:
        return False
    header = reader.read(_SHADOW_COPIES_AT, BOOT_SECTOR_BYTES)
    return header.startswith(_SHADOW_COPIES_ID) and any(header[_CATALOG])


# --- Checks ---------------------------------------------------------------------------------------------------------


def _read_information(mft: Mft) -> _Information:
    stream = mft.stream(VOLUME, VOLUME_INFORMATION)
    if stream is None or not stream.is_resident or stream.data_size < _INFORMATION.size:
        raise NotTrusted("$Volume does not say which version of NTFS this is")
    major, minor, flags = _INFORMATION.unpack(stream.read(0, _INFORMATION.size))
    name = mft.stream(VOLUME, VOLUME_NAME)
    return _Information(_text(name), (major, minor), flags)


def _text(stream: Stream | None) -> str:
    if stream is None:
        return ""
    text = stream.read(0, min(stream.data_size, _LABEL_BYTES)).decode("utf-16-le", errors="replace")
    return "".join(char if char.isprintable() else "?" for char in text)


def _check_version(information: _Information) -> None:
    if information.version not in _VERSIONS:
        raise NotTrusted(f"it is NTFS {information.version[0]}.{information.version[1]}, which is not known")


def _check_clean(mft: Mft, geometry: Geometry, information: _Information) -> str:
    """Refuse what is not up to date on disk; what the log says of itself."""
    sign = sign_of_hibernation(mft, geometry)
    if sign:
        reason = f"Windows is hibernated or was shut down with Fast Startup ({HIBERNATION_FILE}: {sign})"
        raise NotTrusted(f"{reason}: {ADVICE}")
    log = mft.stream(LOG_FILE, DATA)
    if log is None:
        raise NotTrusted("$LogFile has no content")
    state = read_log_state(log)
    if state.reason:
        raise NotTrusted(f"{state.reason}: {ADVICE}", warnings=(NOT_UNMOUNTED,))
    if information.flags & (_IS_DIRTY | _CHKDSK_UNDERWAY):
        raise NotTrusted(
            f"its volume flags ask for a check by chkdsk ({information.flag_names}): {ADVICE}",
            warnings=(MARKED_DIRTY,),
        )
    return state.summary


def _check_mirror(reader: BlockReader, geometry: Geometry, mft: Mft) -> None:
    """The first records of the MFT are kept twice, and drivers refuse a volume where they differ."""
    mirror = mft.stream(MFT_MIRR, DATA)
    if mirror is None or mirror.first_lcn != geometry.mftmirr_lcn:
        raise NotTrusted(f"$MFTMirr does not lie at cluster {geometry.mftmirr_lcn}, as the boot sector says")
    for number in range(_MIRRORED):
        kept = parse_record(mirror.read(number * geometry.record_bytes, geometry.record_bytes), number)
        if kept != mft.record(number):
            raise NotTrusted(f"MFT record {number} differs from its copy in $MFTMirr")


def _check_system_files(mft: Mft, used: Extents) -> int:
    """Refuse a $Bitmap that does not know of a system file's clusters; how many clusters are marked as bad."""
    occupied = {
        name: Extents.union_of([stream.clusters() for stream in mft.streams(number).values()])
        for number, name in enumerate(SYSTEM_FILES)
        if number not in _NOT_IN_EVERY_VERSION or mft.record(number).is_in_use
    }
    missing = Extents.union_of(occupied.values()) - used
    if len(missing):
        cluster = int(missing.starts[0])
        name = next(name for name, clusters in occupied.items() if clusters.touches(cluster, cluster + 1))
        raise NotTrusted(f"$Bitmap marks cluster {cluster}, which {name} occupies, as free")
    return occupied[SYSTEM_FILES[BAD_CLUS]].total_bytes
