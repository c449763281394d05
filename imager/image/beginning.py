# SPDX-License-Identifier: GPL-3.0-or-later
"""How images begin, and what a file is that begins otherwise: whoever names the wrong file learns what to do with it.

References:
    RFC 8878 3.1.1 (zstd), RFC 1952 2.3 (gzip), tukaani.org/xz/xz-file-format.txt (xz); UEFI 2.10, 5.2 and 5.3 (MBR
    and GPT); QEMU's docs/interop/qcow2.rst, block/vmdk.c, block/vdi.c and block/vhdx.c; partclone's IMAGE_FORMATS.md;
    ECMA-119 8 (ISO 9660)
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from imager.errors import ImageDamaged, ImageError, ImageIncomplete
from imager.image.format import HEADER_MAGIC, RECORD_MAGIC, SKIPPABLE_HEADER

LOOKED_AT_BYTES: Final = 33 * 1024
"""Enough for the descriptor of an ISO file, which begins farthest inside."""

_UNPACK: Final = "Unpack it with {0} -dc; a raw disk in it is written with imager clone, an image restored."
_CLONE: Final = "imager clone {name} TARGET writes what is in it; imager capture makes an image of it."
_KNOWN: Final = (
    (0, b"\x28\xb5\x2f\xfd", "an ordinary zstd file", _UNPACK.format("zstd")),
    (0, b"\x1f\x8b", "a gzip file", _UNPACK.format("gzip")),
    (0, b"\xfd7zXZ\x00", "an xz file", _UNPACK.format("xz")),
    (0, b"BZh", "a bzip2 file", _UNPACK.format("bzip2")),
    (0, b"QFI\xfb", "a virtual disk (qcow2)", _CLONE),
    (0, b"KDMV", "a virtual disk (vmdk)", _CLONE),
    (0x40, b"\x7f\x10\xda\xbe", "a virtual disk (vdi)", _CLONE),
    (0, b"vhdxfile", "a virtual disk (vhdx)", _CLONE),
    (0, b"partclone-image", "an image of partclone", "partclone.restore writes it onto a partition."),
    (
        0x8001,
        b"CD001",
        "an ISO file",
        "A medium of bootmedia is written to a stick with bootmedia write, others with dd.",
    ),
    (512, b"EFI PART", "a raw disk", _CLONE),
    (4096, b"EFI PART", "a raw disk", _CLONE),
    (510, b"\x55\xaa", "a raw disk", _CLONE),
)
_DEFAULT_HINT: Final = (
    "Is it the right file? If it was an image, its beginning is damaged: imager salvage looks for the header's copy."
)


def begins_as_image(head: bytes) -> bool:
    """Whether the first bytes of a file are those of an image; 16 are enough."""
    magic, name = head[:4], head[SKIPPABLE_HEADER.size :][: len(HEADER_MAGIC)]
    return magic == RECORD_MAGIC.to_bytes(4, "little") and name == HEADER_MAGIC


def is_image(path: Path) -> bool:
    """Whether a file begins as images do.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return begins_as_image(file.read(SKIPPABLE_HEADER.size + len(HEADER_MAGIC)))


def no_image(name: str, head: bytes) -> ImageError:
    """The error for a file that does not begin as images do.

    Args:
        name: Of the file, for messages.
        head: Its beginning, as far as it is known.
    """
    if not head:
        hint = "Look for another copy of it, or, of a stream, at the messages of the program that sends it."
        return ImageIncomplete(f"{name} is empty: no image is in it", hint=hint, path=name)
    for offset, magic, what, hint in _KNOWN:
        if head[offset : offset + len(magic)] == magic:
            return ImageDamaged(f"{name} is {what}, not an image", hint=hint.replace("{name}", name), path=name)
    shown = head[:8].hex(" ")
    return ImageDamaged(f"{name} is not an image: it begins with {shown}", hint=_DEFAULT_HINT, path=name, found=shown)
