# SPDX-License-Identifier: GPL-3.0-or-later
"""imager restore: an image onto a disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from imager.cli.booting import (
    BootChoices,
    NewIdsOption,
    NoBootEntriesOption,
    RepairBootOption,
    ToBiosOption,
    ToUefiOption,
    WindowsDriversOption,
    firmware_wanted,
)
from imager.cli.fitting import ToGptOption
from imager.cli.options import (
    AcceptDamageOption,
    DebugOption,
    DryRunOption,
    FitOption,
    GrowOption,
    JsonOption,
    ProgressOption,
    QuietOption,
    ReportOption,
    ScratchOption,
    ThreadsOption,
    UnlockRestoredOption,
    VerifyOption,
    YesOption,
    disk_name,
    epilog,
    file_name,
)
from imager.cli.output import Console
from imager.cli.problems import reports_problems
from imager.errors import UsageError

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from imager.cli.unlock import Request
    from imager.layout import Layout
    from imager.restore.guards import TargetState
    from imager.restore.plan import RestoreScope

NAME = "restore"
FREE = "free"
"""In place of a number: a new partition."""
EPILOG = epilog(
    ("imager restore --dry-run server.img.zst /dev/sdb", "what would be written, and what would be lost"),
    ("imager restore --verify server.img.zst /dev/sdb", "write it, and read it back past the cache"),
    ("ssh backup 'cat server.img.zst' | imager restore - /dev/sdb", "over the network"),
    ("imager restore --grow last server.img.zst /dev/sdb", "the last partition gets the room of a larger disk"),
    ("imager restore --partition 2 --onto /dev/sdb2 server.img.zst", "one partition, into an existing one"),
    ("imager restore --partition 2 --onto free server.img.zst /dev/sdb", "one partition, as a new one"),
    (
        "imager restore --to set/a.img.zst=/dev/sdb --to set/b.img.zst=/dev/sdc",
        "a set of disks that belong together",
    ),
    ("imager restore --repair-boot server.img.zst /dev/sdb", "the system must start on other hardware than it had"),
    ("imager restore --new-ids server.img.zst /dev/sdb", "the copy lives beside its source, with its own identifiers"),
    ("imager restore --table-only server.img.zst /dev/sdb", "only the partition table"),
    statuses=(2, 3, 4, 5, 6, 7, 9, 10, 130),
)


@reports_problems
def command(
    image: Annotated[
        str | None, typer.Argument(metavar="IMAGE", help="An image, or - for standard input.", callback=file_name)
    ] = None,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="The disk to write; or a file, made when missing: raw, .qcow2, .vmdk, .vdi, .vhdx.",
            callback=disk_name,
        ),
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to", metavar="IMAGE=TARGET", help="One of several images that belong together, and its disk; repeat it."
        ),
    ] = None,
    mixed: Annotated[bool, typer.Option("--mixed", help="With --to: the images need not be of one set.")] = False,
    partition: Annotated[
        int | None, typer.Option("--partition", min=1, metavar="N", help="Restore only this partition of the image.")
    ] = None,
    onto: Annotated[
        str | None,
        typer.Option(
            "--onto",
            metavar="PARTITION",
            help="Where to: a number on TARGET, free for a new one in its free space, or a device without TARGET.",
            callback=disk_name,
        ),
    ] = None,
    table_only: Annotated[
        bool, typer.Option("--table-only", help="Write the partition table and nothing else.")
    ] = False,
    boot_only: Annotated[bool, typer.Option("--boot-only", help="Write the boot code and nothing else.")] = False,
    grow: GrowOption = None,
    fit: FitOption = False,
    to_gpt: ToGptOption = False,
    scratch: ScratchOption = None,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            metavar="FILE",
            help="Give partitions the sizes of this plan, as `imager plan` writes it.",
            callback=file_name,
        ),
    ] = None,
    grow_volume: Annotated[
        str | None,
        typer.Option(
            "--grow-volume",
            metavar="VG/LV",
            help="With --grow: the logical volume that gets the room of its group.",
        ),
    ] = None,
    unlock: UnlockRestoredOption = None,
    verify: VerifyOption = False,
    repair_boot: RepairBootOption = False,
    windows_drivers: WindowsDriversOption = None,
    new_ids: NewIdsOption = False,
    to_uefi: ToUefiOption = False,
    to_bios: ToBiosOption = False,
    no_boot_entries: NoBootEntriesOption = False,
    accept_damage: AcceptDamageOption = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    threads: ThreadsOption = None,
    report: ReportOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = None,
    debug: DebugOption = False,
) -> int:
    """Write an image onto a disk. WHAT IS ON THE TARGET IS LOST.

    The plan is printed first: what the target is, what is on it now and will be lost, and what is written where.
    Then the target's name must be typed, unless --yes is given. Every chunk is checked before it is written.
    """
    from imager.cli.reporting import Reporting
    from imager.cli.restoring import RestoreChoices, run_restores

    console = Console(json=as_json, quiet=quiet, progress_as=progress)
    wanted = Wanted(partition, onto, table_only, boot_only, grow, grow_volume, plan, fit, scratch or "", to_gpt)
    firmware = firmware_wanted(to_uefi=to_uefi, to_bios=to_bios)
    repair_boot = repair_boot or bool(firmware)
    if (repair_boot or new_ids) and (partition is not None or table_only or boot_only):
        raise UsageError(
            f"{'--repair-boot' if repair_boot else '--new-ids'} is for whole disks",
            hint="Repair a disk that is restored already: imager repair-boot DISK.",
        )
    pairs = _pairs(image, target, to, wanted)
    _check_belonging(wanted, to, mixed=mixed, unlock=unlock, repair_boot=repair_boot or new_ids)
    boot = BootChoices(not no_boot_entries, repair_boot, windows_drivers, new_ids, firmware)
    choices = RestoreChoices(wanted, verify, accept_damage, mixed, threads, _requests(unlock), boot)
    with Reporting(report, NAME, console) as reporting:
        return run_restores(pairs, choices, console, reporting, yes=yes, dry_run=dry_run)


def _requests(unlock: Sequence[str] | None) -> tuple[Request, ...]:
    if not unlock:
        return ()
    from imager.cli.unlock import parse_requests

    return parse_requests(unlock)


def _pairs(image: str | None, target: str | None, to: Sequence[str] | None, wanted: Wanted) -> list[tuple[str, str]]:
    """Which image goes onto which target.

    Raises:
        UsageError: The words contradict each other.
    """
    if not to:
        if image is None:
            raise UsageError("the IMAGE is missing", hint="As in: imager restore server.img.zst /dev/sdb.")
        return [(image, wanted.place(target))]
    if image is not None:
        raise UsageError(f"either IMAGE TARGET, or --to alone: {image} is one word too many")
    if wanted.partition is not None or wanted.onto is not None:
        raise UsageError("--to is for whole disks; single partitions are restored one at a time, with --partition")
    wanted.place("")  # for what contradicts
    return [_pair(text) for text in to]


def _check_belonging(
    wanted: Wanted, to: Sequence[str] | None, *, mixed: bool, unlock: Sequence[str] | None, repair_boot: bool
) -> None:
    """Refuse options that mean nothing without another one: whoever gives them expects something that will not be.

    Raises:
        UsageError: The other one is missing.
    """
    if mixed and not to:
        raise UsageError(
            "--mixed belongs to --to", hint="As in --mixed --to a.img.zst=/dev/sdb --to b.img.zst=/dev/sdc."
        )
    if wanted.scratch and not wanted.fit and wanted.plan is None:
        raise UsageError("--scratch belongs to --fit or --plan, which make file systems smaller", hint="Leave it out.")
    if unlock and wanted.grow is None and wanted.plan is None and not wanted.fit and not repair_boot:
        raise UsageError(
            "--unlock belongs to --grow, --fit, --plan or --repair-boot, which need what is in the partition",
            hint="An encrypted partition is restored as it is, without its passphrase: leave --unlock out.",
        )


def _pair(text: str) -> tuple[str, str]:
    """IMAGE=TARGET; the name of an image may have the sign, that of a disk has none."""
    image, sign, target = text.rpartition("=")
    if not (sign and image and target):
        raise UsageError(
            f"--to {text!r}: it is IMAGE=TARGET", hint="As in: --to server/a.img.zst=/dev/sdb --to ...=/dev/sdc."
        )
    if "-" in (image, target):
        raise UsageError(f"--to {text!r}: a stream has no place among several images", hint="Name files.")
    return image, target


@dataclass(frozen=True)
class Wanted:
    """What of the image goes where, as the options say."""

    partition: int | None
    onto: str | None
    table_only: bool
    boot_only: bool
    grow: str | None = None
    grow_volume: str | None = None
    plan: str | None = None
    fit: bool = False
    scratch: str = ""
    to_gpt: bool = False

    def place(self, target: str | None) -> str:
        """The device or file that is opened for writing.

        Raises:
            UsageError: Options contradict each other, or nothing names a target.
        """
        if sum((self.partition is not None, self.table_only, self.boot_only)) > 1:
            raise UsageError("--partition, --table-only and --boot-only contradict each other")
        self._check_fitting()
        if self.grow_volume is not None and self.grow is None and self.plan is None:
            raise UsageError("--grow-volume belongs to --grow", hint="As in --grow last --grow-volume vg0/root.")
        if (self.partition is None) != (self.onto is None):
            raise UsageError("--partition and --onto belong together", hint="As in --partition 2 --onto /dev/sdb2.")
        if self.onto is not None and self.onto != FREE and not self.onto.isdecimal():
            if target is not None:
                raise UsageError(f"either TARGET {target} with a number for --onto, or --onto {self.onto} alone")
            return self.onto
        if target is None:
            raise UsageError("the TARGET is missing", hint="imager disks lists the disks of this machine.")
        return target

    def _check_fitting(self) -> None:
        options = {"--grow": self.grow is not None, "--plan": self.plan is not None, "--fit": self.fit}
        given = [name for name, is_given in options.items() if is_given]
        if len(given) > 1:
            raise UsageError(
                f"{' and '.join(given)} contradict each other", hint="--grow and --plan move partitions as --fit does."
            )
        given += ["--to-gpt"] if self.to_gpt else []
        if self.grow == "last" and self.partition is not None and not self.to_gpt:
            return  # it gets all of its place
        if given and (self.partition is not None or self.table_only or self.boot_only):
            raise UsageError(
                f"{given[-1]} is for whole disks", hint="Leave out --partition, --table-only or --boot-only."
            )

    def scope(self, state: TargetState, image: Layout) -> RestoreScope:
        """The same as a scope, for the target as it is.

        Raises:
            UsageError: The target or the image has no such partition.
            TargetError: There is no room for a new one.
        """
        from imager.restore.looking import new_partition
        from imager.restore.plan import RestoreScope

        if self.table_only:
            return RestoreScope.table_only()
        if self.boot_only:
            return RestoreScope.boot_only()
        if self.partition is None or self.onto is None:
            return RestoreScope.whole()
        if self.onto == FREE:
            return new_partition(state, image, self.partition)
        if not self.onto.isdecimal():
            return RestoreScope.partition(self.partition, 0, state.size_bytes)
        entry = state.layout.partition(int(self.onto)) if state.layout else None
        if entry is None or entry.kind == "extended":
            raise UsageError(f"there is no partition {self.onto} on {state.name} that could be written")
        return RestoreScope.partition(self.partition, entry.start, entry.end)
