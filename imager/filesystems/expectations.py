# SPDX-License-Identifier: GPL-3.0-or-later
"""What the type of a partition promises, as far as it is a promise that a file system inside would break.

Most types promise nothing: Linux data, basic data and EFI system partitions hold whatever they hold. But a clean file
system in a partition that is typed as a RAID member is most likely the stale or partial view of an array whose own
metadata was not recognised, and its free blocks may be somebody else's data.

References:
    The Discoverable Partitions Specification (UAPI group); UEFI 2.10, chapter 5; mdadm(8) on 0xDA and 0xFD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from imager.layout import Content, ContentKind

_LAYERS: Final[frozenset[ContentKind]] = frozenset(("volume-manager", "raid", "encrypted"))
_NOT_A_CLAIM: Final[frozenset[ContentKind]] = frozenset(("unknown", "blank", "ambiguous"))


@dataclass(frozen=True)
class Promise:
    """What a partition's type says of its content.

    Attributes:
        what: For people, after "the partition's type promises".
        kinds: Kinds of content that keep the promise.
        types: Types of content that keep it beside those kinds.
    """

    what: str
    kinds: frozenset[ContentKind] = frozenset()
    types: frozenset[str] = frozenset()

    def is_kept_by(self, content: Content) -> bool:
        """Whether the content may lie there."""
        return content.kind in self.kinds or content.type in self.types


_RAID: Final = Promise("a member of a RAID set", kinds=frozenset(("raid",)))
_LVM: Final = Promise("an LVM physical volume", kinds=_LAYERS)
_SWAP: Final = Promise("swap space", kinds=_LAYERS | {"swap"})
_LUKS: Final = Promise("a LUKS container", types=frozenset(("crypto_LUKS",)))
_CRYPT: Final = Promise("encrypted data without a header")
_ZFS: Final = Promise("a ZFS pool's member", types=frozenset(("zfs_member",)))
_VMFS: Final = Promise("a VMFS volume", types=frozenset(("VMFS", "VMFS_volume_member")))
_CEPH: Final = Promise("Ceph's own data", types=frozenset(("ceph_bluestore",)), kinds=_LAYERS)
_DYNAMIC: Final = Promise("volumes of a Windows dynamic disk or storage pool")
_APPLE: Final = Promise("an Apple volume group")
_BOOT_CODE: Final = Promise("boot code without a file system")
_RESERVED: Final = Promise("space that Windows keeps for itself")
_MEMORY: Final = Promise("the memory of a sleeping system", kinds=frozenset(("swap",)))
_RAW: Final = Promise("data that is no file system", kinds=_LAYERS | {"swap"})

_PROMISES: Final = {
    # GPT type GUIDs
    "a19d880f-05fc-4d3b-a006-743f0f84911e": _RAID,
    "e6d6d379-f507-44c2-a23c-238f2a3df928": _LVM,
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": _SWAP,
    "ca7d7ccb-63ed-4c53-861c-1742536059cc": _LUKS,
    "7ffec5c9-2d00-49b7-8941-3ea10a5586b7": _CRYPT,
    "6a898cc3-1dd2-11b2-99a6-080020736631": _ZFS,
    "516e7cba-6ecf-11d6-8ff8-00022d09712b": _ZFS,
    "aa31e02a-400f-11db-9590-000c2911d1b8": _VMFS,
    "cafecafe-9b03-4f30-b4c6-b4b80ceff106": _CEPH,
    "45b0969e-9b03-4f30-b4c6-b4b80ceff106": _CEPH,
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": _DYNAMIC,
    "af9b60a0-1431-4f62-bc68-3311714a69ad": _DYNAMIC,
    "e75caf8f-f680-4cee-afa3-b001e56efc2d": _DYNAMIC,
    "53746f72-6167-11aa-aa11-00306543ecac": _APPLE,
    "52414944-0000-11aa-aa11-00306543ecac": _APPLE,
    "52414944-5f4f-11aa-aa11-00306543ecac": _APPLE,
    "21686148-6449-6e6f-744e-656564454649": _BOOT_CODE,
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b": _BOOT_CODE,
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": _RESERVED,
    "d3bfe2de-3daf-11df-ba40-e3a556d89593": _MEMORY,
    # MBR types
    "fd": _RAID,
    "8e": _LVM,
    "82": _SWAP,
    "e8": _LUKS,
    "42": _DYNAMIC,
    "fb": _VMFS,
    "41": _BOOT_CODE,
    "84": _MEMORY,
    "da": _RAW,
}


def promise_of(partition_type: str) -> Promise | None:
    """What a partition's type promises; None when it promises nothing that matters.

    Args:
        partition_type: A GPT type GUID, or an MBR type as two hexadecimal digits; in lower case.
    """
    return _PROMISES.get(partition_type.lower())


def contradiction(partition_type: str, content: Content) -> str:
    """Why the content cannot be what the partition's type promises; empty when they agree well enough.

    Args:
        partition_type: A GPT type GUID, or an MBR type as two hexadecimal digits; in lower case.
        content: What was recognised.
    """
    promise = promise_of(partition_type)
    if promise is None or content.kind in _NOT_A_CLAIM or promise.is_kept_by(content):
        return ""
    return f"the partition's type promises {promise.what}, but {content.type} was found in it"
