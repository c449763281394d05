# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of `bootmedia build --network`: checked, and as they stand on the kernel's command line.

The live system reads them there (bootmedia-network in the overlay), so that the boot menu can change them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence

from bootmedia.errors import RecipeError

_OPTION = "bootmedia.network"
_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
# As the kernel takes it (dev_valid_name in net/core/dev.c), without what a shell or a command line could stumble over.
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")
_KEYS = ("address", "gateway", "dns", "interface")
_HINT = "As in address=192.0.2.5/24,gateway=192.0.2.1,dns=192.0.2.1,interface=52:54:00:12:34:56; or dhcp, or off."


def network_options(wishes: Sequence[str]) -> tuple[str, ...]:
    """The words for the kernel's command line; none for DHCP on all cards, which is what is done by itself.

    Raises:
        RecipeError: A wish cannot be carried out, or two contradict each other.
    """
    checked = [_checked(wish.strip()) for wish in wishes]
    if "off" in checked and len(checked) > 1:
        raise RecipeError("--network off and another --network contradict each other")
    cards = [re.sub(r".*interface=|address=.*", "", each) for each in checked if each.startswith("address=")]
    if len(set(cards)) < len(cards):
        raise RecipeError(
            "--network: two fixed addresses are for the same network card", hint="Name each card with interface=."
        )
    return tuple(f"{_OPTION}={each}" for each in checked)


def _checked(wish: str) -> str:
    if wish in ("dhcp", "off"):
        return wish
    values: dict[str, list[str]] = {}
    for part in wish.split(","):
        key, equals, value = part.partition("=")
        if key not in _KEYS or not equals or not value:
            raise RecipeError(
                f"--network: {part!r} is none of dhcp, off, {', '.join(f'{k}=' for k in _KEYS)}", hint=_HINT
            )
        values.setdefault(key, []).append(value)
    if "address" not in values:
        raise RecipeError(f"--network: {wish!r} has no address=", hint=_HINT)
    for key in ("address", "gateway", "interface"):
        if len(values.get(key, [])) > 1:
            raise RecipeError(f"--network: {key}= stands twice in {wish!r}", hint=_HINT)
    return ",".join(f"{key}={value}" for key in _KEYS for value in _meant(key, values))


def _meant(key: str, values: dict[str, list[str]]) -> Iterator[str]:
    """The values of a key in the form that `ip` takes."""
    for value in values.get(key, []):
        if key == "interface":
            yield _card(value)
        elif key == "address":
            yield str(_address(value))
        else:
            yield str(_neighbour(key, value, _address(values["address"][0])))


def _address(value: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    try:
        found = ipaddress.ip_interface(value)
    except ValueError as error:
        raise RecipeError(f"--network: {value!r} is no address: {error}", hint=_HINT) from error
    if "/" not in value:
        raise RecipeError(f"--network: the address {value} needs the length of its network, as in {value}/24")
    network = found.network
    if network.num_addresses > 2 and found.version == 4 and found.ip in (network.network_address, network[-1]):
        raise RecipeError(
            f"--network: {found.ip} is the name or the broadcast of the network {network}, not a machine's"
        )
    return found


def _neighbour(
    key: str, value: str, address: ipaddress.IPv4Interface | ipaddress.IPv6Interface
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A gateway, which must be within reach, or a name server."""
    try:
        found = ipaddress.ip_address(value)
    except ValueError as error:
        raise RecipeError(f"--network: {key}={value} is no address: {error}", hint=_HINT) from error
    if key == "gateway" and found not in address.network and not found.is_link_local:
        raise RecipeError(f"--network: the gateway {found} is not in the network {address.network} of {address.ip}")
    return found


def _card(value: str) -> str:
    lowered = value.lower().replace("-", ":")
    if _MAC.fullmatch(lowered):
        return lowered
    if _INTERFACE.fullmatch(value) is None:
        raise RecipeError(f"--network: {value!r} is neither a MAC address nor the name of a network card", hint=_HINT)
    return value
