# SPDX-License-Identifier: GPL-3.0-or-later
"""The drivers that this machine needs to reach a disk, and whether the kernels of a restored system have them.

A disk hangs on a chain of devices: SCSI disk, controller, PCI bridge. Each says in sysfs by which alias a driver
is found for it, and whether one is at work. The same aliases are looked up in the lists that depmod made for the
restored kernels, so names of modules may differ between kernels.

References:
    modprobe.d(5), depmod(8): modules.alias, modules.builtin.modinfo.
    Linux, Documentation/ABI/testing: sysfs-bus-pci and its like, modalias.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from imager.booting.installed import modules_folder
from imager.booting.tree import Tree
from imager.devices.sysfs import System, read_text

_FIXED_PART: Final = re.compile(r"[^*?\[]*")
"""Of a pattern: most of the twenty thousand are told apart by it, at no cost."""
_MOST_STEPS: Final = 32
_NOT_STORAGE: Final = ("acpi:", "dmi:", "cpu:", "wmi:")


@dataclass(frozen=True)
class Device:
    """A device between the processor and a disk.

    Attributes:
        alias: By which its driver is found.
        driver: What drives it on this machine, for people.
    """

    alias: str
    driver: str


@dataclass(frozen=True)
class Need:
    """What one restored kernel needs for one device.

    Attributes:
        device: The device.
        modules: Any of them drives it; empty when the driver is a part of the kernel.
        is_known: Whether the kernel has a driver at all.
    """

    device: Device
    modules: tuple[str, ...]
    is_known: bool


def chain_of(disk: str, system: System | None = None) -> tuple[Device, ...]:
    """The devices that a disk hangs on and that have a driver here, the nearest first.

    Args:
        disk: Its path.
        system: A recorded machine instead of this one.
    """
    machine = system or System()
    name = machine.name_of_path(disk)
    if not name:
        return ()
    top = (machine.root / "sys/devices").resolve()
    place = machine.block(machine.disk_of(name)).resolve()
    found: list[Device] = []
    for _ in range(_MOST_STEPS):
        if place == top or top not in place.parents:
            break
        alias, driver = read_text(place / "modalias"), place / "driver"
        if alias and driver.exists() and not alias.startswith(_NOT_STORAGE):
            found.append(Device(alias, driver.resolve().name))
        place = place.parent
    return tuple(dict.fromkeys(found))


def needs(tree: Tree, kernel: str, devices: Iterable[Device]) -> tuple[Need, ...]:
    """What a kernel of a restored system has for the devices.

    Args:
        tree: The system.
        kernel: The kernel's version.
        devices: What the disks hang on.
    """
    folder = f"{modules_folder(tree)}/{kernel}"
    patterns = re.findall(r"^alias (\S+) (\S+)$", tree.text(f"{folder}/modules.alias"), re.MULTILINE)
    builtin = re.findall(r"([^\0.]+)\.alias=([^\0]+)", tree.text(f"{folder}/modules.builtin.modinfo"))
    # Of what is built in, many kernels list no aliases of devices: Debian 13 has virtio_pci so. There the name must do.
    names = module_names(tree.text(f"{folder}/modules.builtin"))
    found = []
    for device in devices:
        modules = tuple(dict.fromkeys(name for pattern, name in patterns if _matches(device.alias, pattern)))
        is_builtin = any(_matches(device.alias, pattern) for _, pattern in builtin)
        is_builtin = is_builtin or (not modules and device.driver.replace("-", "_") in names)
        found.append(Need(device, () if is_builtin else modules, is_builtin or bool(modules)))
    return tuple(found)


def _matches(alias: str, pattern: str) -> bool:
    fixed = _FIXED_PART.match(pattern)
    return alias.startswith(fixed[0] if fixed else "") and fnmatch.fnmatchcase(alias, pattern)


def module_names(listing: str) -> set[str]:
    """The modules among the files of an initramfs; blanks and other columns may stand before the paths."""
    return {name.replace("-", "_") for name in re.findall(r"([\w-]+)\.ko(?:\.\w+)?(?:\s|$)", listing)}


def missing_names(listing: str, wanted: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Which drivers an initramfs lacks.

    Args:
        listing: Names of its files, one a line.
        wanted: Names of modules; one of each group is enough.
    """
    there = module_names(listing)
    lacking = [names for names in wanted if not {name.replace("-", "_") for name in names} & there]
    return tuple(dict.fromkeys(" or ".join(names[:3]) for names in lacking))
