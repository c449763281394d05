# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes new identifiers: volume groups first, then from the inside to the outside, the table last.

Each kind wants its volumes in another state. A volume group gets its new name while none of its volumes is active. That
comes first, for this machine may have its twin, the source's, in use, and then lvm could not activate it. File systems
are open to their tools, and mounted nowhere. A container is closed when its turn comes, an array stopped. What fails
keeps what it had, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from imager.devices.opening import open_source
from imager.errors import ImagerError, Interrupted, VolumeFailed
from imager.identities.model import IdPlan, NewId
from imager.identities.ways import NEW_ARRAY, NEW_GROUP, WAYS
from imager.layout import Layout
from imager.opening import Opened, OpenVolume, Secrets, mounted, opened_volumes
from imager.opening.alone import run_alone_with
from imager.opening.arrays import stop_running
from imager.opening.lvm import groups, rename_group
from imager.opening.nodes import again_and_again, settle
from imager.process import ProgramFailed, run

Say = Callable[[str], None]
Disks = Sequence[tuple[str, Layout]]
_SECONDS: Final = 24 * 3600
"""A file system is checked, or all of its metadata is rewritten, on a disk of any size."""
_LUKS: Final = "crypto_LUKS"


@dataclass
class Changed:
    """What became of a plan.

    Attributes:
        done: The identifiers that are written.
        failures: Those that are not, and why.
    """

    done: list[NewId] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def change_ids(plan: IdPlan, disks: Disks, secrets: Secrets, say: Say) -> Changed:
    """Write all of a plan's identifiers; what fails is in the result.

    Args:
        plan: What becomes what.
        disks: The path of each, and what is on it.
        secrets: For containers.
        say: Takes each change as it begins.
    """
    changed = Changed()
    containers = [each for each in plan.of_kind("content") if each.type == _LUKS]
    inner = [each for each in containers if "/" in each.name]
    outer = [each for each in containers if each not in inner]
    if plan.of_kind("group"):
        _pass(plan.of_kind("group"), (NEW_GROUP,), _change_group, disks, secrets, changed, say)
        disks = looked_at_again(disks)
    plain = [each for each in plan.of_kind("content") if each.type != _LUKS]
    _pass(plain, (), _change_content, disks, secrets, changed, say)
    _pass(inner, (_LUKS,), _change_content, disks, secrets, changed, say)
    _pass(outer, (_LUKS,), _change_content, disks, secrets, changed, say)
    _pass(plan.of_kind("array"), (NEW_ARRAY,), _change_array, disks, secrets, changed, say)
    for each in (*plan.of_kind("partition"), *plan.of_kind("disk")):
        _attempt(each, partial(_change_table, each), changed, say)
    settle()
    return changed


def _pass(
    ids: Sequence[NewId],
    closed: Collection[str],
    work: Callable[[NewId, Opened], None],
    disks: Disks,
    secrets: Secrets,
    changed: Changed,
    say: Say,
) -> None:
    """Change identifiers while some kinds of volumes are closed."""
    if ids:
        with opened_volumes(disks, secrets, writable=True, closed=closed) as opened:
            for each in ids:
                _attempt(each, partial(work, each, opened), changed, say)


def looked_at_again(disks: Disks) -> list[tuple[str, Layout]]:
    """The disks with what is on them now; what is in containers is not looked at.

    Raises:
        ImagerError: One of them cannot be read.
    """
    from imager.survey import Disk, survey  # not on top: all parsers, which a restore without stages does not need

    with ExitStack() as stack:
        readers = [
            stack.enter_context(
                open_source(path, exclusive_check=False, write_back=False, sector_size=layout.logical_sector_bytes)
            )
            for path, layout in disks
        ]
        found = survey([Disk(reader, path) for reader, (path, _) in zip(readers, disks, strict=True)])
    return [(path, each.layout) for (path, _), each in zip(disks, found, strict=True)]


def _attempt(each: NewId, work: Callable[[], None], changed: Changed, say: Say) -> None:
    say(each.sentence)
    try:
        work()
    except Interrupted:
        raise
    except ImagerError as error:
        changed.failures.append(f"{each.where} keeps its {each.words} {each.old}: {error.message}")
        say(f"FAILED: {error.message}")
    else:
        changed.done.append(each)


def _found(each: NewId, opened: Opened) -> Iterator[OpenVolume]:
    """The volumes with the old identifier, that of the right name first.

    Raises:
        VolumeFailed: There is none; the message says why.
    """
    same = [
        volume
        for volume in opened.volumes
        if volume.content.type == each.type and volume.content.uuid.lower() == each.old.lower()
    ]
    if not same:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in opened.unopened)
        raise VolumeFailed(f"it is not open{f' ({reasons})' if reasons else ''}")
    yield from sorted(same, key=lambda volume: (volume.disk != each.disk, volume.name != each.name))


def _change_content(each: NewId, opened: Opened) -> None:
    volume = next(_found(each, opened))
    devices = [volume.path, *(other.path for other in opened.volumes)]
    try:
        _write(each, volume.path, devices)
    except ProgramFailed:
        if each.type != "xfs":
            raise
        with mounted(volume, writable=True, options=("nouuid",)):  # its log is replayed
            pass
        _write(each, volume.path, devices)


def _write(each: NewId, device: str, devices: Sequence[str]) -> None:
    """Let a program write it that sees the devices of the target only: those of the source have the same identifier."""
    for command, allowed in WAYS[each.type].commands(device, each.new):
        run_alone_with(devices, command, allowed=allowed, timeout_seconds=_SECONDS)


def _change_group(each: NewId, opened: Opened) -> None:
    members = [
        volume.path for volume in opened.of_type([NEW_GROUP]) if volume.content.facts.get("volume_group") == each.old
    ]
    found = [group for group in groups(members) if group.name == each.old]
    if len(found) != 1 or found[0].missing:
        raise VolumeFailed(f"not all physical volumes of {each.old} are here")
    rename_group(found[0], each.new, members)


def _change_array(each: NewId, opened: Opened) -> None:
    members = [*_found(each, opened)]
    stop_running(members)
    name = f"/dev/md/imager-{each.new[:8]}"
    words = ["mdadm", "--assemble", name, "--config=/dev/null", "--update=uuid", f"--uuid={each.new}"]
    run([*words, *(member.path for member in members)], timeout_seconds=_SECONDS)
    again_and_again(lambda: run(["mdadm", "--stop", name]))


def _change_table(each: NewId) -> None:
    words = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel"]
    if each.kind == "partition":
        run([*words, "--part-uuid", each.disk, str(each.number), each.new])
    else:
        run([*words, "--disk-id", each.disk, each.new if each.type == "gpt" else f"0x{each.new}"])
