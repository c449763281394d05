# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that a build calls: whether they are there, and long ones with what they say shown as they say it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from bootmedia.errors import ToolFailed, ToolMissing
from imager.process import NOWHERE, PIPE, Running, find_program, start

_DEBIAN_PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
    "unsquashfs": "squashfs-tools",
    "xorriso": "xorriso",
    "mformat": "mtools",
    "mcopy": "mtools",
    "mmd": "mtools",
    "mkfs.exfat": "exfatprogs",
    "mkfs.fat": "dosfstools",
    "mke2fs": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
}
"""Who has the programs, for the message that one is missing."""
_KEPT_LINES = 40
# mmdebstrap takes its half-made root away by itself, and what it has mounted there.
_PATIENCE_SECONDS = 20


def require_programs(*names: str) -> None:
    """Look for all programs before the first is needed.

    Raises:
        ToolMissing: Some are not installed; the hint says what installs them.
    """
    missing = [name for name in names if find_program(name) is None]
    if missing:
        packages = sorted({_DEBIAN_PACKAGES.get(name, name) for name in missing})
        raise ToolMissing(
            f"programs are not installed: {', '.join(missing)}",
            hint=f"On Debian: apt-get install --no-install-recommends {' '.join(packages)}",
            missing=missing,
        )


def follow(
    command: Sequence[str],
    said: Callable[[str], None] = lambda line: None,
    *,
    input_from: int | IO[bytes] = NOWHERE,
    output_to: int | IO[bytes] = NOWHERE,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a program to its end; each line of its messages is passed on when it comes.

    Raises:
        ProgramFailed: It is missing.
        ToolFailed: It ended with another status than 0.
    """
    with start(command, input_from=input_from, output_to=output_to, errors_to=PIPE, environment=environment) as running:
        last = _read_messages(running, said)
        code = running.wait()
    if code:
        raise ToolFailed(command[0], code, last)


def _read_messages(running: Running, said: Callable[[str], None]) -> list[str]:
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    for line in running.stderr or ():
        text = line.decode(errors="replace").rstrip()
        if text:
            last.append(text)
            said(text)
    return list(last)
