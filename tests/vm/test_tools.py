# SPDX-License-Identifier: GPL-3.0-or-later
"""What a medium is made of, judged by others' tools; and a guest that is only a shell of this machine."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from bootmedia.errors import BootFailed
from bootmedia.guest import switched_on
from bootmedia.machine import Firmware, Machine
from bootmedia.menu import make_menu
from bootmedia.recipes import RECIPE, read_recipe
from bootmedia.tree import Tree
from bootmedia.trial import try_out
from tests.harness.programs import call
from tests.vm.sources.debian import HERE as SOURCES


class Shell:
    """In place of a machine: bash on a pipe."""

    def command(self, scratch):
        return ["bash", "--noprofile", "--norc"]


def test_cpio_reads_what_the_kernel_will(tmp_path):
    tree = Tree()
    tree.add_file("init", b"#!/bin/sh\n", mode=0o755)
    tree.add_file("lib/modules/x.ko", b"1234567")
    tree.add_link("lib64", "lib")
    archive = io.BytesIO()
    tree.write_cpio(archive, time=0)
    (tmp_path / "a.cpio").write_bytes(archive.getvalue())
    call("cpio", "-i", "-d", "--quiet", "-D", tmp_path / "out", "-F", tmp_path / "a.cpio", "--make-directories")
    out = tmp_path / "out"
    assert (out / "init").read_bytes() == b"#!/bin/sh\n"
    assert (out / "init").stat().st_mode & 0o777 == 0o755
    assert (out / "lib64" / "modules" / "x.ko").read_bytes() == b"1234567"


def test_grub_accepts_the_menus(tmp_path):
    menu = make_menu(read_recipe("rescue"), medium_id="0123", title="T", timeout_seconds=3)
    for text in (menu.grub, menu.efi):
        call("grub-script-check", input_text=text)


@pytest.mark.parametrize(
    "name", ["initrd/init", "initrd/network", "initrd/dhcp", "overlay/usr/local/bin/bootmedia-greeting", "customize.sh"]
)
def test_shells_accept_the_scripts(name):
    call("busybox", "sh", "-n", RECIPE / name)
    # Words of a line, and not lines, are wanted in both places that SC2013 warns of.
    call("shellcheck", "--shell=dash", "--exclude=SC2013", RECIPE / name)


def test_a_stick_is_not_mounted_whole_before_its_partitions_are_known(tmp_path):
    """The kernel shows a disk first and its partitions a moment later; mounted whole, they could not be opened."""
    (function,) = re.findall(r"^block_devices\(\) \{.*?^\}\n", (RECIPE / "initrd/init").read_text(), re.M | re.S)
    shown, run = tmp_path / "block", tmp_path / "run"
    run.mkdir()
    script = function.replace("/sys/class/block", str(shown)).replace("/run/", f"{run}/") + "block_devices"

    def seen(*names):
        for name in names:
            (shown / name).mkdir(parents=True)
            if name[-1].isdigit() and "/" in name:
                (shown / name / "partition").touch()
                (shown / Path(name).name).symlink_to(shown / name)
        return call("busybox", "sh", "-c", script).split()

    assert seen("sda", "sr0", "loop0") == ["sr0"]
    assert seen("sda/sda1", "sdb") == ["sda1", "sr0"]
    assert seen() == ["sda1", "sdb", "sr0"]  # a stick without partitions, seen twice


@pytest.mark.parametrize("name", ["customize.sh", "prove"])
def test_shells_accept_what_source_machines_run(name):
    call("shellcheck", "--shell=dash", SOURCES / name)


def test_a_guest_answers_with_status_and_output(tmp_path):
    with switched_on(Shell(), scratch=tmp_path) as guest:
        guest.take_shell()
        assert guest.run("echo one; false").status == 1
        answer = guest.run("printf 'a\\nb'")
        assert (answer.status, answer.output) == (0, "a\nb")


def test_a_guest_that_says_nothing_is_given_up(tmp_path):
    with switched_on(Shell(), scratch=tmp_path) as guest, pytest.raises(BootFailed, match="not within 1 s"):
        guest.wait_for("never", timeout_seconds=1)


def test_a_guest_that_is_off_is_told(tmp_path):
    with switched_on(Shell(), scratch=tmp_path) as guest:
        guest.type("echo last words; exit\n")
        with pytest.raises(BootFailed, match=r"the machine is off\. Its last words: last words"):
            guest.wait_for("never", timeout_seconds=60)


def test_a_plug_that_is_pulled_ends_the_machine(tmp_path):
    with switched_on(Shell(), scratch=tmp_path) as guest:
        guest.pull_the_plug()
        assert not guest.is_on


def test_a_machine_that_qemu_does_not_start_is_told_in_its_words(tmp_path):
    medium = tmp_path / "empty.iso"
    medium.touch()
    machine = Machine(Firmware.BIOS, medium, accelerator="such")
    with pytest.raises(BootFailed, match=r"QEMU ended: .*such") as failed:
        try_out(machine, timeout_seconds=60, reached=lambda stage: None)
    assert "emulated" in failed.value.hint
