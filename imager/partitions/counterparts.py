# SPDX-License-Identifier: GPL-3.0-or-later
"""Which types of an MBR and of a GPT stand for the same.

References:
    The type codes of sgdisk(8), whose first byte is that of the MBR (0700, 8300, ...), against which a test holds this
    list; the names that `sfdisk --list-types` of util-linux gives them.
"""

from __future__ import annotations

from typing import Final

from imager.layout import Content
from imager.partitions.types import MBR_PREP_BOOT, PREP_BOOT, gpt_type_name

BASIC_DATA: Final = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
LINUX: Final = "0fc63daf-8483-4772-8e79-3d69d8477de4"
_LINUX_PLACES: Final = ("Linux root", "Linux /usr", "Linux home", "Linux server", "Linux variable", "Linux user")
"""Names of GPT types that say where a file system belongs; an MBR has one type for all of them."""

_GPT_OF: Final = {
    "83": LINUX,
    "82": "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
    "07": BASIC_DATA,
    "ef": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "8e": "e6d6d379-f507-44c2-a23c-238f2a3df928",
    "fd": "a19d880f-05fc-4d3b-a006-743f0f84911e",
    "0c": BASIC_DATA,
    **dict.fromkeys(("0b", "0e", "06", "04", "01", "11", "14", "16", "17", "1b", "1c", "1e"), BASIC_DATA),
    "27": "de94bba4-06d1-4d40-a16a-bfd50179d6ac",
    "ea": "bc13c2ff-59e6-4262-a352-b275fd6f7172",
    MBR_PREP_BOOT: PREP_BOOT,
    "39": "c91818f9-8025-47af-89d2-f030d7000c2c",
    "a8": "55465300-0000-11aa-aa11-00306543ecac",
    "ab": "426f6f74-0000-11aa-aa11-00306543ecac",
    "af": "48465300-0000-11aa-aa11-00306543ecac",
    "bf": "6a85cf4d-1dd2-11b2-99a6-080020736631",
    "eb": "42465331-3ba3-10f1-802a-4861696b7521",
    "fb": "aa31e02a-400f-11db-9590-000c2911d1b8",
    "fc": "9d275380-40ad-11db-bf97-000c2911d1b8",
}
"""Of several MBR types for one GUID, the first is the one that the GUID becomes."""
_GPT_OF_CONTENT: Final = {
    **dict.fromkeys(("ntfs", "vfat", "exfat"), BASIC_DATA),
    **dict.fromkeys(("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "nilfs2"), LINUX),
    "crypto_LUKS": LINUX,
    "swap": "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
    "LVM2_member": "e6d6d379-f507-44c2-a23c-238f2a3df928",
    "linux_raid_member": "a19d880f-05fc-4d3b-a006-743f0f84911e",
}


def gpt_type_of(mbr_type: str, content: Content | None = None) -> str | None:
    """The GUID for an MBR's type, two hexadecimal digits; by what lies there when the type tells nothing."""
    return _GPT_OF.get(mbr_type) or _GPT_OF_CONTENT.get(content.type if content else "")


def mbr_type_of(guid: str) -> str | None:
    """The MBR's type for a GUID in lower case."""
    if gpt_type_name(guid).startswith(_LINUX_PLACES):
        return "83"
    return next((mbr for mbr, gpt in _GPT_OF.items() if gpt == guid), None)
