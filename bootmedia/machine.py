# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual machine as data: firmware, memory, media and disks, and the words that start it in QEMU.

Nothing is started here; see guest.py. Every machine has a serial line on standard input and output, and no screen.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from bootmedia.errors import ToolMissing
from imager.process import ProgramFailed, run

_OVMF = Path("/usr/share/OVMF")


class Firmware(Enum):
    """What starts the machine."""

    BIOS = "BIOS"
    UEFI = "UEFI"
    SECURE_BOOT = "UEFI with Secure Boot"


class Bus(Enum):
    """What a disk hangs on."""

    VIRTIO = "virtio"
    AHCI = "ahci"
    NVME = "nvme"
    USB = "usb"


@dataclass(frozen=True)
class Disk:
    """A disk in a file."""

    path: Path
    bus: Bus = Bus.VIRTIO
    serial: str = ""
    throw_away: bool = False
    """What the machine writes to it is forgotten."""
    sector_bytes: int = 512


@dataclass(frozen=True)
class DirectBoot:
    """A kernel that the firmware gets from outside: no boot loader, for tests of what comes after it."""

    kernel: Path
    initrd: Path
    options: str


@dataclass(frozen=True)
class Machine:
    """A machine that can be started."""

    firmware: Firmware = Firmware.UEFI
    medium: Path | None = None
    as_stick: bool = False
    """The medium is a USB stick instead of a CD."""
    disks: tuple[Disk, ...] = ()
    memory_mib: int = 1024
    with_network: bool = False
    """User-mode: the machine reaches out, as 10.0.2.2 this one."""
    forwarded_ports: tuple[tuple[int, int], ...] = ()
    """With a network: a port of this machine's loopback, and the guest's port that it leads to."""
    accelerator: str = "tcg"
    screen: str = ""
    """How QEMU shows a screen, as gtk or vnc=127.0.0.1:0; "" for a machine without one."""
    direct_boot: DirectBoot | None = None
    more: tuple[str, ...] = field(default=())
    """Further words for QEMU."""

    def command(self, scratch: Path) -> list[str]:
        """The words that start it; files that it needs and changes are made in the scratch folder.

        Raises:
            ToolMissing: The firmware is not installed.
        """
        return [
            "qemu-system-x86_64",
            *("-accel", self.accelerator),
            # With TCG, other processors have instructions that are slow to emulate and are used because they are there.
            *("-cpu", "qemu64" if self.accelerator == "tcg" else "host"),
            *("-smp", "1", "-m", str(self.memory_mib)),
            *("-nodefaults", "-no-reboot", *self._screen_words(), "-monitor", "none", "-serial", "stdio"),
            *("-device", "virtio-rng-pci"),
            *self._firmware_words(scratch),
            # SeaBIOS speaks on this port only, as long as there is no screen.
            *("-chardev", f"file,id=firmware,path={_escaped(scratch / 'firmware.log')}"),
            *("-device", "isa-debugcon,iobase=0x402,chardev=firmware"),
            *("-device", "qemu-xhci,id=xhci"),
            *self._medium_words(),
            *(word for number, disk in enumerate(self.disks) for word in _disk_words(number, disk)),
            *("-nic", self._network()),
            *self._kernel_words(),
            *self.more,
        ]

    def _screen_words(self) -> Iterator[str]:
        yield from ("-display", self.screen or "none")
        if self.screen:
            yield from ("-device", "VGA", "-device", "qemu-xhci,id=keys", "-device", "usb-kbd,bus=keys.0")

    def _firmware_words(self, scratch: Path) -> Iterator[str]:
        if self.firmware is Firmware.BIOS:
            yield from ("-M", "q35")
            return
        secure = self.firmware is Firmware.SECURE_BOOT
        code, variables = (_OVMF / f"OVMF_{kind}_4M{'.ms' if secure else ''}.fd" for kind in ("CODE", "VARS"))
        if not (code.is_file() and variables.is_file()):
            raise ToolMissing(
                f"the firmware {code} is not installed", hint="On Debian: apt-get install --no-install-recommends ovmf"
            )
        own = scratch / "variables.fd"
        if not own.exists():  # a machine that is started again remembers
            shutil.copy(variables, own)
        if secure:
            yield from ("-M", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on")
        else:
            yield from ("-M", "q35")
        yield from ("-drive", f"if=pflash,format=raw,readonly=on,file={_escaped(code)}")
        yield from ("-drive", f"if=pflash,format=raw,file={_escaped(own)}")

    def _medium_words(self) -> Iterator[str]:
        if self.medium is None:
            return
        yield "-drive"
        yield f"if=none,id=medium,format=raw,readonly=on,file={_escaped(self.medium)}"
        yield "-device"
        first = "" if self.direct_boot else ",bootindex=0"
        yield f"{'usb-storage' if self.as_stick else 'ide-cd'},drive=medium{first}"

    def _network(self) -> str:
        if not self.with_network:
            return "none"
        forwarded = (f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in self.forwarded_ports)
        return f"user,model=virtio-net-pci{''.join(forwarded)}"

    def _kernel_words(self) -> Iterator[str]:
        if self.direct_boot is not None:
            yield from ("-kernel", str(self.direct_boot.kernel), "-initrd", str(self.direct_boot.initrd))
            yield from ("-append", self.direct_boot.options)


def displays() -> list[str]:
    """The ways in which the installed QEMU can show a window; VNC it can always.

    Raises:
        ToolMissing: It is not installed.
    """
    try:
        listed = run(["qemu-system-x86_64", "-display", "help"]).output.decode()
    except ProgramFailed as error:
        raise ToolMissing(
            f"QEMU cannot be asked for its displays: {error.message}",
            hint="On Debian: apt-get install --no-install-recommends qemu-system-x86",
        ) from error
    return listed.splitlines()[1:]


def _disk_words(number: int, disk: Disk) -> Iterator[str]:
    name = f"disk{number}"
    sectors = f"logical_block_size={disk.sector_bytes},physical_block_size={disk.sector_bytes}"
    device = {
        Bus.VIRTIO: "virtio-blk-pci",
        Bus.AHCI: f"ide-hd,bus=ide.{number + 1}",
        Bus.NVME: "nvme",
        Bus.USB: "usb-storage",
    }[disk.bus]
    yield "-drive"
    snapshot = ",snapshot=on" if disk.throw_away else ""
    yield f"if=none,id={name},format=raw,cache=unsafe,discard=unmap{snapshot},file={_escaped(disk.path)}"
    yield "-device"
    # NVMe must have a serial number.
    yield f"{device},drive={name},serial={disk.serial or name},bootindex={number + 1},{sectors}"


def _escaped(path: Path) -> str:
    """A path in an option of QEMU, where a comma ends a value and two are one."""
    return str(path).replace(",", ",,")
