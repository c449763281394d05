# SPDX-License-Identifier: GPL-3.0-or-later
"""Remembers on the stick which machines it has restored: a stick that was left in must not do it again by itself.

A power cut a month later would start the machine from it, and the month would be gone. Who calls `recovery run` by hand
is not kept from anything.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from bootmedia.recovery.errors import RestoredBefore
from bootmedia.recovery.facts import MachineFacts
from bootmedia.recovery.places import Found, Surroundings
from imager.errors import StoreError
from imager.restore.steps import stamp

_FOLDER: Final = "logs"
_DIGITS: Final = 16


def refuse_second_time(found: Found, facts: MachineFacts, around: Surroundings) -> None:
    """Stop where this stick has restored this machine by the same answers before.

    Raises:
        RestoredBefore: It has.
    """
    mark = _mark(found, facts, around)
    if mark is not None and mark.exists():
        when = mark.read_text(errors="replace").strip()[:40]
        raise RestoredBefore(
            f"this machine was restored from this stick at {when}, as {found.name} says: not again by itself",
            hint=f"Take the stick out, and start from the disk. Again all the same: recovery run. The mark is {mark}.",
            path=str(mark),
        )


def remember(found: Found, facts: MachineFacts, around: Surroundings) -> None:
    """Note that the disks of this machine are written."""
    mark = _mark(found, facts, around)
    if (mark is None or not _is_written(mark)) and around.is_live:
        around.said(
            "warning: there is no data partition that remembers this restore: take the medium out before the machine "
            "starts again, or it restores once more"
        )


def _is_written(mark: Path) -> bool:
    try:
        mark.parent.mkdir(exist_ok=True)
        with mark.open("w") as file:
            file.write(f"{stamp()}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # the stick is full, write-protected or gone
        return False
    return True


def _mark(found: Found, facts: MachineFacts, around: Surroundings) -> Path | None:
    """The file that says so; None without a data partition."""
    try:
        data = around.data_folder()
    except StoreError:
        return None
    who = re.sub(r"[^A-Za-z0-9._-]", "_", next(iter((*facts.serials, *facts.macs)), "machine"))
    return data / _FOLDER / f"restored-{who}-{found.digest[:_DIGITS]}.txt" if data else None
