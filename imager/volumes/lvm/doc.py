# SPDX-License-Identifier: GPL-3.0-or-later
"""What is followed of LVM2, for the support table."""

from __future__ import annotations

from typing import Final

from imager.volumes.base import ManagerDoc

DOC: Final = ManagerDoc(
    name="LVM2",
    types=("LVM2_member",),
    followed=(
        "linear and striped volumes, in any number of segments over several physical volumes",
        "raid0; raid1 and mirrors that are in sync: the maps of all copies are united",
        "raid4, raid5, raid6 (zr, nr, nc) and raid10 that are in sync; stripes with used blocks keep their parity",
        "thin pools: the chunks that are allocated, with the metadata and its spare",
        "both copies of the metadata, with their checksums, wherever they wrap around",
        "free extents are left out; label, metadata areas and the boot loader's area are kept",
        "several disks surveyed together, LVM inside of LUKS or MD RAID, LVM directly on a disk",
    ),
    whole_when=(
        ("a volume with a snapshot, a snapshot, a merge (that volume)", "both share blocks with each other"),
        ("cache, writecache, VDO, integrity, other RAID, a reshape (that volume)", "it is not followed here"),
        ("pvmove or another change under way (that volume)", "the extents are in two places"),
        ("copies that are not in sync (that volume)", "the older copy could decide what is in use"),
        ("a thin pool that needs a check, or whose counts differ (the pool)", "its map may be damaged"),
        ("a physical volume is not at hand (volumes on it)", "a part of their file systems is missing"),
        (
            "no metadata at hand, a wrong checksum, or two states of one group (the member)",
            "nothing tells what is free",
        ),
        ("two members with one UUID (both)", "one of them is a copy"),
        ("a group or volume with flags that are not known here, or shared between machines", "others may change it"),
    ),
    references=("LVM2 lib/format_text, lvm(8), lvmthin(7)", "Linux drivers/md/dm-thin-metadata.c, dm-raid.c, dm-log.c"),
)
