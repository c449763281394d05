# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of this machine: what `ip --json` says of it, and the commands that change and test it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bootmedia.wizard.pipeline import Pipeline

ADDRESSES: Final = Pipeline.of("ip", "-json", "address")
ROUTES: Final = Pipeline.of("ip", "-json", "route")
DHCP_AGAIN: Final = Pipeline.of("systemctl", "restart", "bootmedia-network.service")
_NO_CARDS: Final = ("lo", "ifb", "dummy", "sit", "gre", "tunl", "ip6", "erspan")


@dataclass(frozen=True)
class Card:
    """A network interface.

    Attributes:
        addresses: With their prefix lengths.
        has_link: Whether a cable is in it and the other end is on.
    """

    name: str
    mac: str
    has_link: bool
    addresses: tuple[str, ...]

    def line(self) -> str:
        """For people."""
        link = "link" if self.has_link else "NO LINK (cable?)"
        return f"{self.name:<12} {self.mac:<18} {link:<18} {', '.join(self.addresses) or 'no address'}"


def cards(said: Sequence[Any]) -> list[Card]:
    """From `ip -json address`."""
    found = []
    for each in said:
        name = str(each.get("ifname", "")) if isinstance(each, dict) else ""
        if name and not name.startswith(_NO_CARDS):
            addresses = tuple(
                f"{address['local']}/{address['prefixlen']}"
                for address in each.get("addr_info") or ()
                if address.get("scope") == "global" and "local" in address
            )
            found.append(Card(name, str(each.get("address", "")), "LOWER_UP" in (each.get("flags") or ()), addresses))
    return found


def gateway(said: Sequence[Any]) -> str:
    """The way out, from `ip -json route`; "" for none."""
    ways = (str(each.get("gateway", "")) for each in said if isinstance(each, dict) and each.get("dst") == "default")
    return next(ways, "")


def name_servers(resolv_conf: str) -> list[str]:
    """From /etc/resolv.conf."""
    return re.findall(r"^nameserver\s+(\S+)", resolv_conf, re.MULTILINE)


@dataclass(frozen=True)
class StaticAddress:
    """An address that somebody typed.

    Attributes:
        address: With its prefix length, as in 192.168.1.50/24.
        gateway: "" for none.
        servers: Name servers; empty leaves those that are there.
    """

    card: str
    address: str
    gateway: str = ""
    servers: tuple[str, ...] = ()

    def fault(self) -> str:
        """What is wrong with it, as a sentence; "" when nothing is."""
        try:
            interface = ipaddress.ip_interface(self.address)
        except ValueError:
            return f"{self.address!r} is no address with its prefix length, such as 192.168.1.50/24."
        if "/" not in self.address:
            return f"The length of the network is missing, as in {self.address}/24."
        for text in (self.gateway, *self.servers):
            try:
                other = ipaddress.ip_address(text) if text else interface.ip
            except ValueError:
                return f"{text!r} is no address."
            if text == self.gateway and other not in interface.network:
                return f"The gateway {text} is not in the network {interface.network}."
        return ""

    def commands(self) -> Iterator[Pipeline]:
        """What gives the card the address, until the machine is switched off."""
        yield Pipeline.of("systemctl", "stop", "bootmedia-network.service")  # DHCP would take it away again
        yield Pipeline.of("ip", "link", "set", self.card, "up")
        yield Pipeline.of("ip", "address", "replace", self.address, "dev", self.card)
        if self.gateway:
            yield Pipeline.of("ip", "route", "replace", "default", "via", self.gateway, "dev", self.card)
        if self.servers:
            yield set_name_servers(self.servers)


def set_name_servers(servers: Sequence[str]) -> Pipeline:
    """What makes names known by these servers."""
    return Pipeline.of("printf", "nameserver %s\\n", *servers).into("tee", "/etc/resolv.conf")


def tests(way_out: str, name: str) -> Iterator[Pipeline]:
    """What shows where the network ends: gateway, names, web; without a web server only the first."""
    if way_out:
        yield Pipeline.of("ping", "-c", "2", "-W", "3", way_out)
    if not name:
        return
    host = re.sub(r"^\w+://([^/:]+).*$", r"\1", name)
    yield Pipeline.of("getent", "hosts", host)
    yield Pipeline.of("curl", "--silent", "--show-error", "--head", "--max-time", "15", name)


def listed(found: Mapping[str, Any] | Sequence[Any]) -> Sequence[Any]:
    """JSON that should be a list."""
    return found if isinstance(found, list) else []
