# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage drivers of a Windows: which are started with it, and which this machine needs.

A Windows brings drivers for most controllers along, but starts only those that it needed where it was installed: the
others have Start=3 (when asked for), and since Windows 8 a key StartOverride that says so as well. On another
controller it ends at once, with INACCESSIBLE_BOOT_DEVICE. A driver is started when its service has Start=0 and no such
key; one whose file is missing is left alone, as Windows would not start with it at all.

What Windows does not bring along (virtio) must be known to it by the number of the device. Before Windows 8 that was
the key CriticalDeviceDatabase, since then it is DriverDatabase, in which an .inf file's content is kept as keys. What
is put there is enough for the start. The rest is for Windows to do, with the drivers' own set-up.

References:
    Microsoft KB922976, KB2751461: msahci, iaStorV, storahci; Start and StartOverride.
    virt-v2v, mlcustomize/inject_virtio_win.ml: what of DriverDatabase Windows 8 and later need to start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from imager.booting.drivers import Device
from imager.booting.windows.edits import Edit, RemoveKey, SetValue, number, text, texts
from imager.booting.windows.installed import Installation
from imager.booting.windows.registry import REG_BINARY, REG_EXPAND_SZ, REG_MULTI_SZ, REG_SZ, Hive, Key, Value

_BOOT_START: Final = 0
_KERNEL_DRIVER: Final = 1
_ALWAYS: Final = ("storahci", "stornvme", "msahci", "pciide", "intelide", "atapi", "viostor", "vioscsi", "pvscsi")
"""What common controllers need; the next machine may be another one. A driver without its device does nothing."""
_FOR_LINUX: Final = {
    "ahci": ("storahci", "msahci"),
    "nvme": ("stornvme",),
    "vmd": ("iaStorVD", "vmd"),
    "ata_piix": ("intelide", "pciide"),
    "virtio_blk": ("viostor",),
    "virtio_scsi": ("vioscsi",),
    "vmw_pvscsi": ("pvscsi",),
    "hv_storvsc": ("storvsc",),
    "mptspi": ("LSI_SCSI",),
    "mptsas": ("LSI_SAS",),
    "mpt3sas": ("LSI_SAS2i", "LSI_SAS3i"),
    "megaraid_sas": ("megasas", "megasas2i", "megasas35i"),
}
"""The services that drive what a driver of Linux drives; one of them is enough."""
_INTEL_RAID: Final = ("iaStorV", "iaStorA", "iaStorAC", "iaStorAVC")
"""Linux drives a RAID controller of Intel's chipsets as if it were AHCI; by its class, Windows does not."""
_RAID_CLASS: Final = "bc01sc04"
_NOT_CONTROLLERS: Final = ("sd", "pcieport", "virtio-pci", "virtio_pci", "hv_vmbus", "hv_pci", "shpchp", "sr")
_PCI_IDS: Final = {
    "viostor": ("VEN_1AF4&DEV_1001&REV_00", "VEN_1AF4&DEV_1042&REV_01"),
    "vioscsi": ("VEN_1AF4&DEV_1004&REV_00", "VEN_1AF4&DEV_1048&REV_01"),
    "pvscsi": ("VEN_15AD&DEV_07C0",),
}
ADDED: Final = tuple(_PCI_IDS)
"""What can be put into a Windows from files."""
_IDE_CLASS: Final = "{4D36E96A-E325-11CE-BFC1-08002BE10318}"
_SCSI_CLASS: Final = "{4D36E97B-E325-11CE-BFC1-08002BE10318}"
_SCSI_CLASS_BYTES: Final = bytes.fromhex("7be9364d25e3ce11bfc108002be10318")
_PROCESSORS: Final = {"x86": 0, "amd64": 9, "arm64": 12}  # PROCESSOR_ARCHITECTURE_*, winnt.h
_CRITICAL: Final = "Control\\CriticalDeviceDatabase"
_DATABASE: Final = "DriverDatabase"
_CONFIGURATION: Final = "imager_conf"


@dataclass(frozen=True)
class Storage:
    """What is to be done with the drivers.

    Attributes:
        edits: What is changed, each with its words for the plan.
        added: Drivers that are put in.
        missing: What this machine needs and the Windows has not.
        notes: What else a person should know.
    """

    edits: tuple[tuple[str, tuple[Edit, ...]], ...] = ()
    added: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plan_storage(
    hive: Hive, installation: Installation, devices: Sequence[Device], available: Sequence[str] = ()
) -> Storage:
    """Which drivers are enabled and which are put in.

    Args:
        hive: SYSTEM.
        installation: The Windows.
        devices: What its disk hangs on, on this machine.
        available: Names of drivers of which there is a file for this Windows.

    Raises:
        HiveDamaged: The registry cannot be read.
    """
    services = {name: hive.key(f"{name}\\Services") for name in installation.control_sets}
    edits: list[tuple[str, tuple[Edit, ...]]] = []
    enabled = set()
    for service in dict.fromkeys((*_ALWAYS, *(each for device in devices for each in _wanted(device)))):
        if service in available:
            continue
        changes = tuple(_enabling(services, service, installation))
        if changes:
            edits.append((f"start the driver {service} with Windows", changes))
        if changes or _is_enabled(services, service, installation):
            enabled.add(service)
    if hive.key(_DATABASE) is None and "msahci" in enabled:
        edits += _old_ahci(hive, installation)
    for service in available:
        edits.append(
            (f"put in the driver {service} and start it with Windows", tuple(_adding(hive, installation, service)))
        )
    lacking, notes = _judged(devices, enabled | set(available))
    return Storage(tuple(edits), tuple(available), lacking, notes)


def _has_file(key: Key, service: str, installation: Installation) -> bool:
    """Whether the file of a service lies in the folder of drivers; other folders are not looked for."""
    path = key.value("ImagePath")
    name = path.text.replace("/", "\\").rsplit("\\", 1)[-1] if path else f"{service}.sys"
    return name.lower() in installation.drivers


def _enabling(services: dict[str, Key | None], service: str, installation: Installation) -> Iterator[Edit]:
    for control_set, all_of_them in services.items():
        key = all_of_them.subkey(service) if all_of_them else None
        if key is None or not _has_file(key, service, installation):
            continue
        path = f"{control_set}\\Services\\{key.name}"
        start = key.value("Start")
        if start is None or start.number != _BOOT_START:
            yield SetValue(path, number("Start", _BOOT_START))
        override = key.subkey("StartOverride")
        if override is not None:
            yield RemoveKey(f"{path}\\{override.name}")


def _is_enabled(services: dict[str, Key | None], service: str, installation: Installation) -> bool:
    keys = [key.subkey(service) for key in services.values() if key]
    return any(key is not None and _has_file(key, service, installation) for key in keys)


def _old_ahci(hive: Hive, installation: Installation) -> Iterator[tuple[str, tuple[Edit, ...]]]:
    """Before Windows 8 a controller is looked up by its class, which is there only if there was one at the set-up."""
    for control_set in installation.control_sets:
        path = f"{control_set}\\{_CRITICAL}\\pci#cc_0106"
        if hive.key(f"{control_set}\\Services\\msahci") is not None and hive.key(path) is None:
            edits = (
                SetValue(path, text("ClassGUID", REG_SZ, _IDE_CLASS)),
                SetValue(path, text("Service", REG_SZ, "msahci")),
            )
            yield f"let msahci drive AHCI controllers ({control_set})", edits


def _adding(hive: Hive, installation: Installation, service: str) -> Iterator[Edit]:
    has_database = hive.key(_DATABASE) is not None
    for control_set in installation.control_sets:
        path = f"{control_set}\\Services\\{service}"
        yield SetValue(path, number("Type", _KERNEL_DRIVER))
        yield SetValue(path, number("Start", _BOOT_START))
        yield SetValue(path, number("ErrorControl", 1))
        yield SetValue(path, text("Group", REG_SZ, "SCSI miniport"))
        yield SetValue(path, text("ImagePath", REG_EXPAND_SZ, f"System32\\drivers\\{service}.sys"))
        yield RemoveKey(f"{path}\\StartOverride")
        for device in () if has_database else _PCI_IDS[service]:
            critical = f"{control_set}\\{_CRITICAL}\\PCI#{device}"
            yield SetValue(critical, text("ClassGUID", REG_SZ, _SCSI_CLASS))
            yield SetValue(critical, text("Service", REG_SZ, service))
    if has_database:
        yield from _in_database(service, installation)


def _in_database(service: str, installation: Installation) -> Iterator[Edit]:
    inf = f"imager_{service}.inf"
    package = f"{inf}_boot"
    listed, packaged = f"{_DATABASE}\\DriverInfFiles\\{inf}", f"{_DATABASE}\\DriverPackages\\{package}"
    yield SetValue(listed, texts("", REG_MULTI_SZ, [package]))
    yield SetValue(listed, text("Active", REG_SZ, package))
    yield SetValue(listed, texts("Configurations", REG_MULTI_SZ, [_CONFIGURATION]))
    yield SetValue(packaged, Value("Version", REG_BINARY, _version(installation)))
    settings = f"{packaged}\\Configurations\\{_CONFIGURATION}"
    yield SetValue(settings, number("ConfigFlags", 0))
    yield SetValue(settings, text("Service", REG_SZ, service))
    for device in _PCI_IDS[service]:
        yield SetValue(f"{_DATABASE}\\DeviceIds\\PCI\\{device}", Value(inf, REG_BINARY, b"\x01\xff\0\0"))
        yield SetValue(f"{packaged}\\Descriptors\\PCI\\{device}", text("Configuration", REG_SZ, _CONFIGURATION))


def _version(installation: Installation) -> bytes:
    """Of a package: processor, class of devices; then date and number, which nothing compares with."""
    processor = _PROCESSORS.get(installation.processor, _PROCESSORS["amd64"])
    return bytes((0, 0xFF, processor, 0, 0, 0, 0, 0)) + _SCSI_CLASS_BYTES + bytes(24)


def _judged(devices: Sequence[Device], enabled: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the disk's controller needs and is not there, and what nobody can tell."""
    lacking, notes = [], []
    controllers = [device for device in devices if device.driver not in _NOT_CONTROLLERS]
    known = [device for device in controllers if _wanted(device)]
    for device in known:
        wanted = _wanted(device)
        if not enabled & set(wanted):
            needed = f"it has no driver for this disk's controller ({device.driver}): it needs {' or '.join(wanted)}"
            lacking.append(f"{needed}. {_way_out(wanted)}")
    if controllers and not known:
        names = ", ".join(dict.fromkeys(device.driver for device in controllers))
        notes.append(f"which driver of Windows this disk's controller needs is not known here ({names})")
    return tuple(lacking), tuple(notes)


def _wanted(device: Device) -> tuple[str, ...]:
    """The services of which any drives a device; none when that is not known."""
    if device.driver == "ahci" and _RAID_CLASS in device.alias:
        return _INTEL_RAID
    return _FOR_LINUX.get(device.driver, ())


def _way_out(wanted: Sequence[str]) -> str:
    if set(wanted) & set(ADDED):
        return "Give a folder that has it: --windows-drivers FOLDER (for virtio, the files of virtio-win)"
    return "Attach the disk to a controller of another kind, such as AHCI"
