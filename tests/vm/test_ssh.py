# SPDX-License-Identifier: GPL-3.0-or-later
"""From another machine: keys and one-time passwords open the medium, and a lost connection ends nothing."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bootmedia.cli.app import app
from bootmedia.guest import switched_on
from bootmedia.machine import Firmware, Machine
from tests.harness.disks import MIB
from tests.harness.programs import call
from tests.harness.secure_shell import free_port
from tests.harness.terminals import ENTER, in_a_terminal
from tests.vm.conftest import blank, facts, once, ran
from tests.vm.test_medium import done, started
from tests.vm.test_wizard import BOOT_SECONDS, goes_to_the_agreement, is_restored

PLACE = "root@127.0.0.1"
WRITTEN_BYTES_PER_SECOND = MIB
"""To the disk that is restored: it takes half a minute, in which the connection is lost."""


@pytest.fixture(scope="module")
def opened(prepared, tmp_path_factory, worker_id):
    """A medium that a key opens, and the key."""
    with once(tmp_path_factory, worker_id, "opened") as folder:
        key, medium = folder / "key", folder / "ssh.iso"
        if not medium.exists():
            call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
            words = ("--hostname", "away", "--keymap", "de", "--include", prepared.image)
            ran(app, "build", medium, "--ssh-key", f"{key}.pub", *words)
    return medium, key


def options(port, folder):
    """Known hosts are checked by whoever uses this; here the host is as new as its key."""
    chosen = ("StrictHostKeyChecking=no", f"UserKnownHostsFile={folder / 'known'}", "ConnectTimeout=120")
    return ["-o", f"Port={port}", *(word for option in chosen for word in ("-o", option))]


def logged_in(words, terminal="vt220", **others):
    """A person's login, with a terminal of 80 by 24."""
    return in_a_terminal(
        ["ssh", "-tt", *map(str, words), PLACE], {"PATH": os.environ["PATH"], "TERM": terminal, **others}
    )


def when_it_listens(*command):
    """What a command prints, as soon as it can reach the guest."""
    deadline = time.monotonic() + BOOT_SECONDS
    while True:
        try:
            return call(*command)
        except RuntimeError:
            assert time.monotonic() < deadline, command
            time.sleep(2)


def wait_for_sshd(guest):
    done(guest, "for n in $(seq 300); do ss -Hlnt | grep -q ':22 ' && break; sleep 1; done", timeout_seconds=900)


@pytest.mark.slow
def test_a_key_opens_the_medium(opened, tmp_path):
    """For commands, copies and shells; and with a host name and a keyboard layout."""
    medium, key = opened
    port = free_port()
    machine = Machine(Firmware.BIOS, medium, with_network=True, forwarded_ports=((port, 22),))
    with switched_on(machine) as guest:
        guest.wait_for("what is to be done", timeout_seconds=BOOT_SECONDS)
        words = options(port, tmp_path)
        assert "imager " in when_it_listens("ssh", *words, "-i", key, PLACE, "imager --version")
        # A disk that dies is told of in the kernel's log, and not over what somebody reads on the screen.
        told = "echo '<3>a sector is gone' >/dev/kmsg; sleep 3; dmesg | grep 'a sector is gone'"
        call("ssh", *words, "-i", key, PLACE, told)
        assert "a sector is gone" not in guest.said
        guest.take_shell()
        assert done(guest, "hostname") == "away"
        assert done(guest, "systemctl show --property=Result bootmedia-keymap") == "Result=success"
        call("scp", "-q", *words, "-i", key, f"{PLACE}:/etc/hostname", tmp_path / "copy")
        assert (tmp_path / "copy").read_text() == "away\n"
        # Without a terminal, and with one for a command: no wizard, no tmux.
        assert call("ssh", *words, "-i", key, PLACE, input_text="echo plain-${TMUX-no}\n").endswith("plain-no\n")
        assert "plain-no" in call("ssh", "-tt", *words, "-i", key, PLACE, "echo plain-${TMUX-no}")
        assert guest.run("pgrep tmux").status == 1
        with pytest.raises(RuntimeError, match="Permission denied"):
            call("ssh", *words, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i", "/dev/null", PLACE, "true")


@pytest.mark.slow
def test_a_restore_outlives_the_connection_that_began_it(opened, prepared, tmp_path):
    """The client is killed in the middle, as a cable is pulled; who logs in again finds the wizard at work."""
    medium, key = opened
    port, target = free_port(), blank(tmp_path / "target.img", 160 * MIB)
    slow = f"if=none,id=slow,format=raw,cache=unsafe,file={target},throttling.bps-write={WRITTEN_BYTES_PER_SECOND}"
    machine = Machine(
        Firmware.BIOS,
        medium,
        as_stick=True,
        with_network=True,
        forwarded_ports=((port, 22),),
        more=("-drive", slow, "-device", "ide-hd,bus=ide.1,drive=slow,serial=EMPTY1"),
    )
    words = [*options(port, tmp_path), "-i", key]
    with switched_on(machine) as guest:
        started(guest)
        wait_for_sshd(guest)
        with logged_in(words) as (terminal, client):
            terminal.sees("Nothing has been written to any disk.", "Power off", seconds=BOOT_SECONDS)
            print("free with the wizard of SSH alone:", done(guest, "grep MemAvailable /proc/meminfo"))
            assert terminal.lines[23].startswith(" Up/Down move")
            goes_to_the_agreement(terminal)
            terminal.types("EMPTY1" + ENTER)
            deadline = time.monotonic() + BOOT_SECONDS
            while written(target) < 8 * MIB and time.monotonic() < deadline:
                time.sleep(0.05)
            client.kill()
        at_the_loss = written(target)
        with logged_in(words) as (terminal, client):
            terminal.sees("All that was asked for is done.", "read back: it is the same", seconds=BOOT_SECONDS)
            print("free after it:", done(guest, "grep MemAvailable /proc/meminfo"))
            terminal.types("q")
            terminal.sees("recovery-wizard: left", "root@away", seconds=BOOT_SECONDS)
            terminal.types("exit" + ENTER)
            assert client.wait(BOOT_SECONDS) == 0
        guest.type("poweroff\n")
        guest.wait_until_off(timeout_seconds=BOOT_SECONDS)
    assert 8 * MIB <= at_the_loss < written(target), "the connection was lost too late"
    is_restored(prepared, target, tmp_path)


def written(disk):
    """Bytes of a file that are not a hole."""
    return disk.stat().st_blocks * 512


@pytest.mark.slow
def test_a_password_opens_the_medium_once(prepared, tmp_path):
    """Nothing listens before; the second login with it is refused, and who is in stays."""
    port = free_port()
    machine = Machine(Firmware.BIOS, prepared.medium, with_network=True, forwarded_ports=((port, 22),))
    with switched_on(machine) as guest:
        started(guest)
        assert guest.run("ss -Hlnt | grep ':22 '").status == 1
        done(guest, "for n in $(seq 300); do ip -4 -o address | grep -q 10.0.2.15 && break; sleep 1; done")
        words = [*options(port, tmp_path), "-o", "NumberOfPasswordPrompts=1", "-o", "PubkeyAuthentication=no"]
        shown, asked = opened_once(guest, tmp_path)
        assert shown["addresses"][0] == "10.0.2.15"
        long = "recovery --version; sleep 60; echo still in"
        with ThreadPoolExecutor() as pool:
            first = pool.submit(call, "ssh", *words, PLACE, long, env=asked)
            wait_until_used(guest)
            assert "recovery " in first.result()
            assert "still in" in first.result()
        assert shown["fingerprint"] in call("ssh-keygen", "-lf", tmp_path / "known")
        assert guest.run("ss -Hlnt | grep ':22 '").status == 1
        assert done(guest, "grep ^root: /etc/shadow").split(":")[1] == "*"
        again, asked_again = opened_once(guest, tmp_path / "again")
        assert again["password"] != shown["password"]
        with pytest.raises(RuntimeError, match="Permission denied"):
            call("ssh", *words, PLACE, "true", env=asked)
        with logged_in(words, **asked_again) as (terminal, client):
            terminal.sees("Nothing has been written to any disk.", "Power off", seconds=BOOT_SECONDS)
            wait_until_used(guest)
            terminal.chooses("Network", seconds=BOOT_SECONDS)
            terminal.sees("Static address", seconds=BOOT_SECONDS)
            client.kill()
        _, asked_later = opened_once(guest, tmp_path / "later")
        with logged_in(words, **asked_later) as (terminal, _):
            terminal.sees("Static address", seconds=BOOT_SECONDS)
        opened_once(guest, tmp_path / "last")
        done(guest, "test -e /run/recovery-ssh/unused && recovery ssh --close")
        assert guest.run("ss -Hlnt | grep ':22 '").status == 1


def opened_once(guest, folder):
    """Have a password shown: what was said, and the environment in which ssh answers with it."""
    shown = facts(done(guest, "recovery ssh --json"))
    folder.mkdir(exist_ok=True)
    answer = folder / "answer"
    answer.write_text(f"#!/bin/sh\necho {shown['password']}\n")
    answer.chmod(0o700)
    return shown, {"SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force"}


def wait_until_used(guest):
    done(guest, "for n in $(seq 300); do test -e /run/recovery-ssh/unused || break; sleep 1; done", timeout_seconds=900)
    done(
        guest,
        "for n in $(seq 300); do systemctl -q is-active recovery-ssh || break; sleep 1; done",
        timeout_seconds=900,
    )
