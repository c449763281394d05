# SPDX-License-Identifier: GPL-3.0-or-later
"""What this machine is, as a person would put it into [match], and which disks it has.

References: DMTF DSP0134 (SMBIOS) 7.2 and 7.3, as /sys/class/dmi/id shows them (ABI/testing/sysfs-firmware-dmi-tables);
ABI/testing/sysfs-class-net; the Devicetree Specification 2.3 for machines without SMBIOS.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bootmedia.recovery.answers import Match, plain_mac, words
from bootmedia.recovery.choose import Candidate
from imager.devices.beneath import beneath, running_system_disks
from imager.devices.inventory import DiskInfo, list_disks
from imager.devices.sysfs import System, listing, read_text

MEDIUM: Final = Path("/run/bootmedia/medium")
"""Where the initrd of our media mounts what the machine was started from."""
_PLACEHOLDERS: Final = re.compile(
    r"0+|1234567890?|x+|-+|\.+|none|n/?a|null|unknown|invalid|default( string)?|empty|oem|to be filled by.*|not .*"
    r"|no asset.*|(system|base ?board|chassis|product)?[ -]?(serial ?(number|num)?|product name|manufacturer|version)"
    r"|system manufacturer|system product name|undefined",
    re.IGNORECASE,
)
"""What firmware says when nobody has filled in its fields: the same on every such machine."""
_ETHERNET: Final = "1"  # ARPHRD_ETHER, include/uapi/linux/if_arp.h


@dataclass(frozen=True)
class MachineFacts:
    """What tells one machine from another."""

    serials: tuple[str, ...] = ()
    """Of the machine, its chassis and its board; without what only stands in for a number."""
    macs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    """The same model in the ways that it can be named."""
    boot_mac: str = ""
    """Of the interface that the machine was started over, when its firmware said so."""

    def as_dict(self) -> dict[str, Any]:
        """The facts for JSON."""
        return {"serial": list(self.serials), "mac": list(self.macs), "model": list(self.models)}

    def lines(self) -> list[str]:
        """The facts as they would stand in recovery.toml."""
        rows = (("serial", self.serials), ("mac", self.macs), ("model", self.models))
        return ["[match]", *(f"{key} = {_toml(found)}" if found else f"# {key}: none" for key, found in rows)]

    def values(self) -> dict[str, tuple[str, ...]]:
        """What {serial}, {mac} and {model} stand for."""
        macs = (self.boot_mac,) if self.boot_mac else self.macs
        return {"serial": self.serials[:1], "mac": macs, "model": self.models[:1]}


def _toml(found: tuple[str, ...]) -> str:
    quoted = ['"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in found]
    return quoted[0] if len(quoted) == 1 else f"[{', '.join(quoted)}]"


def machine_facts(system: System | None = None) -> MachineFacts:
    """What this machine is."""
    root = (system or System()).root
    dmi, tree = root / "sys/class/dmi/id", root / "sys/firmware/devicetree/base"
    serials = [
        *(read_text(dmi / name) for name in ("product_serial", "chassis_serial", "board_serial")),
        read_text(tree / "serial-number"),
    ]
    booted = re.search(r"(?:^|\s)BOOTIF=01-([0-9a-fA-F-]{17})(?:\s|$)", read_text(root / "proc/cmdline"))
    return MachineFacts(
        serials=_usable(serials),
        macs=tuple(_macs(root / "sys/class/net")),
        models=_usable(_models(dmi, tree)),
        boot_mac=plain_mac(booted[1]) if booted else "",
    )


def _models(dmi: Path, tree: Path) -> Iterator[str]:
    vendor, product = read_text(dmi / "sys_vendor"), read_text(dmi / "product_name")
    if product and not _PLACEHOLDERS.fullmatch(product):
        yield f"{vendor} {product}".strip()
        yield product
        yield read_text(dmi / "product_version")  # where Lenovo has the name on the lid
    yield read_text(tree / "model")


def _usable(found: Iterator[str] | list[str]) -> tuple[str, ...]:
    cleaned = (" ".join("".join(c if c.isprintable() else " " for c in text).split())[:256] for text in found)
    return tuple(dict.fromkeys(text for text in cleaned if text and not _PLACEHOLDERS.fullmatch(text)))


def _macs(folder: Path) -> Iterator[str]:
    """Addresses of network cards: not of bridges, tunnels and what else has no device behind it."""
    seen = set()
    for name in listing(folder):
        mac = plain_mac(read_text(folder / name / "address"))
        is_card = (folder / name / "device").exists() and read_text(folder / name / "type") == _ETHERNET
        if is_card and mac not in ("", "00:00:00:00:00:00") and mac not in seen:
            seen.add(mac)
            yield mac


def mismatch(match: Match, facts: MachineFacts) -> str:
    """Why the file is not for this machine, as a sentence; "" when it is."""
    if match.any:
        return ""
    if match.serial and not _one_of(words(match.serial), facts.serials):
        return _differs("serial number", words(match.serial), facts.serials)
    macs = tuple(map(plain_mac, words(match.mac)))
    if macs and not _one_of(macs, facts.macs):
        return _differs("MAC address", macs, facts.macs)
    if match.model and not any(_fits(pattern, model) for pattern in words(match.model) for model in facts.models):
        return _differs("model", words(match.model), facts.models)
    return ""


def _one_of(wanted: tuple[str, ...], found: tuple[str, ...]) -> bool:
    return bool({text.strip().casefold() for text in wanted} & {text.casefold() for text in found})


def _fits(pattern: str, model: str) -> bool:
    return fnmatch.fnmatchcase(model.casefold(), pattern.strip().casefold())


def _differs(what: str, wanted: tuple[str, ...], found: tuple[str, ...]) -> str:
    shown = ", ".join(wanted[:3]) + (f" and {len(wanted) - 3} more" if len(wanted) > 3 else "")
    return f"it is for the {what} {shown}; this machine has {', '.join(found) or 'none that can be read'}"


# --- Disks --------------------------------------------------------------------------------------------------------


def candidates(images: dict[str, str], system: System | None = None) -> tuple[Candidate, ...]:
    """Every disk of the machine, with why it must not be written.

    Args:
        images: What must not be overwritten, by its path: how messages call it.
        system: A recorded machine instead of this one.
    """
    machine = system or System()
    system_disks = running_system_disks(system=machine)
    kept = _held_names(images, machine)
    aliases = _aliases(machine)
    return tuple(
        _candidate(disk, "holds the running system" if disk.path in system_disks else kept.get(disk.name, ""), aliases)
        for disk in list_disks(ask_drives=False, system=machine)
        if not _is_path_of_multipath(disk.name, machine)
    )


def _held_names(images: dict[str, str], system: System) -> dict[str, str]:
    """Why each device that something lies on must stay as it is, by the kernel's names."""
    held: dict[str, str] = {}
    for path, what in ({str(MEDIUM): "the medium that this machine was started from"} | images).items():
        if (system.root / path.lstrip("/")).exists():
            held |= {name: f"holds {what}" for name in beneath(path, system=system).names if name not in held}
    return held


def _candidate(disk: DiskInfo, kept: str, aliases: dict[str, frozenset[str]]) -> Candidate:
    obstacle = "is read-only" if disk.is_read_only else "; ".join(map(str, disk.uses[:2]))
    identity = disk.identity
    return Candidate(
        path=disk.path,
        names=aliases.get(disk.name, frozenset()) | {disk.path, f"/dev/{disk.name}"},
        model=identity.model,
        serial=identity.serial,
        wwn=identity.wwn,
        transport=identity.transport,
        size_bytes=disk.size_bytes,
        sector_bytes=disk.logical_sector_bytes,
        is_removable=disk.is_removable,
        partitions={part.number: part.size_bytes for part in disk.partitions},
        kept=kept,
        obstacle=obstacle,
    )


def _aliases(system: System) -> dict[str, frozenset[str]]:
    """The links below /dev/disk to each device, with and without the folder."""
    found: dict[str, set[str]] = {}
    top = system.root / "dev/disk"
    for folder in listing(top):
        for link in listing(top / folder):
            name = (top / folder / link).resolve().name
            found.setdefault(name, set()).update((f"/dev/disk/{folder}/{link}", link))
    return {name: frozenset(links) for name, links in found.items()}


def _is_path_of_multipath(name: str, system: System) -> bool:
    """Whether a disk is one of several ways to a disk that is listed itself."""
    return any(system.text(holder, "dm", "uuid").startswith("mpath-") for holder in system.holders(name))


def file_candidate(path: Path, sector_bytes: int) -> Candidate:
    """A raw image file as a disk; its sectors are whatever the image has."""
    size = path.stat().st_size
    name = str(path)
    return Candidate(name, frozenset({name}), transport="file", size_bytes=size, sector_bytes=sector_bytes)
