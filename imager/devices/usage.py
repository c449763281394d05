# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses a disk: the answer to "may it be read as it is" and "may it be overwritten".

In use is a closure. Upwards from the disk: its partitions, what stands on them (logical volumes, encrypted volumes,
arrays, caches, loop devices) and what stands on that; and for each of these the mounts of every namespace, swap, and
programs that have it open for writing. The kernel's own word comes last: a device that it does not give
exclusively (O_EXCL) is held, even when nothing says by whom (ZFS, a mount that no process sees).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from imager.devices import claims, idle, loops, mounts, writers
from imager.devices.sysfs import System, listing
from imager.errors import SourceBusy, TargetRefused

UseKind = Literal["mounted", "swap", "lvm", "crypt", "md", "bcache", "loop", "holder", "process", "exclusive"]

_SENTENCES: Final[dict[UseKind, str]] = {
    "mounted": "{who} is mounted at {detail}",
    "swap": "{who} is in use as swap space",
    "lvm": "{who} holds the active logical volume {detail}",
    "crypt": "{who} holds the open encrypted volume {detail}",
    "md": "{who} is a member of the running array {detail}",
    "bcache": "{who} belongs to the running cache device {detail}",
    "loop": "{who} is attached as {detail}",
    "holder": "{who} is held by {detail}",
    "process": "{who} is open for writing in {detail}",
    "exclusive": "{who} is held by something that the system does not name",
}
_REMEDIES: Final[dict[UseKind, str]] = {
    "mounted": "umount {detail}",
    "swap": "swapoff {who}",
    "lvm": "lvchange --activate n {detail}",
    "crypt": "cryptsetup close {detail}",
    "md": "mdadm --stop {detail}",
    "loop": "losetup --detach {detail}",
}
_KIND_OF_MAPPING: Final[tuple[tuple[str, UseKind], ...]] = (("LVM-", "lvm"), ("CRYPT-", "crypt"))
"""How device-mapper UUIDs begin, by the program that made the mapping."""

_PATIENCE_SECONDS: Final = 3.0
"""How long a use that may end by itself is waited for: on a busy machine it takes some time to look at a disk."""
_LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Use:
    """One reason why a disk is in use."""

    kind: UseKind
    who: str
    """The device or file that is used: the disk, a partition, or something that stands on them."""
    detail: str
    """Where it is mounted, what holds it, which program has it open."""
    writable: bool
    """Whether its content may change: False for what is mounted or attached read-only, or idle and held by us."""

    def __str__(self) -> str:
        """The reason as a sentence without its full stop."""
        text = _SENTENCES[self.kind].format(who=self.who, detail=self.detail)
        return text if self.writable else f"{text} (read-only)"

    @property
    def remedy(self) -> str:
        """The command that ends this use, or ""."""
        return _REMEDIES.get(self.kind, "").format(who=self.who, detail=self.detail)


def uses_of(path: str | os.PathLike[str], *, probe: bool = True, system: System | None = None) -> tuple[Use, ...]:
    """Everything that uses a disk, a partition or an image file; empty when it is free.

    Programs that only look (losetup trying for a free device, blkid) are waited for, when asked to probe. So are copies
    of a mount that is gone: a program with a mount namespace of its own keeps those of all that was mounted when it
    began.

    Args:
        path: A block device or a regular file.
        probe: Also ask the kernel for the device exclusively, for a moment in which nobody else can get it.
        system: A recorded machine instead of this one.
    """
    machine = system or System()
    until = time.monotonic() + (_PATIENCE_SECONDS if probe and machine.is_real else 0)
    found = _uses_now(path, probe, machine)
    while found and time.monotonic() < until and all(_may_pass(use, machine) for use in found):
        time.sleep(_LOOK_SECONDS)
        found = _uses_now(path, probe, machine)
    return found


def _may_pass(use: Use, system: System) -> bool:
    """Whether nobody needs to do anything: a look, or a mount that only another namespace has."""
    if use.kind == "mounted":
        return all(mount.point != use.detail for mount in mounts.own_mounts(system))
    return use.kind in ("process", "exclusive")


def _uses_now(path: str | os.PathLike[str], probe: bool, system: System) -> tuple[Use, ...]:
    name = system.name_of_path(path)
    if name:
        found = [*_uses_of_device(name, system)]
        return tuple(dict.fromkeys([*found, *(_held(name, found, system) if probe else ())]))
    if system.is_block_device(path):  # without sysfs only the kernel's own word is left
        is_held = probe and _is_busy(Path(path), system)
        return (Use("exclusive", os.fspath(path), "", True),) if is_held else ()
    return tuple(dict.fromkeys(_uses_of_file(Path(path), system)))


def refuse_if_in_use(path: str | os.PathLike[str], *, for_writing: bool) -> None:
    """Stop when a source may change while it is read, or when anything at all uses a target.

    Raises:
        SourceBusy: Not for_writing, and something may write to it.
        TargetRefused: for_writing, and it is in use.
    """
    uses = [use for use in uses_of(path) if for_writing or use.writable]
    if uses:
        raise in_use(os.fspath(path), uses, for_writing=for_writing)


def in_use(name: str, uses: Sequence[Use], *, for_writing: bool) -> SourceBusy | TargetRefused:
    """What to raise about a disk that is in use: by whom, and how to end that."""
    kind = TargetRefused if for_writing else SourceBusy
    return kind(
        f"{name} is in use: {'; '.join(map(str, uses))}",
        hint=_hint(uses),
        path=name,
        uses=[{"kind": use.kind, "who": use.who, "detail": use.detail} for use in uses],
    )


def _hint(uses: Sequence[Use]) -> str:
    if any(use.kind == "mounted" and use.detail == "/" for use in uses):
        return "The running system is on it: start the machine from a boot medium instead."
    # What stands on top has to go first: it was found last.
    remedies = list(dict.fromkeys(use.remedy for use in reversed(uses) if use.remedy))
    if any(use.kind == "process" for use in uses):
        remedies.insert(0, "end the programs that have it open")
    return f"To free it: {'; '.join(remedies)}." if remedies else "Find out what holds it, and end that first."


def _uses_of_device(name: str, system: System) -> Iterator[Use]:
    attached = loops.attached(system)
    yield from _uses_of_stack(_stack([name], attached, system), attached, system)
    disk = system.disk_of(name)
    if disk != name:
        yield from _uses_of_whole_disk(disk, attached, system)
    own = loops.named(name, system)
    if own:
        others = [loop for loop in attached if loop.name != name]
        yield from _uses_behind_loop(own, others, system)


def _uses_of_whole_disk(disk: str, attached: list[loops.Loop], system: System) -> Iterator[Use]:
    """What uses a partition because it uses the disk as a whole, past the partition table."""
    on_disk = _stack(system.holders(disk), attached, system)
    yield from _holders([disk], system)
    yield from _loops_on([disk], attached, system)
    yield from _mounts({disk, *on_disk}, system)
    yield from _swaps({disk, *on_disk}, system)


def _uses_behind_loop(own: loops.Loop, others: list[loops.Loop], system: System) -> Iterator[Use]:
    """Who else uses what a loop device shows."""
    if own.backing_device:
        stack = _stack([own.backing_device], others, system)
        yield from _uses_of_stack(stack, others, system)
    elif own.backing_file:
        yield from _uses_of_inode(own.backing_file, own.backing_path, others, system)


def _uses_of_file(path: Path, system: System) -> Iterator[Use]:
    try:
        status = path.stat()
    except OSError:
        return
    yield from _uses_of_inode((status.st_dev, status.st_ino), str(path), loops.attached(system), system)


def _uses_of_inode(inode: tuple[int, int], path: str, attached: list[loops.Loop], system: System) -> Iterator[Use]:
    showing = [loop for loop in attached if loop.backing_file == inode]
    for loop in showing:
        yield Use("loop", path, str(system.node(loop.name)), not loop.is_read_only)
        yield from _uses_of_stack(_stack([loop.name], attached, system), attached, system)
    for swap in mounts.swaps(system):
        if swap.is_file and _inode_of(swap.path, system) == inode:
            yield Use("swap", swap.path, "", True)
    for program in writers.of_file(inode, system):
        yield Use("process", path, program, True)


def _inode_of(path: str, system: System) -> tuple[int, int] | None:
    try:
        status = (system.root / path.lstrip("/")).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _stack(names: Iterable[str], attached: list[loops.Loop], system: System) -> list[str]:
    """The devices and everything above them, loop devices on them included; the lowest come first."""
    order: list[str] = []
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name in order:
            continue
        order.append(name)
        waiting += [*system.partition_names(name), *system.holders(name)]
        waiting += [loop.name for loop in attached if loop.backing_device == name]
    return order


def _uses_of_stack(stack: list[str], attached: list[loops.Loop], system: System) -> Iterator[Use]:
    yield from _holders(stack, system)
    yield from _loops_on(stack, attached, system)
    yield from _swaps(set(stack), system)
    yield from _journals(stack, system)
    yield from _mounts(set(stack), system)
    for name, program in writers.of_devices(stack, system):
        yield Use("process", str(system.node(name)), program, True)


def _holders(names: Iterable[str], system: System) -> Iterator[Use]:
    for name in names:
        for holder in system.holders(name):
            is_writable = system.number(holder, "ro") == 0 and not idle.is_held(holder, system)
            yield Use(_kind_of(holder, system), str(system.node(name)), _known_as(holder, system), is_writable)


def _kind_of(holder: str, system: System) -> UseKind:
    if holder.startswith("md"):
        return "md"
    if holder.startswith("bcache"):
        return "bcache"
    uuid = system.text(holder, "dm", "uuid")
    return next((kind for prefix, kind in _KIND_OF_MAPPING if uuid.startswith(prefix)), "holder")


def _known_as(holder: str, system: System) -> str:
    mapped = system.text(holder, "dm", "name")
    return f"/dev/mapper/{mapped}" if mapped else str(system.node(holder))


def _loops_on(names: Iterable[str], attached: list[loops.Loop], system: System) -> Iterator[Use]:
    for name in names:
        for loop in attached:
            if loop.backing_device == name:
                yield Use("loop", str(system.node(name)), str(system.node(loop.name)), not loop.is_read_only)


def _swaps(names: set[str], system: System) -> Iterator[Use]:
    for swap in mounts.swaps(system):
        # In a container the path may not lead to the device, but its last part is still the kernel's name.
        name = "" if swap.is_file else system.name_of_path(swap.path) or Path(swap.path).name
        if name in names:
            yield Use("swap", str(system.node(name)), "", True)


def _journals(names: Iterable[str], system: System) -> Iterator[Use]:
    """ext4 with its journal on another device: jbd2 shows that device under its bare name."""
    journals = set(listing(system.proc / "fs/jbd2"))
    for name in names:
        if name in journals:
            yield Use("holder", str(system.node(name)), "a mounted ext4 file system as its journal", True)


def _mounts(names: set[str], system: System) -> Iterator[Use]:
    for mount in mounts.all_mounts(system):
        for name in sorted(mounts.devices_of(mount, system) & names):
            yield Use("mounted", str(system.node(name)), mount.point, mount.is_writable)


def _held(name: str, found: list[Use], system: System) -> Iterator[Use]:
    """Devices that the kernel does not give exclusively although no reason was found.

    The disk is busy when any partition is, so each is tried by itself, and only what is not explained is told.
    """
    if not system.is_real:
        return
    disk, partitions = system.disk_of(name), system.partition_names(name)
    holding = [use for use in found if use.kind != "process"]  # to have it open is not to hold it
    explained = {use.who for use in holding}
    held = []
    if str(system.node(disk)) not in explained:
        nodes = [system.node(part) for part in partitions]
        held = [node for node in nodes if str(node) not in explained and _is_busy(node, system)]
    if not holding and not held and _is_busy(system.node(name), system):
        held = [system.node(name)]
    for node in held:
        yield Use("exclusive", str(node), "", True)


def _is_busy(node: Path, system: System) -> bool:
    """Whether somebody else holds the device; "no" when that cannot be tried."""
    name = system.name_of_path(node)
    disk = system.disk_of(name) if name else ""
    related = [system.node(other) for other in (disk, *system.partition_names(disk))] if disk else []
    if any(claims.is_ours(_device_number(other)) for other in [node, *related]):
        return False
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _device_number(node: Path) -> int:
    try:
        return node.stat().st_rdev
    except OSError:
        return 0
