# SPDX-License-Identifier: GPL-3.0-or-later
"""What a disk hides from whoever reads it from its first to its last byte.

Host protected areas, locked drives, eMMC boot partitions, other namespaces, drives behind a RAID controller. Where
the system does not tell, that is said as well: an unknown is not a no.

References: ATA8-ACS 4.9 (HPA) and 4.4 (DCO), TCG Storage Opal SSC 2.01 (locking, shadow MBR), JESD84-B51 6.3.2
(eMMC boot areas), Documentation/ABI/testing/sysfs-block-zoned, drivers/ata/ahci.c (remapped_nvme).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from imager import process
from imager.devices import ioctls
from imager.devices.identity import transport_of
from imager.devices.sysfs import System, listing, natural, read_text

_PCI_CLASS_RAID: Final = "0x0104"  # PCI Code and ID Assignment 1.11: mass storage, RAID controller
_PCI_VENDOR_INTEL: Final = "0x8086"
_HDPARM_SECONDS: Final = 15


@dataclass(frozen=True)
class Hidden:
    """What is known of hidden content, as sentences."""

    warnings: tuple[str, ...] = ()
    """Content that a capture of this disk will not have."""
    unknowns: tuple[str, ...] = ()
    """What could not be found out, and why."""

    def __add__(self, other: Hidden) -> Hidden:
        return Hidden(self.warnings + other.warnings, self.unknowns + other.unknowns)


def hidden_content(name: str, system: System, *, ask_drive: bool = True) -> Hidden:
    """What the disk of that kernel name hides.

    Args:
        name: A disk, not a partition.
        system: The machine.
        ask_drive: Also send commands to the drive that only report; needs root.
    """
    found = Hidden((*_boot_areas(name, system), *_namespaces(name, system), *_zones(name, system)))
    transport = transport_of(name, system)
    if not (ask_drive and system.is_real):
        return found
    if transport == "sata":
        found += _protected_areas(str(system.node(name)))
    return found + _locking(name, system) if transport in ("sata", "nvme") else found


def _boot_areas(name: str, system: System) -> Iterator[str]:
    """The eMMC boot and general purpose areas are disks of their own beside the user area."""
    if not re.fullmatch(r"mmcblk\d+", name):
        return
    areas = [other for other in system.disk_names() if re.fullmatch(rf"{name}(boot|gp)\d+", other)]
    if areas:
        places = " and ".join(str(system.node(area)) for area in areas)
        yield f"this eMMC has further areas that are not part of the disk: {places}; the machine may boot from them"
    if name + "rpmb" in listing(system.root / "dev"):
        yield "this eMMC has a replay-protected area (RPMB), which can be read and restored by its owner only"


def _namespaces(name: str, system: System) -> Iterator[str]:
    """Namespaces of one NVMe controller are disks of their own."""
    found = re.fullmatch(r"(nvme\d+)n\d+", name)
    if not found:
        return
    others = [
        other
        for other in system.disk_names()
        if re.fullmatch(rf"{found[1]}n\d+", other) and other != name and not system.number(other, "hidden")
    ]
    if others:
        places = " and ".join(str(system.node(other)) for other in sorted(others, key=natural))
        yield f"this NVMe drive has further namespaces, which are disks of their own: {places}"


def _zones(name: str, system: System) -> Iterator[str]:
    if system.text(name, "queue", "zoned") == "host-managed":
        yield "this is a host-managed zoned disk: it can be read, but not restored to in place"


def _protected_areas(node: str) -> Hidden:
    if process.find_program("hdparm") is None:
        return Hidden(
            unknowns=("whether an HPA or DCO hides the end of the disk cannot be told: hdparm is not installed",)
        )
    said_of_hpa = _hdparm("-N", node)
    return read_hpa(said_of_hpa) + read_dco(_hdparm("--dco-identify", node), said_of_hpa)


def _hdparm(option: str, node: str) -> str:
    """What hdparm says; it ends with an error when a drive or its controller does not take the command."""
    try:
        done = process.run(["hdparm", option, node], timeout_seconds=_HDPARM_SECONDS, allowed=range(256))
    except process.ProgramFailed:
        return ""
    return done.output.decode(errors="replace")


def read_hpa(said: str) -> Hidden:
    """The host protected area by the words of `hdparm -N`: "max sectors = 1000/2000, HPA is enabled"."""
    found = re.search(r"max sectors\s*=\s*(\d+)/(\d+)", said)
    if not found or "invalid" in said:
        return Hidden(unknowns=("whether an HPA hides the end of the disk cannot be told: the drive does not say",))
    visible, native = int(found[1]), int(found[2])
    if native <= visible:
        return Hidden()
    return Hidden((f"a host protected area (HPA) hides the last {native - visible} sectors of this disk",))


def read_dco(said: str, said_of_hpa: str) -> Hidden:
    """The device configuration overlay by the words of `hdparm --dco-identify`: "Real max sectors: 2000"."""
    real = re.search(r"Real max sectors:\s*(\d+)", said)
    native = re.search(r"max sectors\s*=\s*\d+/(\d+)", said_of_hpa)
    if not real or not native:
        return Hidden(unknowns=("whether a DCO hides the end of the disk cannot be told: the drive does not say",))
    hidden = int(real[1]) - int(native[1])
    if hidden <= 0:
        return Hidden()
    return Hidden((f"a device configuration overlay (DCO) hides the last {hidden} sectors of this disk",))


def _locking(name: str, system: System) -> Hidden:
    try:
        fd = os.open(system.node(name), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return Hidden(unknowns=(f"whether the drive is locked cannot be told: {error.strerror}",))
    try:
        return read_opal(ioctls.opal_flags(fd))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # block/sed-opal.c: the drive has no such feature
            return Hidden()
        return Hidden(unknowns=("whether the drive is locked (OPAL) cannot be told: the kernel does not say",))
    finally:
        os.close(fd)


def read_opal(flags: int) -> Hidden:
    """The state of a self-encrypting drive by the kernel's OPAL_FL_* bits."""
    if not flags & ioctls.OPAL_FL_SUPPORTED:
        return Hidden()
    warnings = []
    if flags & ioctls.OPAL_FL_LOCKED:
        warnings.append("this self-encrypting drive (OPAL) is locked: unlock it first, or reads fail or give zeros")
    if flags & ioctls.OPAL_FL_MBR_ENABLED and not flags & ioctls.OPAL_FL_MBR_DONE:
        warnings.append("this self-encrypting drive (OPAL) shows its shadow MBR in place of the start of the disk")
    return Hidden(tuple(warnings))


def hidden_disks(system: System | None = None) -> tuple[str, ...]:
    """Sentences about whole disks that this machine has and the kernel cannot see."""
    machine = system or System()
    devices = machine.root / "sys/bus/pci/devices"
    found: list[str] = []
    for address in listing(devices):
        remapped = read_text(devices / address / "remapped_nvme")
        if remapped.isdecimal() and int(remapped):
            found.append(
                f"{remapped} NVMe drive(s) are hidden behind the SATA controller at {address}: switch the firmware "
                "from RAID (Intel RST) to AHCI to see them"
            )
        elif _is_undriven_raid(machine, address):
            found.append(
                f"the RAID controller at {address} has no driver: disks behind it cannot be seen; for an Intel RST "
                "or VMD controller switch the firmware to AHCI"
            )
    return tuple(found)


def _is_undriven_raid(system: System, address: str) -> bool:
    folder = system.root / "sys/bus/pci/devices" / address
    is_raid = read_text(folder / "class").startswith(_PCI_CLASS_RAID)
    is_intel = read_text(folder / "vendor") == _PCI_VENDOR_INTEL
    return is_raid and is_intel and not (folder / "driver").exists()
