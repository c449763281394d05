# SPDX-License-Identifier: GPL-3.0-or-later
"""What this machine is: what its firmware and its network cards say.

References: DMTF DSP0134 (SMBIOS) 7.2 and 7.3, as /sys/class/dmi/id shows them (ABI/testing/sysfs-firmware-dmi-tables);
ABI/testing/sysfs-class-net; the Devicetree Specification 2.3 for machines without SMBIOS.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imager.devices.sysfs import System, listing, read_text

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


def plain_mac(text: str) -> str:
    """A MAC address as the kernel writes it."""
    return text.strip().lower().replace("-", ":")
