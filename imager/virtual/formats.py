# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files hold the disk of a virtual machine, told by their names and their first bytes.

Neither is believed alone. The bytes of a raw disk are its owner's, who may have written the header of another format
there, one that names any file of this machine as its content. A name may be wrong.

References:
    QEMU, docs/interop/qcow2.txt (magic); VMware, "Virtual Disk Format 5.0" (SparseExtentHeader.magicNumber, descriptor
    file); QEMU, block/vdi.c (VDI_SIGNATURE); MS-VHDX, section 2.2.1 (Signature).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imager.errors import UsageError

HEAD_BYTES: Final = 512
_RAW_SUFFIXES: Final = (".raw", ".dd")
# What a file of a virtual machine says of other files: RW 4192256 SPARSE "disk-s001.vmdk"
_EXTENT: Final = re.compile(rb'^\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+\w+\s+"([^"]*)"', re.MULTILINE)


@dataclass(frozen=True)
class DiskFormat:
    """A format of virtual disks.

    Attributes:
        name: As QEMU calls it.
        suffix: How the names of its files end.
        magics: Bytes that its files have, each with their offset; one of them is enough.
    """

    name: str
    suffix: str
    magics: tuple[tuple[int, bytes], ...]

    def fits(self, head: bytes) -> bool:
        """Whether a file with these first bytes is one."""
        return any(head[offset : offset + len(magic)] == magic for offset, magic in self.magics)


FORMATS: Final = (
    DiskFormat("qcow2", ".qcow2", ((0, b"QFI\xfb"),)),
    DiskFormat("vmdk", ".vmdk", ((0, b"KDMV"), (0, b"# Disk DescriptorFile"))),
    DiskFormat("vdi", ".vdi", ((0x40, b"\x7f\x10\xda\xbe"),)),
    DiskFormat("vhdx", ".vhdx", ((0, b"vhdxfile"),)),
)


def format_of(path: str) -> DiskFormat | None:
    """The format of a file; None for devices and for files that are the disk's own bytes.

    A file that is not there, or empty, has the format that its name says: it can become one.

    Raises:
        UsageError: Name and content contradict each other.
    """
    file = Path(path)
    named = next((each for each in FORMATS if file.name.lower().endswith(each.suffix)), None)
    head = _head(file)
    if head is None or (named is None and file.name.lower().endswith(_RAW_SUFFIXES)):
        return None
    found = next((each for each in FORMATS if each.fits(head)), None)
    if named is found or (named and not head):
        return named
    if named is None and found:
        raise UsageError(
            f"{path} begins like a virtual disk of the format {found.name}, but its name does not say so",
            hint=f"If it is one, let its name end with {found.suffix} (a link will do). "
            "If these are the bytes of a disk, let it end with .raw.",
            path=path,
        )
    raise UsageError(
        f"{path} is no virtual disk of the format {named.name if named else ''}, as its name says"
        f"{f', but one of {found.name}' if found else ''}",
        hint="Give it the ending of what it is; .raw for the bytes of a disk.",
        path=path,
    )


def _head(file: Path) -> bytes | None:
    """The first bytes of a regular file, none of one that is missing; None for all else, which others judge."""
    try:
        if not file.exists():
            return b""
        if not file.is_file():
            return None
        with file.open("rb") as opened:
            return opened.read(HEAD_BYTES)
    except OSError:
        return None


def named_files(descriptor: bytes) -> list[str]:
    """The files that a VMDK descriptor names as its content (Virtual Disk Format 5.0, "The Extent Description")."""
    return [name.decode(errors="replace") for name in _EXTENT.findall(descriptor)]
