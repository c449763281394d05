# SPDX-License-Identifier: GPL-3.0-or-later
"""The firmware that started this machine: BIOS or UEFI, and the boot entries that UEFI keeps.

Reads only, from the files in which the kernel shows the firmware's variables.

References:
    Linux, Documentation/filesystems/efivarfs.rst: a file is NAME-GUID, 4 bytes of attributes, then the content.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imager.booting.load_option import MOST_BYTES, LoadOption, parse_boot_order, parse_load_option
from imager.booting.utf16 import Malformed
from imager.devices.sysfs import read_text

GLOBAL: Final = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""EFI_GLOBAL_VARIABLE."""
_ATTRIBUTES_BYTES: Final = 4
_ENTRY: Final = re.compile(rf"Boot([0-9A-F]{{4}})-{GLOBAL}", re.IGNORECASE)


@dataclass(frozen=True)
class Firmware:
    """What started this machine.

    Attributes:
        is_uefi: Whether it was UEFI.
        bits: Of UEFI: 64, or 32 on some tablets and the first Intel Macs.
        can_write: Whether its variables are shown and can be changed.
        has_secure_boot: Whether it starts only what is signed.
        entries: The boot entries, by number; those that cannot be understood are left out.
        order: In which they are tried.
        not_understood: Numbers of entries that cannot be understood; they are never touched.
    """

    is_uefi: bool
    bits: int = 64
    can_write: bool = False
    has_secure_boot: bool = False
    entries: dict[int, LoadOption] = field(default_factory=dict)
    order: tuple[int, ...] = ()
    not_understood: tuple[int, ...] = ()

    @property
    def architecture(self) -> str:
        """How UEFI calls the processor in file names (UEFI Specification 2.10, 3.5.1.1)."""
        if self.bits == 32:
            return "ia32"
        return {"aarch64": "aa64", "riscv64": "riscv64"}.get(platform.machine(), "x64")

    @property
    def words(self) -> str:
        """The kind of firmware, for messages."""
        return ("UEFI with Secure Boot" if self.has_secure_boot else "UEFI") if self.is_uefi else "BIOS"


def read_firmware(root: Path = Path("/")) -> Firmware:
    """What started this machine.

    Args:
        root: Where sys is, so that a recorded machine can stand in for the real one.
    """
    place = root / "sys/firmware/efi"
    if not place.is_dir():
        return Firmware(is_uefi=False)
    variables = place / "efivars"
    bits = 32 if read_text(place / "fw_platform_size") == "32" else 64
    try:
        names = sorted(entry.name for entry in variables.iterdir())
    except OSError:
        names = []
    entries, odd = _entries(variables, names)
    return Firmware(
        is_uefi=True,
        bits=bits,
        can_write=bool(names) and os.access(variables, os.W_OK),
        has_secure_boot=_content(variables / f"SecureBoot-{GLOBAL}") == b"\x01",
        entries=entries,
        order=_order(variables),
        not_understood=odd,
    )


def _entries(variables: Path, names: list[str]) -> tuple[dict[int, LoadOption], tuple[int, ...]]:
    entries: dict[int, LoadOption] = {}
    odd: list[int] = []
    for match in filter(None, map(_ENTRY.fullmatch, names)):
        number = int(match[1], 16)
        try:
            entries[number] = parse_load_option(_content(variables / match[0]))
        except Malformed:
            odd.append(number)
    return entries, tuple(odd)


def _order(variables: Path) -> tuple[int, ...]:
    try:
        return parse_boot_order(_content(variables / f"BootOrder-{GLOBAL}"))
    except Malformed:
        return ()


def _content(file: Path) -> bytes:
    """The content of a variable; empty when there is none or it cannot be read."""
    try:
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES + _ATTRIBUTES_BYTES + 1)[_ATTRIBUTES_BYTES:]
    except OSError:
        return b""
