# SPDX-License-Identifier: GPL-3.0-or-later
"""The network: what there is, other addresses, tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from bootmedia.wizard import network
from bootmedia.wizard.network import Card, StaticAddress
from bootmedia.wizard.running import Outcome
from bootmedia.wizard.screens.frame import Form, Frame, Menu
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.screens.steps import Steps

_RESOLV_CONF = Path("/etc/resolv.conf")


class NetworkScreen(Frame):
    """Cards with link and address, and what can be done."""

    TITLE_TEXT = "Network"
    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Enter", "choose"), ("r", "look again"))
    BINDINGS: ClassVar[list[BindingType]] = [Binding("r", "again", show=False)]

    def __init__(self) -> None:
        super().__init__()
        self._cards: list[Card] = []
        self._gateway = ""

    def body(self) -> Iterable[Widget]:
        """What there is, and what can be done."""
        yield Static("one moment ...", id="text", markup=False)
        yield Menu(id="body")

    def entered(self) -> None:
        """Look, and offer."""
        rows = (
            ("dhcp", "DHCP again", "on all cards"),
            ("static", "Static address", "address, gateway, name servers"),
            ("test", "Test", "gateway, names, a web server"),
        )
        self.menu.fill(
            [(name, styled((f"{title:<20}", "strong"), (about, "quiet")), True) for name, title, about in rows]
        )
        self.action_again()

    def on_screen_resume(self) -> None:
        """Something may have changed."""
        if self._cards:
            self.action_again()

    def action_again(self) -> None:
        """Look again."""
        self.set_command("ip address; ip route; cat /etc/resolv.conf")

        def look() -> tuple[Outcome, Outcome, str]:
            said = _RESOLV_CONF.read_text(errors="replace") if _RESOLV_CONF.exists() else ""
            return self.wizard.carry_out(network.ADDRESSES), self.wizard.carry_out(network.ROUTES), said

        self.in_background(look, self._looked)

    def _looked(self, found: tuple[Outcome, Outcome, str]) -> None:
        addresses, routes, names = found
        self._cards = network.cards(_list_in(addresses))
        self._gateway = network.gateway(_list_in(routes))
        lines = [card.line() for card in self._cards] or ["this machine has no network card that Linux knows"]
        lines += ["", f"gateway       {self._gateway or 'none'}"]
        lines += [f"name servers  {', '.join(network.name_servers(names)) or 'none'}", ""]
        self.query_one("#text", Static).update(styled("\n".join(lines)))

    def chosen(self, name: str) -> None:
        """Change or test it."""
        if name == "dhcp":
            self.wizard.push_screen(Steps("DHCP again", [network.DHCP_AGAIN]))
        elif name == "static":
            linked = sorted(self._cards, key=lambda card: not card.has_link)
            self.wizard.push_screen(StaticForm(linked[0].name if linked else "eth0"))
        else:
            self.wizard.push_screen(TestForm(self._gateway))


def _list_in(outcome: Outcome) -> Sequence[object]:
    try:
        return network.listed(msgspec.json.decode(outcome.output))
    except msgspec.MsgspecError:
        return []


class StaticForm(Form):
    """An address that is typed."""

    TITLE_TEXT = "Static address"
    FIELDS: ClassVar[Sequence[tuple[str, str, str]]] = (
        ("card", "Network card", "eth0"),
        ("address", "Address and length of the network", "192.168.1.50/24"),
        ("gateway", "Gateway (empty: none)", "192.168.1.1"),
        ("servers", "Name servers (empty: as they are)", "192.168.1.1 9.9.9.9"),
    )

    def __init__(self, card: str) -> None:
        super().__init__()
        self._card = card

    def submit(self) -> None:
        """Give it to the card."""
        servers = tuple(self.value("servers").replace(",", " ").split())
        card = self.value("card") or self._card
        wanted = StaticAddress(card, self.value("address"), self.value("gateway"), servers)
        if wanted.fault():
            self.tell(wanted.fault(), style="warning")
            return
        self.wizard.switch_screen(Steps("Static address", wanted.commands()))


class TestForm(Form):
    """What is tried."""

    TITLE_TEXT = "Test of the network"
    FIELDS: ClassVar[Sequence[tuple[str, str, str]]] = (
        ("url", "A web server to try (empty: none)", "https://backup.example/"),
    )

    def __init__(self, gateway: str) -> None:
        super().__init__()
        self._gateway = gateway

    def submit(self) -> None:
        """Try it."""
        steps = list(network.tests(self._gateway, self.value("url")))
        if not steps:
            self.tell("There is no gateway to ask: name a web server, or look at cable and address.", style="warning")
            return
        self.wizard.switch_screen(Steps("Test of the network", steps))
