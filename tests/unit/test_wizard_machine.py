# SPDX-License-Identifier: GPL-3.0-or-later
"""Health and network as the wizard reads them: from the JSON of smartctl 7 and iproute2, in the shape of real ones."""

from __future__ import annotations

import json
import subprocess

import pytest

from bootmedia.wizard.capture import CaptureChoice, images_in, verify
from bootmedia.wizard.health import health_of
from bootmedia.wizard.network import StaticAddress, cards, gateway, name_servers, set_name_servers
from bootmedia.wizard.network import tests as tried
from bootmedia.wizard.running import Runner
from tests.harness.programs import missing_tools


def ata(reallocated: int = 0, pending: int = 0, *, passed: bool = True) -> dict[str, object]:
    rows = ((5, "Reallocated_Sector_Ct", reallocated), (197, "Current_Pending_Sector", pending))
    table = [
        {"id": number, "name": name, "raw": {"value": value, "string": str(value)}} for number, name, value in rows
    ]
    return {
        "smartctl": {"exit_status": 0, "output": ["smartctl 7.4", "=== START ==="]},
        "smart_status": {"passed": passed},
        "ata_smart_attributes": {"table": table},
        "temperature": {"current": 34},
        "power_on_time": {"hours": 21987},
    }


def nvme(**log: int) -> dict[str, object]:
    known = {"critical_warning": 0, "percentage_used": 7, "media_errors": 0, **log}
    return {"smart_status": {"passed": True}, "nvme_smart_health_information_log": known}


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        (ata(), "good"),
        (ata(reallocated=8), "worn"),
        (ata(pending=1), "worn"),
        (ata(passed=False), "failing"),
        (nvme(), "good"),
        (nvme(percentage_used=100), "worn"),
        (nvme(media_errors=2), "worn"),
        (nvme(critical_warning=4), "failing"),
        ({"smartctl": {"messages": [{"string": "Permission denied", "severity": "error"}]}}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_a_verdict_never_says_more_than_the_disk(said: dict[str, object], verdict: str) -> None:
    assert health_of(said).verdict == verdict


def test_a_summary_is_one_line_with_what_counts() -> None:
    health = health_of(ata(reallocated=8))
    assert health.summary() == "self-test passed, reallocated 8, pending 0, temperature 34 C, hours 21987"
    assert health.text == ("smartctl 7.4", "=== START ===")
    assert "worn 7 %" in health_of(nvme()).summary()
    assert health_of({"smartctl": {"messages": [{"string": "Permission denied"}]}}).summary() == "Permission denied"


def test_an_nvme_disk_that_warns_says_of_what() -> None:
    said = {**nvme(critical_warning=0b1101), "smart_status": {"passed": False}}
    begins = "self-test FAILING, WARNING: spare used up, WARNING: unreliable, WARNING: read-only, media errors 0"
    assert health_of(said).summary().startswith(begins)


@pytest.mark.parametrize("odd", [{"smart_status": 3}, {"smartctl": []}, {"temperature": {"current": "hot"}}])
def test_odd_json_is_no_defect(odd: dict[str, object]) -> None:
    assert health_of({**nvme(), **odd}).summary()


# --- Network ------------------------------------------------------------------------------------------------------

ADDRESSES = """[
 {"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"address":"00:00:00:00:00:00","addr_info":[]},
 {"ifname":"enp1s0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"address":"52:54:00:12:34:56","addr_info":[
   {"family":"inet","local":"192.168.1.50","prefixlen":24,"scope":"global"},
   {"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"}]},
 {"ifname":"enp2s0","flags":["NO-CARRIER","BROADCAST","UP"],"address":"52:54:00:12:34:57","addr_info":[]}]"""


def test_cards_have_link_and_addresses() -> None:
    first, second = cards(json.loads(ADDRESSES))
    assert (first.name, first.has_link, first.addresses) == ("enp1s0", True, ("192.168.1.50/24",))
    assert (second.has_link, second.addresses) == (False, ())
    assert "NO LINK" in second.line()


def test_the_way_out_and_the_name_servers() -> None:
    assert gateway(json.loads('[{"dst":"default","gateway":"192.168.1.1"},{"dst":"192.168.1.0/24"}]')) == "192.168.1.1"
    assert gateway([]) == ""
    assert name_servers("search x\nnameserver 9.9.9.9\n# nameserver 1.1.1.1\nnameserver fd00::1\n") == [
        "9.9.9.9",
        "fd00::1",
    ]


@pytest.mark.parametrize(
    ("address", "way_out", "servers", "fault"),
    [
        ("192.168.1.50/24", "192.168.1.1", (), ""),
        ("fd00::5/64", "fd00::1", ("fd00::2",), ""),
        ("192.168.1.50/24", "", (), ""),
        ("192.168.1.50", "", (), "The length of the network is missing, as in 192.168.1.50/24."),
        ("nonsense", "", (), "'nonsense' is no address with its prefix length, such as 192.168.1.50/24."),
        ("10.0.0.5/24", "10.0.1.1", (), "The gateway 10.0.1.1 is not in the network 10.0.0.0/24."),
        ("10.0.0.5/24", "", ("$(reboot)",), "'$(reboot)' is no address."),
    ],
)
def test_addresses_that_cannot_be_are_refused(address, way_out, servers, fault) -> None:
    assert StaticAddress("eth0", address, way_out, servers).fault() == fault


def test_a_static_address_is_given_by_commands_that_can_be_read() -> None:
    said = [str(each) for each in StaticAddress("eth0", "10.0.0.5/24", "10.0.0.1", ("10.0.0.1", "9.9.9.9")).commands()]
    assert said[2:4] == [
        "ip address replace 10.0.0.5/24 dev eth0",
        "ip route replace default via 10.0.0.1 dev eth0",
    ]
    assert said[4] == "printf 'nameserver %s\\n' 10.0.0.1 9.9.9.9 | tee /etc/resolv.conf"


def test_name_servers_come_one_a_line() -> None:
    printing = set_name_servers(("10.0.0.1", "9.9.9.9")).stages[0]
    done = subprocess.run(printing, check=True, capture_output=True, text=True)
    assert done.stdout == "nameserver 10.0.0.1\nnameserver 9.9.9.9\n"


def test_no_server_is_asked_that_nobody_named() -> None:
    assert [str(each) for each in tried("192.168.1.1", "")] == [
        str(each) for each in list(tried("192.168.1.1", "x"))[:1]
    ]
    assert not list(tried("", ""))


def test_the_network_is_tried_from_near_to_far() -> None:
    said = [str(each) for each in tried("10.0.0.1", "https://nas.example.org:8443/x")]
    assert [words.split()[0] for words in said] == ["ping", "getent", "curl"]
    assert said[1] == "getent hosts nas.example.org"


@pytest.mark.skipif(bool(missing_tools("ip")), reason="iproute2 is missing")
def test_what_ip_says_of_this_machine_is_understood() -> None:
    from bootmedia.wizard.network import ADDRESSES as ASKED

    outcome = Runner(ASKED).run()
    assert outcome.is_well
    assert all(card.name for card in cards(json.loads(outcome.output)))


# --- Captures -----------------------------------------------------------------------------------------------------


def test_a_capture_is_one_command_for_all_disks() -> None:
    choice = CaptureChoice(("/dev/sda", "/dev/sdb"), "/mnt/images/", level="fast", split=True, rescue=True)
    assert str(choice.capture()) == (
        "imager capture --progress lines --json --level fast --split 4095MiB --rescue /dev/sda /dev/sdb /mnt/images/"
    )
    assert str(CaptureChoice(("/dev/sda",), "/x/").capture()) == "imager capture --progress lines --json /dev/sda /x/"
    assert str(verify("/x/a.img.zst", "/dev/sda")) == (
        "imager verify --progress lines --json --against /dev/sda /x/a.img.zst"
    )


def test_the_images_of_a_capture_are_those_that_it_names() -> None:
    assert images_in({"images": [{"image": "/x/a"}, {"odd": 1}, 7]}) == ["/x/a"]
    assert images_in({}) == []
