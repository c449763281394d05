# SPDX-License-Identifier: GPL-3.0-or-later
"""The door that is open for one login: its password, and what is shown beside it."""

from __future__ import annotations

import re

import pytest

from bootmedia.recovery.door import Door, addresses_in, close_door, new_password, open_door
from bootmedia.recovery.places import Surroundings
from imager.errors import UsageError
from tests.harness.programs import call


def test_passwords_can_be_read_out_and_differ():
    made = {new_password() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"([a-km-np-z2-9]{4}-){2}[a-km-np-z2-9]{4}", each) for each in made)


def test_addresses_are_those_that_others_reach():
    said = """[{"ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1", "scope": "host"}]},
     {"ifname": "eno1", "addr_info": [{"family": "inet", "local": "192.0.2.5", "scope": "global"},
       {"family": "inet6", "local": "fe80::1", "scope": "link"},
       {"family": "inet6", "local": "2001:db8::5", "scope": "global"}]}, {}]"""
    assert addresses_in(said) == ("192.0.2.5", "2001:db8::5")
    assert "127.0.0.1" not in addresses_in(call("ip", "-json", "address"))


def test_all_that_is_needed_is_on_the_screen():
    shown = "\n".join(Door("ab-cd", ("192.0.2.5",), "SHA256:x").lines())
    assert all(word in shown for word in ("ssh root@192.0.2.5", "ab-cd", "SHA256:x", "30 minutes"))
    assert "no address yet" in "\n".join(Door("ab-cd", (), "SHA256:x").lines())


@pytest.mark.parametrize("do", [open_door, close_door])
def test_the_password_of_another_system_is_left_alone(tmp_path, monkeypatch, do):
    # Not even a test that fails may lock out the root of the machine that it runs on.
    monkeypatch.setattr("bootmedia.recovery.door.run", lambda *words, **_: pytest.fail(f"{words} was started"))
    with pytest.raises(UsageError, match="not started from a recovery medium"):
        do(Surroundings(medium=tmp_path / "gone" / "medium"))
