# SPDX-License-Identifier: GPL-3.0-or-later
"""MD arrays, assembled by mdadm from exactly the members at hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from imager.devices.sysfs import System
from imager.errors import VolumeFailed
from imager.opening.model import OpenVolume
from imager.opening.nodes import again_and_again, uninterrupted
from imager.process import ProgramFailed, run

_numbers = count(1)


def open_array(stack: ExitStack, members: Sequence[OpenVolume], *, writable: bool) -> str:
    """Assemble an array until the stack is closed; its path.

    One that the system has started by itself is taken as it is, and stays. None is started that lacks members: the
    others would be out of date.

    Raises:
        VolumeFailed: It cannot be assembled, or some of its members are not at hand.
    """
    wanted = members[0].content.facts.get("members", "")
    there = [member for member in members if member.content.facts.get("role", "") != "none"]
    if wanted.isdecimal() and len(there) < int(wanted):
        raise VolumeFailed(f"only {len(there)} of the {wanted} members of the array are here")
    running = _running(members)
    if running:
        return running
    name = f"/dev/md/imager-{os.getpid()}-{next(_numbers)}"
    words = ["mdadm", "--assemble", name, "--config=/dev/null", *([] if writable else ["--readonly"])]
    try:
        with uninterrupted():
            run([*words, *(member.path for member in members)])
            path = str(Path(name).resolve())
            stack.callback(again_and_again, lambda: run(["mdadm", "--stop", path]))
    except ProgramFailed as error:
        raise VolumeFailed(error.message) from error
    return path


def stop_running(members: Sequence[OpenVolume]) -> None:
    """Stop the array that the system has started on these members, if it has.

    Raises:
        ProgramFailed: It is in use.
    """
    running = _running(members)
    if running:
        again_and_again(lambda: run(["mdadm", "--stop", running]))


def _running(members: Sequence[OpenVolume]) -> str:
    """The array that already stands on exactly these members, or ""."""
    system = System()
    names = {system.name_of_path(member.path) for member in members}
    arrays = {holder for name in names if name for holder in system.holders(name) if holder.startswith("md")}
    found = [array for array in arrays if set(system.slaves(array)) == names]
    return str(system.node(found[0])) if len(found) == 1 else ""
