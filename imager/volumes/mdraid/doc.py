# SPDX-License-Identifier: GPL-3.0-or-later
"""What is followed of Linux software RAID, for the support table."""

from __future__ import annotations

from typing import Final

from imager.volumes.base import ManagerDoc

DOC: Final = ManagerDoc(
    name="Linux MD RAID",
    types=("linux_raid_member",),
    followed=(
        "superblocks 0.90, 1.0, 1.1 and 1.2; superblock, bitmap and bad-block list are kept",
        "RAID1 and linear; RAID1 by the united maps of all members",
        "RAID0, RAID10 (near, far, offset) and RAID4, 5 and 6 in every layout, when all members are at hand",
        "parity: rows of stripes in which any member has used blocks are kept on all members",
        "the other rows become zeros on all members, when an image is restored",
        "arrays of partitions or whole disks, with a partition table, LUKS, LVM or a file system in them",
    ),
    whole_when=(
        ("not stopped cleanly, being rebuilt, resynced or reshaped", "its members may differ"),
        ("members with different numbers of events", "one was left behind, and must not decide what is in use"),
        ("a member that should be there is not at hand", "it could hold what the others do not"),
        ("a spare, or a member that failed", "it has no place in the array"),
        ("members that disagree on the array, or two with one role", "one of them is a copy or a leftover"),
        ("a journal, a cluster, unknown features, recorded bad blocks", "blocks may lie elsewhere"),
        ("RAID0 of members of different sizes, RAID10 with far sets", "their arithmetic is not followed here"),
        ("RAID of firmware (Intel, DDF)", "named, and never put together"),
    ),
    references=("Linux include/uapi/linux/raid/md_p.h, drivers/md", "md(4), mdadm(8)"),
)
