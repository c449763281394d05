# SPDX-License-Identifier: GPL-3.0-or-later
"""Owners that are recognised and copied whole: their names for people, and why their free space is not known here.

The names of types are those of `signatures`, blkid's where it has one. What has a parser or a volume manager is not
in this table; whatever stands in neither is copied whole as well, only with fewer words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Named:
    """An owner that is known by name only.

    Attributes:
        name: For people.
        types: Names that signatures and blkid give it.
        why: Why it is copied whole, as a clause after the name.
    """

    name: str
    types: tuple[str, ...]
    why: str


_FIRMWARE: Final = "the sets that a mainboard's or controller's firmware makes are not put together here"
_POOL: Final = "its allocations are kept in trees over all disks of the pool, which are not read here"
_RARE: Final = "its allocation maps are not read here"

NAMED: Final = (
    Named("ReFS", ("ReFS",), "Microsoft has not published how it keeps its free space"),
    Named("BitLocker", ("BitLocker",), "it is encrypted, and its keys are not asked for here"),
    Named("ZFS", ("zfs_member",), _POOL),
    Named("bcachefs", ("bcachefs",), _POOL),
    Named("bcache", ("bcache",), "its newest blocks may lie on the other device, cache or backing disk"),
    Named("VMFS", ("VMFS", "VMFS_volume_member"), "VMware has not published how it keeps its free space"),
    Named("Ceph BlueStore", ("ceph_bluestore",), "its allocations are kept in a database inside of it"),
    Named("Intel RAID (IMSM, RST)", ("isw_raid_member",), _FIRMWARE),
    Named("DDF RAID", ("ddf_raid_member",), _FIRMWARE),
    Named("RAID of Adaptec", ("adaptec_raid_member",), _FIRMWARE),
    Named("RAID of HighPoint", ("hpt37x_raid_member", "hpt45x_raid_member"), _FIRMWARE),
    Named("RAID of JMicron", ("jmicron_raid_member",), _FIRMWARE),
    Named("RAID of LSI MegaRAID", ("lsi_mega_raid_member",), _FIRMWARE),
    Named("RAID of NVIDIA", ("nvidia_raid_member",), _FIRMWARE),
    Named("RAID of Promise", ("promise_fasttrack_raid_member",), _FIRMWARE),
    Named("RAID of Silicon Image", ("silicon_medley_raid_member",), _FIRMWARE),
    Named("RAID of VIA", ("via_raid_member",), _FIRMWARE),
    Named("DRBD", ("drbd", "drbdproxy_datalog", "drbdmanage_control_volume"), "the other machine may be ahead of it"),
    Named("Stratis", ("stratis",), _POOL),
    Named("VDO", ("vdo",), "it stores deduplicated blocks, and its index is not read here"),
    Named("LVM1", ("LVM1_member",), "the old format of LVM is not read here"),
    Named("LVM snapshot store", ("DM_snapshot_cow",), "it means nothing without the volume that it belongs to"),
    Named("dm-verity hash tree", ("DM_verity_hash",), "all of it protects another volume"),
    Named("dm-integrity", ("DM_integrity",), "every sector lies between checksums and a journal"),
    Named("UBI and UBIFS", ("ubi", "ubifs"), "they are made for raw flash memory"),
    Named("zonefs", ("zonefs",), "it shows the zones of a device as files"),
    Named("HFS", ("hfs",), "the format before HFS+ is not read here"),
    Named("ext4dev", ("ext4dev",), "it was made by a development version of ext4"),
    Named("UDF", ("udf",), _RARE),
    Named("squashfs before 4.0", ("squashfs3",), "older images keep their length in another form"),
    Named("cramfs, romfs", ("cramfs", "romfs"), _RARE),
    Named("Reiser4", ("reiser4",), _RARE),
    Named("GFS2, OCFS2", ("gfs", "gfs2", "ocfs", "ocfs2"), "several machines may write to it at once"),
    Named("Oracle ASM", ("oracleasm",), "what a database stores in it is not read here"),
    Named("BeFS, BFS, HPFS, NSS, VxFS", ("befs", "bfs", "hpfs", "nss", "vxfs"), _RARE),
    Named("System V, Xenix, exFS, mpool", ("sysv", "xenix", "exfs", "mpool"), _RARE),
    Named("external log of XFS", ("xfs_external_log",), "it belongs to a file system on another device"),
    Named("a partition table in a partition", ("dos", "gpt"), "what lies in it is not followed"),
)

_BY_TYPE: Final = {kind: each for each in NAMED for kind in each.types}


def why_whole(kind: str) -> str:
    """Why a type that has no parser is copied whole."""
    named = _BY_TYPE.get(kind)
    if named is None:
        return f"used blocks of {kind} are not known here"
    return f"{kind if ',' in named.name else named.name}: {named.why}"
