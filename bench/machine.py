# SPDX-License-Identifier: GPL-3.0-or-later
"""What was measured with what: processor, cores, memory, and the versions of all programs."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

BUSY_LOAD = 1.0
"""More than this beside the bench, and wall times of programs with several threads cannot be compared."""

_VERSIONS = (
    ("partclone", "partclone.extfs --version"),
    ("zstd", "zstd --version"),
    ("fsarchiver", "fsarchiver --version"),
    ("borg", "borg --version"),
    ("restic", "restic version"),
    ("mke2fs", "mke2fs -V"),
)


def describe() -> list[str]:
    """Lines for people."""
    return [
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {_memory_gib():.0f} GiB, Linux {platform.release()}",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {_version(words)}" for name, words in _VERSIONS),
    ]


def load() -> float:
    """How many threads want to run at the moment, on average over a minute."""
    return os.getloadavg()[0]


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace"))
    return found[1].strip() if found else platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)


def _version(command: str) -> str:
    try:
        done = subprocess.run(command.split(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True)
    except OSError:
        return "not installed"
    found = re.search(r"\d+\.\d+(\.\d+)*", done.stdout)
    return found[0] if found else "of unknown version"
