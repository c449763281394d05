# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from imager.filesystems.expectations import contradiction
from imager.layout import Content

EXT4 = Content("filesystem", "ext4")
FAT = Content("filesystem", "vfat")
SWAP = Content("swap", "swap")
LVM = Content("volume-manager", "LVM2_member")
RAID = Content("raid", "linux_raid_member")
LUKS = Content("encrypted", "crypto_LUKS")

LINUX_RAID = "a19d880f-05fc-4d3b-a006-743f0f84911e"
LINUX_LVM = "e6d6d379-f507-44c2-a23c-238f2a3df928"
LINUX_SWAP = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
LINUX_DATA = "0fc63daf-8483-4772-8e79-3d69d8477de4"
LINUX_ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
EFI = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BASIC_DATA = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"


@pytest.mark.parametrize(
    ("partition_type", "content"),
    [
        (LINUX_RAID, EXT4),
        ("fd", EXT4),
        ("fd", LVM),
        (LINUX_LVM, EXT4),
        ("8e", FAT),
        (LINUX_SWAP, EXT4),
        ("82", FAT),
        (BIOS_BOOT, FAT),
        ("DA", EXT4),
    ],
)
def test_broken_promises_are_told(partition_type: str, content: Content):
    assert content.type in contradiction(partition_type, content)


@pytest.mark.parametrize(
    ("partition_type", "content"),
    [
        ("", EXT4),
        ("83", EXT4),
        ("83", SWAP),
        ("0c", FAT),
        ("07", FAT),
        (LINUX_DATA, EXT4),
        (LINUX_DATA, LVM),
        (LINUX_ROOT, EXT4),
        (EFI, FAT),
        (BASIC_DATA, FAT),
        (BASIC_DATA, EXT4),
        (LINUX_RAID, RAID),
        (LINUX_LVM, LVM),
        (LINUX_LVM, LUKS),
        (LINUX_SWAP, SWAP),
        (LINUX_SWAP, LUKS),
        ("82", SWAP),
        ("82", Content("swap", "swsuspend")),
        (BIOS_BOOT, Content("unknown", "unknown")),
    ],
)
def test_ordinary_partitions_raise_nothing(partition_type: str, content: Content):
    assert contradiction(partition_type, content) == ""
