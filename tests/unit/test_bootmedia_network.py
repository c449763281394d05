# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the network, from the command line to the kernel's."""

from __future__ import annotations

import pytest

from bootmedia.errors import RecipeError
from bootmedia.network import network_options


@pytest.mark.parametrize(
    ("wishes", "options"),
    [
        ([], ()),
        (["dhcp"], ("bootmedia.network=dhcp",)),
        (["off"], ("bootmedia.network=off",)),
        (
            [
                "interface=52-54-00-12-34-AB,address=192.0.2.5/24,gateway=192.0.2.1,dns=192.0.2.1,dns=2001:db8::1",
                "dhcp",
            ],
            (
                "bootmedia.network=address=192.0.2.5/24,gateway=192.0.2.1,dns=192.0.2.1,dns=2001:db8::1,"
                "interface=52:54:00:12:34:ab",
                "bootmedia.network=dhcp",
            ),
        ),
        (["address=2001:DB8::5/64,gateway=fe80::1"], ("bootmedia.network=address=2001:db8::5/64,gateway=fe80::1",)),
        (
            ["address=192.0.2.5/24,interface=eno1", "address=198.51.100.7/31,interface=eno2"],
            (
                "bootmedia.network=address=192.0.2.5/24,interface=eno1",
                "bootmedia.network=address=198.51.100.7/31,interface=eno2",
            ),
        ),
    ],
)
def test_settings_become_words_of_the_kernels_command_line(wishes, options):
    assert network_options(wishes) == options
    assert not any(set(" \"'\\$;") & set(option) for option in options)


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        (["on"], "'on' is none of dhcp, off"),
        ([""], "'' is none of dhcp, off"),
        (["address=192.0.2.5"], "needs the length of its network"),
        (["address=192.0.2.256/24"], "is no address"),
        (["address=192.0.2.0/24"], "the name or the broadcast"),
        (["address=192.0.2.255/24"], "the name or the broadcast"),
        (["address=192.0.2.5/24,gateway=192.0.3.1"], "the gateway 192.0.3.1 is not in the network 192.0.2.0/24"),
        (["address=192.0.2.5/24,gateway=x"], "gateway=x is no address"),
        (["address=192.0.2.5/24,dns=ns.example"], "dns=ns.example is no address"),
        (["gateway=192.0.2.1"], "has no address="),
        (["address=192.0.2.5/24,address=192.0.2.6/24"], "address= stands twice"),
        (["address=192.0.2.5/24,interface=a b"], "neither a MAC address nor the name"),
        (["address=192.0.2.5/24,interface=x;reboot"], "neither a MAC address nor the name"),
        (["off", "dhcp"], "contradict each other"),
        (["address=192.0.2.5/24", "address=192.0.2.6/24"], "for the same network card"),
        (["address=192.0.2.5/24,interface=a", "address=192.0.2.6/24,interface=a"], "for the same network card"),
    ],
)
def test_what_cannot_be_meant_is_refused(wishes, told):
    with pytest.raises(RecipeError) as error:
        network_options(wishes)
    assert told in error.value.message
