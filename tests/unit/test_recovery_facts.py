# SPDX-License-Identifier: GPL-3.0-or-later
"""What this machine is, and which of its disks may be written, on machines as data."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bootmedia.recovery.answers import Match
from bootmedia.recovery.facts import MachineFacts, candidates, machine_facts, mismatch
from bootmedia.wizard.targets import without_own_layers
from imager.devices.sysfs import System
from tests.harness.machines import LAPTOP, LIVE, RAID, SERVER, TABLET, VIRTUAL, Machine, build
from tests.harness.programs import call

DMI = "sys/class/dmi/id/"
NET = "sys/class/net/"
THINKPAD = {
    f"{DMI}sys_vendor": "LENOVO",
    f"{DMI}product_name": "20L7S02A00",
    f"{DMI}product_version": "ThinkPad T480s",
    f"{DMI}product_serial": "PC0XYZ12",
    f"{DMI}board_serial": "L1HF87654321",
    f"{DMI}chassis_serial": "PC0XYZ12",
    f"{NET}enp0s31f6/address": "8c:16:45:aa:bb:cc",
    f"{NET}enp0s31f6/type": "1",
    f"{NET}enp0s31f6/device/vendor": "0x8086",
    f"{NET}wlp61s0/address": "40:A3:CC:11:22:33",
    f"{NET}wlp61s0/type": "1",
    f"{NET}wlp61s0/device/vendor": "0x8086",
    f"{NET}lo/address": "00:00:00:00:00:00",
    f"{NET}lo/type": "772",
    f"{NET}docker0/address": "02:42:ac:11:00:02",
    f"{NET}docker0/type": "1",
    f"{NET}ib0/address": "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:31:78:f2",
    f"{NET}ib0/type": "32",
    f"{NET}ib0/device/vendor": "0x15b3",
}
WHITE_BOX = {
    f"{DMI}sys_vendor": "To Be Filled By O.E.M.",
    f"{DMI}product_name": "To Be Filled By O.E.M.",
    f"{DMI}product_version": "Default string",
    f"{DMI}product_serial": "System Serial Number",
    f"{DMI}board_serial": "0000000000",
    f"{DMI}chassis_serial": "Not Specified",
}


def facts_of(tmp_path, files: dict[str, str]) -> MachineFacts:
    return machine_facts(System(build(Machine([], files=files), tmp_path)))


def test_a_laptop_is_told_by_serials_network_cards_and_every_name_of_its_model(tmp_path) -> None:
    facts = facts_of(tmp_path, THINKPAD)
    assert facts.serials == ("PC0XYZ12", "L1HF87654321")
    assert facts.macs == ("8c:16:45:aa:bb:cc", "40:a3:cc:11:22:33")
    assert facts.models == ("LENOVO 20L7S02A00", "20L7S02A00", "ThinkPad T480s")
    assert 'mac = ["8c:16:45:aa:bb:cc", "40:a3:cc:11:22:33"]' in facts.lines()


@pytest.mark.parametrize("files", [THINKPAD, {f"{DMI}product_serial": "PC0XYZ12"}], ids=["several", "one"])
def test_the_documented_command_finds_the_serial_number_that_an_image_is_asked_for_by(tmp_path, files) -> None:
    """Of two machines whose number is not found, the second would replace the image of the first."""
    page = (Path(__file__).parent.parent.parent / "docs/howto/unattended-recovery.md").read_text()
    command = re.search(r"serial=\$\(recovery show \| (sed .*)\)$", page, re.MULTILINE)
    facts = facts_of(tmp_path, files)
    shown = "\n".join(facts.lines()) + "\n"
    assert call("bash", "-c", command[1], input_text=shown).split() == list(facts.values()["serial"]) == ["PC0XYZ12"]


def test_what_only_stands_in_for_a_number_is_none(tmp_path) -> None:
    facts = facts_of(tmp_path, WHITE_BOX)
    assert (facts.serials, facts.models) == ((), ())
    assert "# serial: none" in facts.lines()


def test_a_board_without_smbios_has_the_device_trees(tmp_path) -> None:
    base = "sys/firmware/devicetree/base/"
    facts = facts_of(tmp_path, {f"{base}serial-number": "10000000abcdef01\0", f"{base}model": "Raspberry Pi 4\0"})
    assert (facts.serials, facts.models) == (("10000000abcdef01",), ("Raspberry Pi 4",))


def test_the_card_that_was_booted_from_is_the_machines_mac(tmp_path) -> None:
    files = {**THINKPAD, "proc/cmdline": "quiet BOOTIF=01-40-a3-cc-11-22-33 x"}
    assert facts_of(tmp_path, files).values()["mac"] == ("40:a3:cc:11:22:33",)


FACTS = MachineFacts(("PC0XYZ12", "L1"), ("8c:16:45:aa:bb:cc",), ("LENOVO 20L7S02A00", "ThinkPad T480s"))


@pytest.mark.parametrize(
    "match",
    [
        Match(any=True),
        Match(serial="pc0xyz12"),
        Match(serial=("other", "L1")),
        Match(mac="8C-16-45-AA-BB-CC"),
        Match(model="thinkpad t4*"),
        Match(model="LENOVO*", serial="L1", mac=("00:00:00:00:00:01", "8c:16:45:aa:bb:cc")),
    ],
)
def test_matches(match) -> None:
    assert mismatch(match, FACTS) == ""


@pytest.mark.parametrize(
    ("match", "told"),
    [
        (Match(serial="PC0XYZ1"), "the serial number PC0XYZ1; this machine has PC0XYZ12, L1"),
        (Match(serial="*"), "serial number"),
        (Match(mac="8c:16:45:aa:bb:cd"), "MAC address"),
        (Match(model="ThinkPad"), "model"),
        (Match(serial="L1", model="Dell*"), "model"),
        (Match(serial="X", model="LENOVO*"), "serial number"),
    ],
)
def test_does_not_match_and_says_what_differs(match, told) -> None:
    assert told in mismatch(match, FACTS)


def test_a_machine_without_facts_matches_no_name() -> None:
    assert "none that can be read" in mismatch(Match(serial="X"), MachineFacts())
    assert mismatch(Match(model="*"), MachineFacts())


# --- Disks ---------------------------------------------------------------------------------------------------------


def disks_of(machine: Machine, tmp_path, **images: str) -> dict[str, object]:
    system = System(build(machine, tmp_path))
    found = candidates({path.replace("__", "/"): what for path, what in images.items()}, system)
    return {each.path: each for each in found}


def test_the_disk_of_the_running_system_is_kept(tmp_path) -> None:
    disks = disks_of(LAPTOP, tmp_path)
    assert disks["/dev/nvme0n1"].kept == "holds the running system"


def test_the_stick_that_a_live_system_runs_from_is_kept_and_the_disk_is_not(tmp_path) -> None:
    disks = disks_of(LIVE, tmp_path)
    assert disks["/dev/sdb"].kept
    assert (disks["/dev/sda"].kept, disks["/dev/sda"].is_built_in) == ("", True)


def test_what_a_live_system_is_made_of_is_no_disk_to_choose_from(tmp_path) -> None:
    disks = disks_of(LIVE, tmp_path).values()
    assert [each.path for each in disks] == ["/dev/loop0", "/dev/sda", "/dev/sdb"]
    assert [each.path for each in without_own_layers(disks)] == ["/dev/sda", "/dev/sdb"]


def test_our_own_medium_is_kept(tmp_path) -> None:
    ours = LIVE.mountinfo.replace("/run/live/medium", "/run/bootmedia/medium").splitlines()[1]
    files = {"run/bootmedia/medium/bootmedia/id-1": ""}
    disks = disks_of(replace(LIVE, mountinfo=ours, files=files), tmp_path)
    assert disks["/dev/sdb"].kept
    assert not disks["/dev/sda"].kept


def test_the_disk_that_the_image_lies_on_is_kept(tmp_path) -> None:
    mounts = "40 1 8:1 / /mnt rw,relatime - ext4 /dev/sda1 rw"
    machine = replace(LIVE, mountinfo=f"{LIVE.mountinfo}\n{mounts}", files={**LIVE.files, "mnt/a.zst": ""})
    disks = disks_of(machine, tmp_path, **{"/mnt/a.zst": "the image"})
    assert disks["/dev/sda"].kept == "holds the image"


def test_of_several_paths_to_a_disk_only_the_disk_is_listed(tmp_path) -> None:
    assert set(disks_of(SERVER, tmp_path)) == {"/dev/mapper/mpatha"}


def test_members_of_an_array_are_in_use_and_the_array_is_taken_only_by_name(tmp_path) -> None:
    disks = disks_of(RAID, tmp_path)
    assert disks["/dev/sda"].kept
    assert not disks["/dev/md0"].is_built_in


def test_soldered_memory_and_virtual_disks_are_built_in(tmp_path) -> None:
    assert disks_of(TABLET, tmp_path / "1")["/dev/mmcblk0"].is_built_in
    assert disks_of(VIRTUAL, tmp_path / "2")["/dev/vda"].partitions == {1: 41938944 * 512}


def test_links_lead_to_their_disk(tmp_path) -> None:
    system = System(build(VIRTUAL, tmp_path))
    link = tmp_path / "dev/disk/by-path/pci-0000:00:04.0"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../vda")
    (disk,) = candidates({}, system)
    assert {"/dev/vda", "/dev/disk/by-path/pci-0000:00:04.0", "pci-0000:00:04.0"} <= disk.names


@pytest.mark.parametrize(("said", "calls"), [("", 1), ("1", 0)], ids=["a person", "what has waited itself"])
def test_who_lists_disks_of_a_medium_that_starts_waits_for_its_drivers_once(tmp_path, said, calls):
    waited = tmp_path / "waited"
    program = tmp_path / "bootmedia-settled"
    program.write_text(f"#!/bin/sh\necho waited >>{waited}\nexit 1\n")
    program.chmod(0o755)
    twice = "from bootmedia.recovery.facts import candidates; candidates({}); candidates({})"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "BOOTMEDIA_SETTLED": said}
    subprocess.run([sys.executable, "-c", twice], env=environment, check=True)
    assert (waited.read_text().splitlines() if waited.exists() else []) == ["waited"] * calls
