# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines start over a network of their own, from the folder of `bootmedia netboot`, served as its README.txt says."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass

import pytest

from bootmedia.cli.app import app
from bootmedia.guest import switched_on
from bootmedia.machine import DirectBoot, Disk, Firmware, Machine
from imager.cli.app import app as imager_app
from tests.harness.network import SERVER, network
from tests.harness.secure_shell import free_port
from tests.vm.conftest import DISK_BYTES, blank, ran
from tests.vm.test_medium import BOOT_SECONDS, done, started

MAC = "52:54:00:12:34:56"
BOOTIF = "BOOTIF=01-52-54-00-12-34-56"
URL = f"http://{SERVER}:8080/"


@dataclass(frozen=True)
class InTheNetwork:
    """A machine whose only network card is in the network."""

    machine: Machine
    network: object

    def command(self, scratch):
        return self.network.words(self.machine.command(scratch))


def card(*, rom=None, is_first=True):
    """Words for QEMU: a card at the switch, with a boot ROM (iPXE) or without."""
    device = f"virtio-net-pci,netdev=lan,mac={MAC}"
    device += ",bootindex=0" if is_first else ""
    device += f",romfile={rom}" if rom is not None else ""
    return "-netdev", "tap,id=lan,ifname=guest,script=no,downscript=no", "-device", device


@pytest.fixture
def folder(prepared, tmp_path):
    """The folder, with an image in it."""
    made = tmp_path / "netboot"
    ran(app, "netboot", prepared.medium, made, "--url", URL)
    (made / "images").mkdir()
    shutil.copy(prepared.image, made / "images")
    return made


@contextlib.contextmanager
def served(folder, scratch, *, beside=False, left_out=()):
    """The network with the folder in it, by the lines of README.txt; the files that the web server was asked for."""
    assert os.geteuid() == 0, "a network of its own needs root"
    name = "dnsmasq-beside.conf" if beside else "dnsmasq-alone.conf"
    configuration = folder / name
    kept = [line for line in configuration.read_text().splitlines() if not any(word in line for word in left_out)]
    configuration.write_text("\n".join(kept) + "\n")
    readme = (folder / "README.txt").read_text()
    web = ["python3", "-m", "http.server", "8080", "--directory", str(folder)]
    dnsmasq = ["dnsmasq", "--no-daemon", f"--conf-file={configuration}"]
    assert " ".join(web) in readme
    assert " ".join(dnsmasq) in readme
    leases = f"--dhcp-leasefile={scratch / 'leases'}"
    with network() as made, contextlib.ExitStack() as running:
        running.enter_context(made.running(web, scratch / "web.log"))
        running.enter_context(made.running([*dnsmasq, leases], scratch / "dnsmasq.log"))
        if beside:
            router = ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0"]
            router += ["--dhcp-range=192.0.2.50,192.0.2.60", f"--dhcp-leasefile={scratch / 'router-leases'}"]
            running.enter_context(made.running(router, scratch / "router.log", router=True))
        yield made


def said(scratch):
    """What the servers said, for the message of a test that fails, and to see who served what."""
    return (scratch / "dnsmasq.log").read_text(errors="replace") + (scratch / "web.log").read_text(errors="replace")


def test_bios_with_ipxe_in_the_card_restores_over_http(prepared, folder, tmp_path):
    disk = Disk(blank(tmp_path / "target.img", DISK_BYTES))
    machine = Machine(Firmware.BIOS, disks=(disk,), more=card())
    with served(folder, tmp_path) as lan, switched_on(InTheNetwork(machine, lan)) as guest:
        started(guest)
        assert "GET /boot.ipxe" in said(tmp_path)
        assert "grub.pxe to" not in said(tmp_path)
        assert BOOTIF in done(guest, "cat /proc/cmdline")
        assert "0 loaded units" in done(guest, "systemctl --failed --no-pager")
        done(guest, "for n in $(seq 300); do ip -4 route | grep -q 192.0.2 && break; sleep 1; done")
        restore = f"curl -sf {URL}images/{prepared.image.name} | imager restore - /dev/vda --yes --quiet"
        done(guest, f"set -o pipefail; {restore}", timeout_seconds=BOOT_SECONDS)
        guest.pull_the_plug()
    ran(imager_app, "verify", prepared.image, "--against", disk.path)


def test_secure_boot_over_pxe_beside_a_router(folder, tmp_path):
    machine = Machine(Firmware.SECURE_BOOT, more=card(rom=""))
    with served(folder, tmp_path, beside=True) as lan, switched_on(InTheNetwork(machine, lan)) as guest:
        started(guest)
        assert f"{folder}/shimx64.efi to" in said(tmp_path)
        assert f"{folder}/grubx64.efi to" in said(tmp_path)
        assert "GET /live/vmlinuz" in said(tmp_path)
        assert "SecureBoot enabled" in done(guest, "mokutil --sb-state")
        assert BOOTIF in done(guest, "cat /proc/cmdline")


@pytest.mark.slow
def test_bios_without_ipxe_gets_grub(folder, tmp_path):
    """QEMU's card has iPXE; without the line that knows it, it is treated like any other."""
    machine = Machine(Firmware.BIOS, more=card())
    with served(folder, tmp_path, left_out=["set:ipxe"]) as lan, switched_on(InTheNetwork(machine, lan)) as guest:
        started(guest)
        assert f"{folder}/grub.pxe to" in said(tmp_path)
        assert f"{folder}/grub/grub.cfg to" in said(tmp_path)
        assert BOOTIF in done(guest, "cat /proc/cmdline")


@pytest.mark.slow
@pytest.mark.parametrize("firmware", [Firmware.UEFI, Firmware.SECURE_BOOT], ids=["uefi", "secure-boot"])
def test_uefi_starts_over_http(folder, tmp_path, firmware):
    """This firmware tries PXE first; without the line that knows it, nobody answers that, and HTTP boot comes next."""
    machine = Machine(firmware, more=card(rom=""))
    with served(folder, tmp_path, left_out=["set:uefi"]) as lan, switched_on(InTheNetwork(machine, lan)) as guest:
        started(guest)
        assert "sent /" not in said(tmp_path), "something came over TFTP"
        for name in ("shimx64.efi", "/grubx64.efi", "grub/grub.cfg", "live/vmlinuz", "live/10-base.squashfs"):
            assert f'"GET /{name} HTTP/1.1" 200' in said(tmp_path)
        state = "enabled" if firmware is Firmware.SECURE_BOOT else "disabled"
        assert f"SecureBoot {state}" in done(guest, "mokutil --sb-state")
        assert BOOTIF in done(guest, "cat /proc/cmdline")


def directly(folder, url, *words):
    """The machine as it is when a boot loader has done its part."""
    options = f"console=ttyS0,115200 bootmedia.fetch={url}"
    boot = DirectBoot(folder / "live" / "vmlinuz", folder / "live" / "initrd", options)
    return Machine(Firmware.BIOS, direct_boot=boot, with_network=not words, more=words)


@pytest.mark.slow
def test_layers_of_another_medium_are_refused(folder, tmp_path):
    layer = folder / "live" / "20-imager.squashfs"
    content = bytearray(layer.read_bytes())
    content[len(content) // 2] ^= 1
    layer.write_bytes(content)
    port = free_port()
    web = ["python3", "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    with (
        (tmp_path / "web.log").open("wb") as log,
        subprocess.Popen(web, stdout=log, stderr=log) as server,
        switched_on(directly(folder, f"http://10.0.2.2:{port}/live")) as guest,
    ):
        guest.wait_for("20-imager.squashfs, attempt 1 of 5: it does not belong", timeout_seconds=BOOT_SECONDS)
        assert "starting the system" not in guest.said
        server.terminate()
        guest.wait_for("attempt 3 of 5: can't connect to remote host", timeout_seconds=BOOT_SECONDS)


@pytest.mark.slow
def test_a_network_without_a_dhcp_server_is_told(folder):
    machine = directly(folder, URL, "-netdev", "hubport,id=lan,hubid=0", "-device", "virtio-net-pci,netdev=lan")
    with switched_on(machine) as guest:
        guest.wait_for("eth0: there is a link, but no DHCP server gave an address", timeout_seconds=BOOT_SECONDS)
