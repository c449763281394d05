# SPDX-License-Identifier: GPL-3.0-or-later
"""What only root can do to restored disks, said in one sentence before anything is written."""

from __future__ import annotations

import os

from imager.errors import UsageError


def refuse_without_root(work: str, hint: str) -> None:
    """Before anything is written: what comes after would fail.

    Args:
        work: What was asked for, as the beginning of a sentence.
        hint: What else can be done than running it as root.

    Raises:
        UsageError: This is not root.
    """
    if os.geteuid() != 0:
        raise UsageError(
            f"{work} by root only: file systems on the disks are mounted, and programs work on them",
            hint=f"Run it as root. {hint}",
        )
