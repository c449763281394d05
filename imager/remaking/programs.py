# SPDX-License-Identifier: GPL-3.0-or-later
"""What the installed programs can do."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from imager.process import ProgramFailed, run


def known_options(program: str) -> str:
    """What a program says that it knows, when it is called without a word.

    Raises:
        ProgramFailed: It is not installed.
    """
    done = run([program], allowed=range(256))
    return (done.output + done.errors).decode(errors="replace")


def kernel_knows(kind: str) -> bool:
    """Whether the kernel can mount file systems of a kind, after it has loaded what it needs."""
    with suppress(ProgramFailed):
        run(["modprobe", "--quiet", kind], allowed=range(256))
    try:
        return kind in Path("/proc/filesystems").read_text(encoding="ascii").split()
    except OSError:
        return False
