# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs programs of a restored system inside of it, walled off from the machine that repairs it.

Each program gets namespaces of its own: mounts (gone when it ends), processes (none is left behind, and it ends when we
are killed), network (none), host name. It sees the restored system as its root, the disks that were restored and no
others, and this machine's hardware in /sys, which it can only read. This is no prison: the program is root's, and
comes from the image. It keeps honest programs from what they have no business with: a search for other systems on
other disks, a running service, a mail.

References:
    unshare(1), setpriv(1), mount_namespaces(7), pid_namespaces(7); systemd, Container Interface: what /dev must hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imager import temporary
from imager.booting.steps import SYSTEM
from imager.booting.tree import Tree
from imager.errors import VolumeFailed
from imager.process import Finished, run

_SECONDS: Final = 4 * 3600
"""An initramfs for each of several kernels, on a slow stick, by an emulated processor."""
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NODES: Final = ("null", "zero", "full", "random", "urandom", "tty", "mapper/control", "btrfs-control", "loop-control")
_ENDS_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL")
_WALLS: Final = (
    *_ENDS_WITH_US,
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
    *("--net", "--ipc", "--uts"),
)
# $1: an empty folder that becomes the root; $2: the system's root. Then, up to --, pairs of a folder and the place in
# the system where it is shown, a path without links; up to the next --, devices and links below /dev; then the command.
_SCRIPT: Final = r"""
set -e
cd / # cp --parents looks for the folders of a path from where it is
top=$1; mount --bind "$2" "$top"; shift 2
while [ "$1" != -- ]; do mount --bind "$1" "$top$2"; shift 2; done; shift
mount -t proc -o nosuid,noexec,nodev proc "$top/proc"
mount --bind /sys "$top/sys"; mount -o remount,bind,ro "$top/sys"
mount -t tmpfs -o mode=755,nosuid,nodev run "$top/run"; mkdir -p "$top/run/lock" "$top/run/udev"
if [ -d /run/udev ]; then mount --bind /run/udev "$top/run/udev"; mount -o remount,bind,ro "$top/run/udev"; fi
mount -t tmpfs -o mode=755,nosuid dev "$top/dev"; mkdir "$top/dev/shm" "$top/dev/pts"
ln -s /proc/self/fd "$top/dev/fd"; ln -s fd/0 "$top/dev/stdin"; ln -s fd/1 "$top/dev/stdout"
ln -s fd/2 "$top/dev/stderr"
while [ "$1" != -- ]; do cp -a --parents "$1" "$top"; shift; done; shift
while [ "$1" != -- ]; do mkdir -p "$top/dev/disk/by-uuid"; ln -s "$2" "$top/dev/disk/by-uuid/$1"; shift 2; done; shift
exec chroot "$top" /usr/bin/env -i "$@"
"""


# The same for a program of this machine, which works on the system from outside: no other root, nothing is hidden.
_SCRIPT_HERE: Final = r"""
set -e
top=$1; mount --bind "$2" "$top"; shift 2
while [ "$1" != -- ]; do mount --bind "$1" "$top$2"; shift 2; done; shift
exec "$@"
"""


@dataclass(frozen=True)
class Inside:
    """A restored system whose programs can be run.

    Attributes:
        tree: Its files.
        devices: Paths of the disks that it lies on, of their partitions, and of the volumes in them.
        uuids: Devices by the UUIDs of what is in them: a machine without udev has no links for them.
    """

    tree: Tree
    devices: tuple[str, ...]
    uuids: dict[str, str] = field(default_factory=dict)

    def run(self, command: Sequence[str], environment: Sequence[tuple[str, str]] = ()) -> Finished:
        """Run a program to its end, however that is.

        Raises:
            VolumeFailed: The system lacks a folder that something must be mounted at.
            ProgramFailed: It could not be started.
        """
        shown = self._shown()
        for point in ("/proc", "/sys", "/run", "/dev"):
            if self._real(point) != point:
                raise VolumeFailed(f"{point} of the restored system is a link, so nothing can be mounted there")
        nodes = tuple(dict.fromkeys(_nodes_and_links(self.devices)))
        words = [str(self.tree.root), *shown, "--", *nodes, "--", *self._missing_links(nodes), "--"]
        variables = [_PATH, "LC_ALL=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"]
        variables += [f"{name}={value}" for name, value in environment]
        with temporary.folder("inside") as top:  # mounted upon in the namespace only
            whole = [*_WALLS, "sh", "-c", _SCRIPT, "sh", str(top), *words, *variables, *command]
            return run(whole, timeout_seconds=_SECONDS, allowed=range(-64, 256))

    def run_here(self, command: Sequence[str], environment: Sequence[tuple[str, str]] = ()) -> Finished:
        """Run a program of this machine on the system, in which SYSTEM stands for the folder that is its root.

        Raises:
            VolumeFailed: The system lacks a folder that something must be mounted at.
            ProgramFailed: It could not be started.
        """
        with temporary.folder("inside") as top:
            words = [*_ENDS_WITH_US, "unshare", "--mount", "--propagation", "private"]
            words += ["sh", "-c", _SCRIPT_HERE, "sh", str(top)]
            words += [str(self.tree.root), *self._shown(), "--", *(word.replace(SYSTEM, str(top)) for word in command)]
            return run(words, timeout_seconds=_SECONDS, allowed=range(-64, 256), environment=dict(environment))

    def _shown(self) -> list[str]:
        """Pairs of a folder and the place in the system where it is shown."""
        points = sorted(self.tree.mounts)
        return [word for point in points for word in (str(self.tree.mounts[point]), self._real(point))]

    def _real(self, point: str) -> str:
        try:
            real = self.tree.real_path(point)
        except OSError as error:
            raise VolumeFailed(f"{point} of the restored system: {error.strerror}") from error
        if not self.tree.is_folder(point):
            raise VolumeFailed(f"the restored system has no folder {point}, where something must be mounted")
        return real

    def _missing_links(self, nodes: Sequence[str]) -> Iterator[str]:
        for uuid, device in self.uuids.items():
            if f"/dev/disk/by-uuid/{uuid}" not in nodes and "/" not in uuid and not uuid.startswith("."):
                yield from (uuid, device)


def _nodes_and_links(devices: Sequence[str]) -> Iterator[str]:
    """Paths below /dev: what every program needs, the devices, and all links that lead to them."""
    yield from (f"/dev/{name}" for name in _NODES if Path("/dev", name).exists())
    real = {str(Path(device).resolve()) for device in devices}
    yield from sorted(real)
    for folder, _, names in os.walk("/dev"):
        links = (Path(folder, name) for name in names)
        yield from (str(link) for link in links if link.is_symlink() and str(link.resolve()) in real)
