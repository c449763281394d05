# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine to practise on: `make practice-machine` makes its disk, and `start` switches it on in this terminal.

The disk holds a real, small Debian for UEFI, the one that the tests in virtual machines image. No root is needed: as
another user it is made in a user namespace, which Debian lets everybody have.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the tests are not installed

from bootmedia.machine import Bus, Disk, Firmware, Machine  # noqa: E402
from tests.vm.sources.debian import installed_system  # noqa: E402
from tests.vm.sources.layouts import SOURCES, make_source  # noqa: E402

FOLDER = ROOT / "build" / "practice"
SOURCE = SOURCES["uefi-ext4"]


def main() -> None:
    """Do what the words say."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = words.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="make the disk")
    make.add_argument("disk", type=Path, nargs="?", default=FOLDER / "old.img")
    start = commands.add_parser("start", help="switch a machine on; Ctrl-C pulls its plug")
    start.add_argument("disk", type=Path)
    start.add_argument("--stick", type=Path, help="a stick that it starts from")
    start.add_argument("--memory", type=Path, default=FOLDER / "firmware", help="folder of the firmware's memory")
    start.add_argument("--no-kvm", action="store_true", help="emulate the processor also where /dev/kvm could help")
    given = words.parse_args()
    if given.command == "make":
        make_disk(given.disk.absolute())
    else:
        switch_on(given.disk, given.stick, given.memory, "tcg" if given.no_kvm else accelerator())


def make_disk(disk: Path) -> None:
    """Fetch the packages of the system if need be, and lay it onto a new disk."""
    if disk.exists():
        sys.exit(f"{disk} is there already: remove it, or give another name")
    system = installed_system()
    if os.geteuid() != 0:
        # What is root's in the system is root's in a namespace, and so in the file system that is made there.
        again = [sys.executable, __file__, "make", str(disk)]
        sys.exit(subprocess.call(["unshare", "--map-root-user", "--map-auto", "--", *again]))
    disk.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=disk.parent) as scratch:
        make_source(SOURCE, disk, Path(scratch))
    print(f"{disk}: {disk.stat().st_blocks >> 11} MiB of Debian, made of {system}")


def accelerator() -> str:
    """What executes the machine's instructions: the processor itself, where this user may have it and it works.

    In some virtual machines /dev/kvm is there, and QEMU aborts as soon as it sets the processor up. So it is tried.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    tried = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-nodefaults", "-display", "none"]
    done = subprocess.run([*tried, "-monitor", "stdio"], input=b"quit\n", capture_output=True, check=False, timeout=30)
    return "kvm" if done.returncode == 0 else "tcg"


def switch_on(disk: Path, stick: Path | None, memory: Path, accelerator: str) -> None:
    """Become the machine."""
    memory.mkdir(parents=True, exist_ok=True)
    machine = Machine(
        Firmware.SECURE_BOOT,
        # What comes first is started first.
        disks=(*([Disk(stick, Bus.USB)] if stick else []), Disk(disk, Bus.NVME, serial=disk.stem.upper())),
        with_network=True,
        accelerator=accelerator,
    )
    command = machine.command(memory)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
