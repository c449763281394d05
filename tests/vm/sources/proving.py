# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets a source machine, or what was restored of it, say from inside what it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bootmedia.errors import BootFailed
from bootmedia.guest import Guest, switched_on
from bootmedia.machine import Machine

START_SECONDS = 900
PROVE_SECONDS = 900


def log_in(guest: Guest, passphrase: str = "") -> None:
    """Wait until the machine has started from its own disk, and take its shell.

    Raises:
        BootFailed: It does not start; the message shows the last that it said.
    """
    _wait_for(guest, r"[Uu]nlock disk" if passphrase else r"^root@\S+:~# ")
    if passphrase:
        guest.type(f"{passphrase}\n")
        _wait_for(guest, r"^root@\S+:~# ")
    guest.take_shell(timeout_seconds=START_SECONDS)


def _wait_for(guest: Guest, words: str) -> None:
    # These end a start that failed, and waiting longer would change nothing.
    failed = r"Kernel panic|\(initramfs\)|grub rescue>|grub> |BdsDxe: No bootable|No bootable device|emergency mode"
    found = guest.wait_for(f"{words}|{failed}", timeout_seconds=START_SECONDS)
    if re.search(failed, found[0]):
        raise BootFailed(f"the machine did not start from its disk: {guest.said[-3000:]}")


def proof(guest: Guest, *, keep: bool = False) -> dict[str, str]:
    """What the program `prove` says of the machine, by its first word.

    Args:
        guest: Logged in.
        keep: Keep the list of everything on the machine, for its own later proof.
    """
    answer = guest.run(f"prove{' --keep' if keep else ''}", timeout_seconds=PROVE_SECONDS)
    assert answer.status == 0, answer.output
    facts = dict(re.findall(r"^prove: (\w+) (.*)$", answer.output, re.MULTILINE))
    assert "everything is as it was" in answer.output, answer.output
    assert facts["state"] == "running", answer.output
    return facts


def switch_off(guest: Guest) -> None:
    """Let the machine shut itself down."""
    guest.type("poweroff\n")
    guest.wait_until_off(timeout_seconds=START_SECONDS)


@contextmanager
def watched(machine: Machine, folder: Path, name: str) -> Iterator[Guest]:
    """A machine that is switched on; what it says on the serial line is kept in the folder, and told on a failure.

    Started again with the same folder, it has the same firmware's memory.
    """
    log = folder / f"{name}.log"
    with switched_on(machine, scratch=folder) as guest:
        try:
            yield guest
        except BaseException:
            last = "\n".join(f"    {line}" for line in guest.said.splitlines()[-25:])
            print(f"{name}: the last lines of {log}:\n{last}")
            raise
        finally:
            log.write_text(f"{guest.firmware_said}\n--- serial line\n{guest.said}", errors="replace")
