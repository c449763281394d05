# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of a restored system that belong to network cards of its old machine.

Nothing is changed: which of several cards takes the place of an old one, only a person knows. It is told, because a
machine that is back and cannot be reached looks as dead as before.

References:
    systemd.link(5), systemd.network(5), udev(7), interfaces(5), nm-settings-keyfile(5), netplan(5); Red Hat,
    "Interface Configuration Files" (HWADDR).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from imager.booting.tree import Tree
from imager.devices.machine import plain_mac

_FOLDERS: Final = {
    "/etc/systemd/network": (".link", ".network"),
    "/etc/udev/rules.d": (".rules",),
    "/etc/network": ("interfaces",),
    "/etc/network/interfaces.d": ("",),
    "/etc/NetworkManager/system-connections": (".nmconnection", ""),
    "/etc/netplan": (".yaml",),
    "/etc/sysconfig/network-scripts": ("",),
}
_MOST_FILES: Final = 200
_MAC: Final = re.compile(r"(?<![0-9A-Fa-f:-])(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:-])")


def strange_cards(tree: Tree, macs: Sequence[str] | None) -> Iterator[str]:
    """A sentence for each file that names network cards which this machine does not have.

    Args:
        tree: The restored system.
        macs: Addresses of this machine's cards, as the kernel writes them; None when it will run on another one.
    """
    lacks = "this machine does not have" if macs is not None else "its new machine may not have"
    here = f" (here: {', '.join(macs)})" if macs else ""
    for path in _files(tree):
        named = dict.fromkeys(plain_mac(found) for line in _settings(tree.text(path)) for found in _MAC.findall(line))
        strange = [mac for mac in named if mac not in (macs or ())]
        if strange:
            yield (
                f"{path} is for the network card {', '.join(strange)}, which {lacks}{here}: "
                "the network may not come up by itself; put the new address there"
            )


def _files(tree: Tree) -> Iterator[str]:
    for folder, ends in _FOLDERS.items():
        for name in tree.listing(folder)[:_MOST_FILES]:
            if name.endswith(ends):
                yield f"{folder}/{name}"


def _settings(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if not line.lstrip().startswith("#"))
