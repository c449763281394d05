# SPDX-License-Identifier: GPL-3.0-or-later
"""A root shell on the medium without systemd and without a boot loader: for tests of everything but the boot itself.

udev runs, because it looks at every new device and so finds what is not closed in the right order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootmedia.guest import Guest, switched_on
from bootmedia.machine import DirectBoot, Disk, Firmware, Machine
from tests.harness.programs import call

BOOT_SECONDS = 900


@contextmanager
def shell(medium: Path, scratch: Path, disks: Sequence[Disk], *, memory_mib: int = 1536) -> Iterator[Guest]:
    """A guest in whose shell commands can be run."""
    for name in ("live/vmlinuz", "live/initrd", "bootmedia/about.json"):
        call("xorriso", "-osirrox", "on", "-indev", medium, "-extract", f"/{name}", scratch / Path(name).name)
    medium_id = json.loads((scratch / "about.json").read_text())["id"]
    options = f"bootmedia.id={medium_id} console=ttyS0,115200 quiet init=/bin/bash"
    boot = DirectBoot(scratch / "vmlinuz", scratch / "initrd", options)
    machine = Machine(Firmware.BIOS, medium, disks=tuple(disks), memory_mib=memory_mib, direct_boot=boot)
    with switched_on(machine) as guest:
        guest.wait_for(r"starting the system", timeout_seconds=BOOT_SECONDS)
        guest.take_shell(timeout_seconds=BOOT_SECONDS)
        ran(guest, "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb")
        ran(
            guest, "mount -t tmpfs tmpfs /tmp; /usr/lib/systemd/systemd-udevd --daemon; udevadm trigger; udevadm settle"
        )
        yield guest


def ran(guest: Guest, command: str, *, timeout_seconds: float = 1800, status: int = 0) -> str:
    """What a command printed; it must end with that status."""
    answer = guest.run(command, timeout_seconds=timeout_seconds)
    assert answer.status == status, f"{command}\n{answer.output}"
    return answer.output
