# SPDX-License-Identifier: GPL-3.0-or-later
"""A loop device for the peers that want a block device; detached by its name, and no other."""

from __future__ import annotations

import os
from pathlib import Path


def can_have_loops() -> bool:
    """Whether loop devices can be had."""
    return os.geteuid() == 0


def on_loop(path: Path, command: str) -> str:
    """Shell words that run a command while a file is attached as $device.

    Only for as long: this project does not capture a file that somebody else has open as a disk.
    """
    return f"device=$(losetup -f --show {path}); ({command}); status=$?; losetup -d $device; exit $status"
