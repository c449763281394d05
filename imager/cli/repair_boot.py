# SPDX-License-Identifier: GPL-3.0-or-later
"""imager repair-boot: a system on a restored disk starts on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imager.cli.booting import NoBootEntriesOption, WindowsDriversOption
from imager.cli.confirm import can_ask, confirm
from imager.cli.options import (
    DebugOption,
    DryRunOption,
    JsonOption,
    ProgressOption,
    QuietOption,
    ReportOption,
    UnlockRestoredOption,
    YesOption,
    disk_names,
    epilog,
)
from imager.cli.output import Console
from imager.cli.problems import reports_problems
from imager.errors import StageFailed, TargetRefused

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from imager.cli.reporting import Reporting
    from imager.cli.unlock import Request
    from imager.layout import Layout
    from imager.opening.whole import Shown
    from imager.restore.afterwards import Stage, WrittenDisk
    from imager.restore.repair_boot_stage import RepairBoot

NAME = "repair-boot"
EPILOG = epilog(
    ("imager repair-boot --dry-run /dev/sda", "what would be changed in the system on the disk"),
    ("imager repair-boot /dev/sda", "change it"),
    ("imager repair-boot /dev/sda /dev/sdb", "a system that lies on two disks"),
    ("imager repair-boot vm.qcow2", "for a virtual machine, with the drivers of all storage"),
    statuses=(2, 3, 6, 9, 10, 130),
)


@reports_problems
def command(
    disks: Annotated[
        list[str],
        typer.Argument(metavar="DISK", help="Restored disks, or files with disks in them.", callback=disk_names),
    ],
    unlock: UnlockRestoredOption = None,
    windows_drivers: WindowsDriversOption = None,
    no_boot_entries: NoBootEntriesOption = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    report: ReportOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = None,
    debug: DebugOption = False,
) -> None:
    """Change the system on restored disks so that it starts on this machine.

    In a Linux system device names of the old machine become UUIDs, the initramfs gets the drivers of this machine, the
    boot loader is installed again. In a Windows the drivers of this machine's storage are started, and drive letters
    and boot menu are set right. The UEFI firmware gets boot entries. A LINUX SYSTEM'S OWN PROGRAMS ARE RUN AS ROOT: do
    this with images that you trust. The plan is printed first; then the disk's name must be typed, unless --yes is
    given.
    """
    from imager.cli.reporting import Reporting
    from imager.cli.unlock import parse_requests
    from imager.opening.whole import shown_as_disks
    from imager.restore.afterwards import WrittenDisk
    from imager.restore.looking import refuse_shared_targets
    from imager.restore.repair_boot_stage import check_may_repair
    from imager.virtual.show import shown_disk

    check_may_repair()
    refuse_shared_targets(disks, hint="Name each disk once.")
    console = Console(json=as_json, quiet=quiet, progress_as=progress)
    with Reporting(report, NAME, console) as reporting, ExitStack() as stack:
        for disk in disks:
            stack.enter_context(shown_disk(disk, writable=not dry_run))
        written = [WrittenDisk(disk, _layout(disk, writes=not dry_run)) for disk in disks]
        sectors = [(disk.path, disk.layout.logical_sector_bytes) for disk in written]
        shown = stack.enter_context(shown_as_disks(sectors, writable=not dry_run))
        _repair(
            written,
            shown,
            parse_requests(unlock),
            console,
            reporting,
            windows_drivers=windows_drivers,
            boot_entries=not no_boot_entries,
            asks=not yes,
            dry_run=dry_run,
        )


def _repair(
    written: Sequence[WrittenDisk],
    shown: Shown,
    unlocking: Sequence[Request],
    console: Console,
    reporting: Reporting,
    *,
    windows_drivers: Path | None,
    boot_entries: bool,
    asks: bool,
    dry_run: bool,
) -> None:
    """Plan, ask, repair and tell.

    Raises:
        ImagerError: A disk is refused, nobody agrees, or something failed.
    """
    from imager.restore.afterwards import Afterwards

    disks = [disk.path for disk in written]
    reporting.name(Path(disks[0]).name)
    repair, entries = _stages(written, shown, unlocking, windows_drivers, boot_entries=boot_entries)
    stages = (repair, *entries)
    after = Afterwards(stages, follow_restore=False)
    reporting.fill(after=after, is_plan=dry_run)
    planned = {"plan": [{"kind": stage.kind, **stage.as_dict()} for stage in stages]}
    lines = [f"disks    {', '.join(disks)}", *(f"  {line}" for stage in stages for line in stage.lines())]
    if dry_run:
        console.result(planned, lines)
        return
    has_nothing = repair.finds_nothing and not entries
    must_be_seen = asks and can_ask()
    for line in lines:
        console.say(line, must=must_be_seen or (has_nothing and not console.json))
    if has_nothing:
        raise StageFailed(
            f"{', '.join(disks)}: no Linux system and no Windows was found, so nothing was repaired",
            hint="Name all disks of the system, none but them, and open encrypted partitions with --unlock N.",
        )
    confirm(disks, yes=not asks)
    done = after.carry_out(written, say=console.say, progress=console.progress())
    reporting.fill(done_after=done)
    console.result({**planned, "result": done.as_dict(), **reporting.facts()}, done.lines())
    failures = [text for result in done.results for text in result.failures]
    if failures:
        raise StageFailed(
            f"{', '.join(disks)}: not everything is repaired: {'; '.join(failures)}",
            hint="What is listed as done is done; do by hand what failed, then start the machine.",
            failures=failures,
        )


def _layout(path: str, *, writes: bool) -> Layout:
    """What is on a disk that may be written, or only looked at.

    Raises:
        TargetRefused: It is in use, read-only, holds the running system, or nobody can tell what is on it.
    """
    from imager.restore.guards import check_target
    from imager.restore.looking import look_at_target

    state = look_at_target(path, image_files=[], sector_size=None, new_file_bytes=0)
    if not state.exists or state.layout is None:
        raise TargetRefused(
            f"there is nothing on {path} that could be repaired" if Path(path).exists() else f"{path} is not there",
            hint="imager disks lists the disks of this machine.",
            path=path,
        )
    check_target(state if writes else replace(state, read_only=False))
    return state.layout


def _stages(
    written: Sequence[WrittenDisk],
    shown: Shown,
    unlocking: Sequence[Request],
    windows_drivers: Path | None,
    *,
    boot_entries: bool,
) -> tuple[RepairBoot, tuple[Stage, ...]]:
    """What is done, planned from what is on the disks; repairs come first, as entries lead to what they install."""
    from imager.booting.firmware import read_firmware
    from imager.booting.repair import look
    from imager.booting.windows.planning import Wanted
    from imager.cli.unlock import unlock
    from imager.devices.opening import open_source
    from imager.restore.boot_entries_stage import Source, plan_boot_entries
    from imager.restore.boot_stages import firmware_of
    from imager.restore.repair_boot_stage import RepairBoot

    names = [disk.path for disk in written]
    is_here = any(shown.devices[name] == name for name in names)  # what lies in files runs on another machine
    firmware = read_firmware() if is_here else firmware_of([disk.layout for disk in written])
    secrets: dict[str, bytes] = {}
    with ExitStack() as stack:
        readers = [stack.enter_context(open_source(name, exclusive_check=False)) for name in names]
        for key in unlock(unlocking, names, readers, keep=secrets):
            stack.enter_context(key)
        pairs = zip(written, readers, strict=True)
        entries = plan_boot_entries([Source(disk.layout, disk.path, reader) for disk, reader in pairs])
    windows = Wanted({}, windows_drivers)
    there = [(shown.devices[disk.path], disk.layout) for disk in written]
    looked = look(there, firmware, secrets, windows, is_here=is_here)
    repair = RepairBoot(firmware, tuple(names), secrets, looked, windows, is_here=is_here, shown=shown)
    return repair, (entries,) if entries and boot_entries else ()
