# SPDX-License-Identifier: GPL-3.0-or-later
"""Model, serial number, WWN and transport of a disk: how a person tells it from another.

sysfs is the authority, because it is there without udev and in containers. Where the kernel keeps less than the
drive says (SCSI cuts the model of a SATA drive to 16 characters), the drive's own pages come first, and udev's
database and lsblk fill what is still missing.

References: SPC-4 7.8 (vital product data pages 80h, 83h), SAT-3 12.4.2 (page 89h, ATA Information), ATA8-ACS
7.16 (IDENTIFY DEVICE), JESD84-B51 7.2 (eMMC CID).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imager.devices.sysfs import System, read_bytes, read_text
from imager.layout import Identity
from imager.text import one_line

Properties = Mapping[str, str]
"""What udev knows of a device, by its names."""

_IDENTIFY_OFFSET: Final = 60  # SAT-3, page 89h: IDENTIFY DEVICE data, 512 bytes
_IDENTIFY_BYTES: Final = 512


def identify(path: str | os.PathLike[str], *, system: System | None = None) -> Identity:
    """The identity of a disk, of the disk that a partition is on, or of an image file."""
    machine = system or System()
    name = machine.name_of_path(path)
    if not name:
        transport = "" if machine.is_block_device(path) else "file"
        return Identity(path=one_line(os.fspath(path)), transport=transport)
    return identity_of(machine.disk_of(name), machine, path=os.fspath(path))


def identity_of(
    name: str, system: System, *, path: str = "", udev: Properties | None = None, lsblk: Properties | None = None
) -> Identity:
    """The identity of a disk by the kernel's name; udev and lsblk fill what sysfs does not tell."""
    known, listed = udev or {}, lsblk or {}
    ata = AtaIdentity.of(name, system)
    return Identity(
        path=path or str(system.node(name)),
        model=_first(ata.model, _udev_model(known), _sysfs_model(name, system), listed.get("model", "")),
        serial=_first(
            ata.serial, _sysfs_serial(name, system), known.get("ID_SERIAL_SHORT", ""), listed.get("serial", "")
        ),
        wwn=_first(_sysfs_wwn(name, system), known.get("ID_WWN_WITH_EXTENSION", ""), known.get("ID_WWN", "")),
        transport=transport_of(name, system),
    )


def _first(*candidates: str) -> str:
    return next((cleaned for cleaned in map(_clean, candidates) if cleaned), "")


def _clean(text: str) -> str:
    """One line of printable text: drives pad with blanks, and a hostile one could send terminal codes."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:256]


def _udev_model(udev: Properties) -> str:
    r"""The model with its blanks: ID_MODEL has underscores for them, ID_MODEL_ENC writes them as \x20."""
    encoded = udev.get("ID_MODEL_ENC", "")
    decoded = re.sub(r"\\x([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), encoded)
    return decoded or udev.get("ID_MODEL", "").replace("_", " ")


@dataclass(frozen=True)
class AtaIdentity:
    """What a SATA drive says of itself; empty for other drives."""

    model: str = ""
    serial: str = ""

    @classmethod
    def of(cls, name: str, system: System) -> AtaIdentity:
        """Read it from the page that libata makes of IDENTIFY DEVICE."""
        page = read_bytes(system.block(name) / "device/vpd_pg89")
        words = page[_IDENTIFY_OFFSET : _IDENTIFY_OFFSET + _IDENTIFY_BYTES]
        if len(words) < _IDENTIFY_BYTES:
            return cls()
        return cls(model=_ata_string(words, 27, 46), serial=_ata_string(words, 10, 19))


def _ata_string(words: bytes, first: int, last: int) -> str:
    """ATA strings have the two characters of each word swapped."""
    raw = words[2 * first : 2 * last + 2]
    swapped = b"".join(raw[index + 1 : index + 2] + raw[index : index + 1] for index in range(0, len(raw), 2))
    return _clean(swapped.decode("ascii", "replace"))


def _sysfs_model(name: str, system: System) -> str:
    model = _first(system.text(name, "device", "model"), system.text(name, "device", "name"))
    vendor = _clean(system.text(name, "device", "vendor"))
    if not model and name.startswith("md"):
        return _clean(f"MD {system.text(name, 'md', 'level')}")
    if not model and name.startswith("dm-"):
        return _clean(system.text(name, "dm", "name"))
    # PCI and virtio devices have a number there, and for SATA it only says ATA.
    is_word = vendor and not vendor.startswith("0x") and vendor != "ATA" and not model.startswith(vendor)
    return f"{vendor} {model}" if is_word and model else model


def _sysfs_serial(name: str, system: System) -> str:
    page = read_bytes(system.block(name) / "device/vpd_pg80")
    return _first(
        system.text(name, "device", "serial"),  # NVMe and eMMC
        system.text(name, "serial"),  # virtio
        page[4:].decode("ascii", "replace"),  # after PAGE CODE and PAGE LENGTH
        _usb_attribute(name, system, "serial"),
        system.text(name, "md", "uuid"),
    )


def _sysfs_wwn(name: str, system: System) -> str:
    """The name as lsblk shows it: 0x5000..., eui.0025..., uuid....; vendor-made names (t10, nvme) are no WWN."""
    wwid = _first(system.text(name, "wwid"), system.text(name, "device", "wwid"))
    if wwid.startswith("naa."):
        return "0x" + wwid.removeprefix("naa.").lower()
    return wwid if wwid.startswith(("eui.", "uuid.")) else ""


def _usb_attribute(name: str, system: System, attribute: str) -> str:
    """An attribute of the USB device that a disk hangs on; the folders above it belong to hubs."""
    for folder in _ancestors(name, system):
        if (folder / "idVendor").exists():
            return read_text(folder / attribute)
    return ""


def _ancestors(name: str, system: System) -> list[Path]:
    """The folders of the devices above a disk, nearest first."""
    top = (system.root / "sys/devices").resolve()
    place = system.block(name).resolve()
    return [folder for folder in place.parents if folder.is_relative_to(top) and folder != top]


_BY_NAME: Final = (
    ("loop", "loop"),
    ("md", "md"),
    ("nbd", "nbd"),
    ("rbd", "rbd"),
    ("pmem", "pmem"),
    ("bcache", "bcache"),
    ("mmcblk", "mmc"),
    ("xvd", "xen"),
)
_BY_PLACE: Final = (
    (r"/usb\d+/", "usb"),
    (r"/virtio\d+/", "virtio"),
    (r"/session\d+/", "iscsi"),
    (r"/rport-\d", "fc"),
    (r"/end_device-\d", "sas"),
    (r"/ata\d+/", "sata"),
    (r"/fw\d+", "firewire"),
    (r"/vmbus|/VMBUS", "hyperv"),
    (r"/host\d+/", "scsi"),
)
"""Parts of the path in /sys/devices; a USB bridge has a SCSI host behind it, so the order matters."""


def transport_of(name: str, system: System) -> str:
    """How the disk is connected, in lsblk's words where it has one; "" when that is not known."""
    if name.startswith("nvme"):
        kind = system.text(name, "device", "transport")
        return "nvme" if kind in ("", "pcie") else f"nvme-{kind}"
    if name.startswith("dm-"):
        return "multipath" if system.text(name, "dm", "uuid").startswith("mpath-") else "dm"
    by_name = next((transport for prefix, transport in _BY_NAME if name.startswith(prefix)), "")
    place = str(system.block(name).resolve())
    return by_name or next((transport for part, transport in _BY_PLACE if re.search(part, place)), "")
