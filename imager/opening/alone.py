# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a program that sees some block devices of this machine, and no others.

btrfstune and tune2fs look for the other parts of a file system (its further devices, its journal) by identifier, on all
disks. Beside its source, those of a clone are there twice: btrfstune took one of the source's and wrote to it.

References:
    unshare(1), mount_namespaces(7).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from imager import temporary
from imager.process import Finished, run

_NODES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# $1: an empty folder; then, up to --, the nodes and links of the new /dev; then the command.
_SCRIPT: Final = r"""
set -e
cd / # cp --parents looks for the folders of a path from where it is
top=$1; shift
mount -t tmpfs -o mode=755,nosuid dev "$top"
while [ "$1" != -- ]; do cp -a --parents "$1" "$top"; shift; done; shift
mount --bind "$top/dev" /dev
exec "$@"
"""


def run_alone_with(
    devices: Sequence[str], command: Sequence[str], *, allowed: Sequence[int] = (0,), timeout_seconds: float
) -> Finished:
    """Run a program to its end, with these devices in /dev.

    Args:
        devices: Their paths.
        command: What is run.
        allowed: Exit statuses that are no failure.
        timeout_seconds: After which it is ended.

    Raises:
        ProgramFailed: It failed, or could not be started.
    """
    nodes = dict.fromkeys(_paths(devices))
    with temporary.folder("alone") as top:  # mounted upon in the namespace only
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SCRIPT, "sh", str(top), *nodes, "--"]
        return run([*words, *command], allowed=allowed, timeout_seconds=timeout_seconds, shown=command)


def _paths(devices: Sequence[str]) -> Iterator[str]:
    """Device nodes, and the links that lead to them."""
    yield from _NODES
    for device in devices:
        yield from (device, str(Path(device).resolve()))
