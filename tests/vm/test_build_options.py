# SPDX-License-Identifier: GPL-3.0-or-later
"""What `bootmedia build` can be asked for, seen from inside of the machine that was started from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bootmedia import build as build_module
from bootmedia.cache import default_folder
from bootmedia.cli.app import app
from bootmedia.guest import switched_on
from bootmedia.machine import Firmware, Machine
from tests.harness.programs import call
from tests.vm.conftest import facts, ran
from tests.vm.test_medium import BOOT_SECONDS, done, started

MAC = "52:54:00:12:34:77"


def machine(medium, firmware=Firmware.BIOS):
    """With two network cards; nobody answers on the second."""
    second = ("-netdev", "user,id=second,restrict=on", "-device", f"e1000,netdev=second,mac={MAC}")
    return Machine(firmware, medium, with_network=True, more=second)


@pytest.mark.slow
def test_a_card_has_the_address_that_it_was_given_and_the_other_is_asked_for(tmp_path):
    settings = f"address=192.0.2.5/24,gateway=192.0.2.1,dns=192.0.2.53,interface={MAC}"
    ran(app, "build", tmp_path / "n.iso", "--network", settings, "--network", "dhcp")
    with switched_on(machine(tmp_path / "n.iso")) as guest:
        started(guest)
        wait = "for n in $(seq 300); do ip -4 -o address | grep -q 10.0.2.15 && break; sleep 1; done; ip -4 -o address"
        addresses = done(guest, wait, timeout_seconds=BOOT_SECONDS)
        card = done(guest, f"grep -l {MAC} /sys/class/net/*/address").split("/")[4]
        assert f"{card}    inet 192.0.2.5/24" in addresses
        assert len([line for line in addresses.splitlines() if "10.0.2.15" in line and card not in line]) == 1
        assert f"default via 192.0.2.1 dev {card}" in done(guest, "ip route")
        assert "nameserver 192.0.2.53" in done(guest, "cat /etc/resolv.conf")


@pytest.mark.slow
def test_without_a_network_no_card_is_touched(tmp_path):
    ran(app, "build", tmp_path / "n.iso", "--network", "off")
    with switched_on(machine(tmp_path / "n.iso")) as guest:
        started(guest)
        assert "inet" not in done(guest, "ip -4 -o address | grep -v ' lo '; true")
        assert guest.run("pidof dhcpcd").status != 0


@pytest.mark.slow
def test_a_kernel_that_is_given_starts_with_its_modules(prepared, tmp_path):
    """Debian's own under another name; Secure Boot starts it all the same, as its signature is in it."""
    parts = next(default_folder().glob("base-*/parts/boot/vmlinuz-*")).parents[1]
    image = next((parts / "boot").glob("vmlinuz-*"))
    modules = next((parts / "usr/lib/modules").iterdir())
    own = tmp_path / "own"
    shutil.copytree(modules, own / modules.name)
    assert f"version {modules.name} " in call("file", image)
    said = facts(ran(app, "build", tmp_path / "k.iso", "--kernel", image, "--modules", own / modules.name, "--json"))
    assert said["kernel"] == modules.name
    with switched_on(Machine(Firmware.SECURE_BOOT, tmp_path / "k.iso")) as guest:
        started(guest)
        assert done(guest, "uname -r") == modules.name
        done(guest, "modprobe nvme && modprobe xfs")


@pytest.mark.slow
def test_firmware_comes_when_the_apt_configuration_offers_it(tmp_path, monkeypatch):
    """As many configurations do; this machine's own may not."""
    apt = tmp_path / "apt"
    apt.mkdir()
    for name, text in build_module.apt_files(Path("/etc/apt")).items():
        changed = text.replace("Components: main", "Components: main non-free-firmware")
        place = apt / ("sources.list.d" if name != "sources.list" else "")
        place.mkdir(exist_ok=True)
        (place / name).write_text(changed)
    monkeypatch.setattr(build_module, "_APT", apt)
    ran(app, "build", tmp_path / "f.iso", "--profile", "minimal", "--driver-firmware")
    with switched_on(Machine(Firmware.BIOS, tmp_path / "f.iso")) as guest:
        started(guest)
        done(guest, "ls /usr/lib/firmware/bnx2x/ /usr/lib/firmware/rtl_nic/ /usr/lib/firmware/ql2500_fw.bin")
