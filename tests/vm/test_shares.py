# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard's shares, from real servers: Samba, NFS in user space and sshd, in a network of the test.

One guest for all: it is in a network with the servers and nobody else, so each has its usual port.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootmedia.guest import Guest, switched_on
from bootmedia.machine import Bus, Disk, Firmware, Machine
from bootmedia.wizard.shares import Share, refusal
from imager.cli.app import app as imager_app
from tests.harness.disks import MIB
from tests.harness.network import SERVER, Network, network
from tests.harness.programs import call
from tests.harness.shares import USER, nfs_server, sftp_server, smb_server
from tests.harness.terminals import BACK, CLEAR, ENTER, ESCAPE, Terminal
from tests.vm.conftest import DISK_BYTES, blank, ran
from tests.vm.test_medium import done
from tests.vm.test_netboot import InTheNetwork, card
from tests.vm.test_wizard import BOOT_SECONDS

pytestmark = pytest.mark.slow

PASSWORD = 'p,w "x"=%$#\u00fc\\ '  # noqa: S105  of servers that live for a minute
"""What options, shells and files with credentials could take for something else, and a space at its end."""
NOBODY, SILENCE = "192.0.2.99", "198.51.100.1"
"""An address of this network that nobody has, and one that a router swallows."""
SERIAL = "EMPTY1"


@dataclass(frozen=True)
class Office:
    """A dead machine and what the servers around it share.

    Attributes:
        folder: What the servers share; an image lies in a folder of it.
        disk: Of the machine.
        scratch: For the servers' own files.
    """

    lan: Network
    guest: Guest
    folder: Path
    disk: Path
    scratch: Path

    @contextlib.contextmanager
    def wizard(self) -> Iterator[Terminal]:
        """The wizard on the serial line, left at the end; then nothing of it is mounted."""
        begin = len(self.guest.heard)
        self.guest.type("recovery-wizard\n")
        terminal = Terminal(lambda: self.guest.heard[begin:], self.guest.type, lambda: self.guest.is_on)
        said = len(self.guest.said)
        try:
            terminal.sees("Restore", "Power off", seconds=BOOT_SECONDS)
            yield terminal
        finally:  # also when it failed: the next test needs the line
            if self.guest.is_on:
                terminal.types(ESCAPE)
                time.sleep(1)  # else it is the beginning of another key
                terminal.types("q")
                self.guest.wait_for("recovery-wizard: left", timeout_seconds=BOOT_SECONDS, after=said)
                self.guest.type("\n")  # should the first key have left it already
        assert "recovery-wizard" not in done(self.guest, "cat /proc/mounts")
        assert done(self.guest, "ls -A /run/recovery-wizard") == ""

    def is_restored(self, image: Path) -> None:
        """The disk is the image's; then it is empty again."""
        done(self.guest, "sync")
        ran(imager_app, "verify", image, "--against", self.disk)
        self.empties_disk()

    def empties_disk(self) -> None:
        """As if it were new."""
        blank(self.disk, DISK_BYTES)
        done(self.guest, "blockdev --flushbufs --rereadpt /dev/sda")

    def mount(self, share: Share, *, is_refused: bool = False) -> str:
        """What the wizard's own command says, with what it leaves on standard error."""
        answer = self.guest.run(f"{share.mount()} 2>&1", timeout_seconds=BOOT_SECONDS)
        assert (answer.status != 0) is is_refused, answer.output
        if is_refused:
            done(self.guest, f"rmdir {share.folder}")
        return answer.output

    def writes(self, share: Share, name: str, content: str) -> None:
        """Put a file into a share that is mounted, and unmount it."""
        done(self.guest, f"echo {content} >{share.folder}/{name} && umount {share.folder} && rmdir {share.folder}")


@pytest.fixture(scope="module")
def office(prepared, plain_medium, tmp_path_factory):
    assert os.geteuid() == 0, "a network of its own needs root"
    scratch = tmp_path_factory.mktemp("office")
    folder = scratch / "shared folder"
    (folder / "images").mkdir(parents=True)
    shutil.copy(prepared.image, folder / "images" / "server.img.zst")
    (folder / "images" / "server.img.zst").chmod(0o644)  # the user that asks over NFS is another one than here
    (folder / "readme.txt").write_text("no image\n")
    dhcp = ["dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--dhcp-range=192.0.2.50,192.0.2.60"]
    dhcp += [f"--dhcp-leasefile={scratch / 'leases'}"]
    disk = Disk(blank(scratch / "target.img", DISK_BYTES), Bus.AHCI, serial=SERIAL)
    machine = Machine(Firmware.BIOS, plain_medium, disks=(disk,), more=card(rom="", is_first=False))
    with network() as lan, contextlib.ExitStack() as running:
        running.enter_context(lan.running(dhcp, scratch / "dnsmasq.log"))
        guest = running.enter_context(switched_on(InTheNetwork(machine, lan)))
        guest.wait_for("the wizard follows", timeout_seconds=BOOT_SECONDS)
        guest.take_shell(timeout_seconds=BOOT_SECONDS)
        network_is_there = "until ip -4 route | grep -q 192.0.2; do sleep 1; done"
        done(guest, network_is_there, timeout_seconds=BOOT_SECONDS)
        yield Office(lan, guest, folder, disk.path, scratch)


@contextlib.contextmanager
def watched(guest: Guest) -> Iterator[None]:
    """Who looks at all processes, mounts and logs finds no password, and nothing that could be written to."""
    look = "cat /proc/[0-9]*/cmdline; echo; grep recovery-wizard /proc/mounts"
    done(guest, f"while :; do {look}; sleep 0.3; done >/run/seen 2>/dev/null & echo $! >/run/watching")
    try:
        yield
    finally:
        done(guest, "kill $(cat /run/watching)")
    done(guest, "tr '\\0' ' ' </run/seen >/run/words")
    mounts = done(guest, "grep -E '^[^ ]+ /run/recovery-wizard' /run/words | sort -u").splitlines()
    assert mounts
    assert all(" ro,nosuid,nodev,noexec" in mount for mount in mounts), mounts
    done(guest, "grep -F 'imager restore --yes' /run/words")  # somebody was watching
    logs = "cat /run/words /run/recovery-wizard-logs/*; journalctl -o cat; dmesg"
    found = guest.run(f"{{ {logs}; }} | grep -F {shlex.quote(PASSWORD.strip())}")
    assert (found.status, found.output) == (1, "")


def goes_to(terminal: Terminal, kind: str) -> None:
    """From the first screen to the form for a kind of share."""
    terminal.chooses("Restore", seconds=BOOT_SECONDS)
    terminal.sees(kind, seconds=BOOT_SECONDS)
    terminal.chooses(kind, seconds=BOOT_SECONDS)
    terminal.sees("Server", seconds=BOOT_SECONDS)


def restores(terminal: Terminal) -> None:
    """From the top of the share to the result."""
    to_image(terminal)
    from_contents(terminal)


def to_image(terminal: Terminal) -> None:
    """From the top of the share to what is in the image."""
    terminal.sees("folder  images/", "readme.txt", seconds=BOOT_SECONDS)
    terminal.chooses("images/", seconds=BOOT_SECONDS)
    terminal.sees("image   server.img.zst", seconds=BOOT_SECONDS)
    terminal.chooses("server.img.zst", seconds=BOOT_SECONDS)


def from_contents(terminal: Terminal) -> None:
    """From what is in the image to the result."""
    to_plan(terminal)
    from_plan(terminal)


def to_plan(terminal: Terminal) -> None:
    """From what is in the image to what would be done."""
    terminal.sees("Restore, step 3", "ext4", seconds=BOOT_SECONDS)
    terminal.types(ENTER)
    terminal.sees("Restore, step 4", f"serial {SERIAL}", seconds=BOOT_SECONDS)
    terminal.chooses(SERIAL, seconds=BOOT_SECONDS)
    terminal.sees("WILL BE DESTROYED: EVERYTHING", "(*) The whole disk", seconds=BOOT_SECONDS)
    terminal.chooses("Go on", seconds=BOOT_SECONDS)


def from_plan(terminal: Terminal) -> None:
    """From what would be done to the result."""
    agrees(terminal)
    terminal.sees("All that was asked for is done.", "read back: it is the same", seconds=BOOT_SECONDS)


def agrees(terminal: Terminal, before: Callable[[], object] = lambda: None) -> None:
    """From what would be done to a restore that runs; something else is done just before."""
    terminal.sees("Restore, step 6", "before |", "now on it, and lost", seconds=BOOT_SECONDS)
    terminal.types(ENTER)
    terminal.sees(f"type the name of the disk: sda or {SERIAL}", seconds=BOOT_SECONDS)
    before()
    terminal.types(SERIAL + ENTER)


def test_a_restore_from_a_windows_share_with_a_password_that_nobody_sees(prepared, office):
    with smb_server(office.lan, office.scratch, office.folder, PASSWORD), watched(office.guest):
        with office.wizard() as terminal:
            goes_to(terminal, "Windows share (SMB)")
            for words in (SERVER, "nosuch", USER, "", "wrong"):
                terminal.types(words + ENTER)
            terminal.reads("the server refuses this user or password", seconds=BOOT_SECONDS)
            terminal.types(CLEAR + PASSWORD + ENTER)
            terminal.reads("the server has no such share", seconds=BOOT_SECONDS)
            terminal.types(BACK * 3 + CLEAR + "backup" + ENTER * 4)
            restores(terminal)
        assert PASSWORD.strip() not in office.guest.said
    office.is_restored(prepared.image)


def test_a_restore_from_nfs(prepared, office):
    with nfs_server(office.lan, office.scratch, office.folder), watched(office.guest), office.wizard() as terminal:
        goes_to(terminal, "NFS")
        terminal.types(SERVER + ENTER + "/srv/nosuch" + ENTER)
        terminal.reads("the server does not export this folder", seconds=BOOT_SECONDS)
        terminal.types(CLEAR + str(office.folder) + ENTER)
        restores(terminal)
    office.is_restored(prepared.image)


def test_a_restore_over_ssh_with_a_password(prepared, office):
    image = office.folder / "images" / "server.img.zst"
    with (
        sftp_server(office.lan, office.scratch, PASSWORD) as fingerprint,
        watched(office.guest),
        office.wizard() as terminal,
    ):
        goes_to(terminal, "SSH / SFTP")
        for words in (SERVER, "", str(image), "root", "", "wrong"):
            terminal.types(words + ENTER)
        terminal.sees(fingerprint[:40], seconds=BOOT_SECONDS)
        terminal.chooses("Accept", seconds=BOOT_SECONDS)
        terminal.reads("refuses this user with this password", seconds=BOOT_SECONDS)
        terminal.types(CLEAR + PASSWORD + ENTER)
        terminal.sees(fingerprint[:40], seconds=BOOT_SECONDS)
        terminal.chooses("Accept", seconds=BOOT_SECONDS)
        from_contents(terminal)
    office.is_restored(prepared.image)


@contextlib.contextmanager
def share_of(office: Office, kind: str) -> Iterator[None]:
    if kind == "smb":
        with smb_server(office.lan, office.scratch, office.folder, PASSWORD):
            yield
    else:
        with nfs_server(office.lan, office.scratch, office.folder):
            yield


@dataclass
class Loss:
    """Of a server, when it has given some of an image: it is killed, or its cable is pulled out."""

    lan: Network
    is_killed: bool
    waiting: subprocess.Popen[bytes] | None = None

    def begins(self) -> None:
        """Wait for the bytes, beside the test."""
        count = "/sys/class/net/guest/statistics/tx_bytes"  # what the guest gets
        end = "true" if self.is_killed else "ip link set guest nomaster"
        script = f"enough=$(($(cat {count}) + {8 * MIB})); until [ $(cat {count}) -gt $enough ]; do :; done; {end}"
        self.waiting = subprocess.Popen(self.lan.words(["sh", "-c", script]))

    def happens(self, server: contextlib.ExitStack) -> None:
        """The server is gone when this returns."""
        assert self.waiting is not None
        assert self.waiting.wait(BOOT_SECONDS) == 0
        if self.is_killed:
            server.close()

    def is_over(self, server: contextlib.ExitStack, office: Office, kind: str) -> None:
        """It is there again."""
        if self.is_killed:
            server.enter_context(share_of(office, kind))
        else:
            call(*self.lan.words(["ip", "link", "set", "guest", "master", "switch"]))


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "silent"])
@pytest.mark.parametrize("kind", ["smb", "nfs"])
def test_a_share_that_is_lost_in_a_restore_is_told_and_the_same_works_again(prepared, office, kind, is_killed):
    loss = Loss(office.lan, is_killed)
    with contextlib.ExitStack() as server, office.wizard() as terminal:
        server.enter_context(share_of(office, kind))
        goes_to(terminal, "Windows share (SMB)" if kind == "smb" else "NFS")
        words = (SERVER, "backup", USER, "", PASSWORD) if kind == "smb" else (SERVER, str(office.folder))
        terminal.types("".join(word + ENTER for word in words))
        to_image(terminal)
        to_plan(terminal)
        agrees(terminal, loss.begins)
        loss.happens(server)
        lost = time.monotonic()
        terminal.sees("Again, from the plan on", seconds=BOOT_SECONDS)
        print(f"{kind}, {'killed' if is_killed else 'silent'}: told after {time.monotonic() - lost:.0f} s")
        print(terminal.text)
        terminal.reads("Exit status 5: the place of the image", seconds=BOOT_SECONDS)
        terminal.reads("look at cable", seconds=BOOT_SECONDS)
        terminal.reads("/dev/sda is incomplete and has no partition table", seconds=BOOT_SECONDS)
        loss.is_over(server, office, kind)
        terminal.chooses("Again, from the plan on", seconds=BOOT_SECONDS)
        from_plan(terminal)
    office.is_restored(prepared.image)


def test_nfs_3_and_a_folder_to_write_to(office):
    share = Share("nfs", SERVER, str(office.folder), is_writable=True)
    with nfs_server(office.lan, office.scratch, office.folder, versions="3"):
        office.mount(share)
        assert "vers=3" in done(office.guest, "grep recovery-wizard /proc/mounts")
        office.writes(share, "captured", "captured")
    assert (office.folder / "captured").read_text() == "captured\n"


def test_a_guest_writes_to_a_windows_share_and_a_server_of_smb_1_is_told(office):
    share = Share("smb", SERVER, "open", is_writable=True)
    with smb_server(office.lan, office.scratch, office.folder, PASSWORD):
        office.mount(share)
        office.writes(share, "guest", "by a guest")
        closed = Share("smb", SERVER, "backup")
        assert refusal(closed, office.mount(closed, is_refused=True))[0] == "the server wants a user and a password"
    assert (office.folder / "guest").read_text() == "by a guest\n"
    with smb_server(office.lan, office.scratch, office.folder, PASSWORD, more="server max protocol = NT1"):
        assert "SMB 1 only" in refusal(share, office.mount(share, is_refused=True))[0]


@pytest.mark.parametrize("kind", ["smb", "nfs"])
@pytest.mark.parametrize(
    ("server", "told"),
    [
        (NOBODY, "the server does not answer"),
        (SILENCE, "the server does not answer"),
        (SERVER, "the server does not answer"),
        ("nas.example", "nobody knows the address of this name"),
    ],
    ids=["nobody", "silence", "no-service", "no-name"],
)
def test_a_server_that_is_not_there_is_told_and_waited_for_in_vain_by_nobody(office, kind, server, told):
    share = Share(kind, server, "/images")
    assert refusal(share, office.mount(share, is_refused=True))[0] == told
