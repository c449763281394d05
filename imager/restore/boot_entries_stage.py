# SPDX-License-Identifier: GPL-3.0-or-later
"""The stage of a restore that lets the firmware find the restored system.

The plan is made from the image where it can be read anywhere, and made again from the disk when that is written: only
then is it certain where each partition lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from imager.blocks import BlockReader
from imager.booting.boot_manager import carry_out
from imager.booting.entries import EntryPlan, plan_entries
from imager.booting.firmware import Firmware, read_firmware
from imager.booting.system_partition import (
    SystemPartition,
    hard_drive,
    is_bios_system,
    is_system_partition,
    system_partitions,
)
from imager.booting.written import fill_fallback, partitions_of_disk, present_signatures
from imager.devices.sysfs import System
from imager.errors import ImagerError
from imager.layout import Layout
from imager.process import find_program
from imager.progress import Progress
from imager.restore.afterwards import Say, StageResult, WrittenDisk

_MENU: Final = "choose the disk in the firmware's boot menu"


@dataclass(frozen=True)
class BootEntries:
    """What is done for the firmware after a whole disk was restored.

    Attributes:
        firmware: What started this machine.
        partitions: The EFI system partitions, as the image shows them.
        plan: The entries, as far as the image shows what is needed.
        targets: The disks that were restored.
        is_bios_system: The image looks like a system that BIOS starts.
    """

    firmware: Firmware
    partitions: tuple[SystemPartition, ...]
    plan: EntryPlan
    targets: tuple[str, ...] = ()
    is_bios_system: bool = False
    kind: ClassVar[str] = "boot-entries"
    title: ClassVar[str] = "boot entries"

    @property
    def obstacle(self) -> str:
        """Why no entries can be made; empty when they can."""
        if not self.firmware.can_write:
            return "the firmware's variables cannot be written"
        return "" if find_program("efibootmgr") else "efibootmgr is not installed"

    def check(self) -> None:
        """See Stage: what cannot be done is told in the plan."""

    def lines(self) -> Sequence[str]:
        """What will be done, for the plan."""
        if not self.firmware.is_uefi or not self.partitions:
            return [*self._without_entries()]
        return [*self._fallback_lines(), *self._entry_lines()]

    def _without_entries(self) -> Iterator[str]:
        if self.partitions:
            lacking = ", which is missing here" if self._lacks_fallback() else ""
            yield (
                "leave the firmware alone, as BIOS started this machine; one with UEFI finds the disk through its boot "
                f"menu or the fallback path \\EFI\\BOOT{lacking}: a restore, or imager repair-boot, on a medium that "
                "UEFI started does the rest"
            )
        elif self.firmware.is_uefi and self.is_bios_system:
            yield (
                "leave the firmware alone: the system in the image starts with BIOS only, and UEFI started this "
                "machine; switch its firmware to legacy mode (CSM)"
            )

    def _lacks_fallback(self) -> bool:
        return any(partition.fallback for partition in self.partitions)

    def _fallback_lines(self) -> Iterator[str]:
        for partition in self.partitions:
            for copy in partition.fallback:
                yield f"copy {copy.source} to {copy.target} on partition {partition.partition.number}, as it is missing"

    def _entry_lines(self) -> Iterator[str]:
        if self.obstacle:
            yield f"make no boot entries, as {self.obstacle}: {_MENU}"
            return
        if not any(partition.files or partition.problem for partition in self.partitions):
            yield "make boot entries for the loaders on the EFI system partition, which are known when it is written"
            return
        done = [*self.plan.sentences()]
        yield from done or ["leave the boot entries as they are: they fit"]
        yield from (f"note: {note}" for note in self.plan.notes)

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "firmware": self.firmware.words,
            "obstacle": self.obstacle if self.firmware.is_uefi else "",
            "steps": [*self.lines()],
            "new_entries": [
                {"label": each.loader.label, "file": each.loader.file, "partition": each.partition.signature}
                for each in self.plan.new
            ],
        }

    def carry_out(self, disks: Sequence[WrittenDisk], say: Say, progress: Progress) -> StageResult:
        """Put the loaders and the entries in their places."""
        if not self.firmware.is_uefi:
            return StageResult(self.kind)
        found = [
            each for disk in disks for each in partitions_of_disk(disk.path, disk.layout, self.firmware.architecture)
        ]
        layouts = {disk.path: disk.layout for disk in disks}
        done: list[str] = []
        failures: list[str] = []
        for partition in found:
            if partition.fallback:
                _try(partial(fill_fallback, partition, layouts[partition.disk]), done, failures, say)
        warnings: tuple[str, ...] = ()
        if found and self.obstacle:
            warnings = (f"no boot entries were made, as {self.obstacle}: {_MENU}",)
        elif found:
            plan = plan_entries(read_firmware(), found, present_signatures(layouts))
            warnings = plan.notes
            _try(lambda: carry_out(plan) or ("the boot entries fit already",), done, failures, say)
        return StageResult(self.kind, tuple(done), warnings, tuple(failures))


def _try(work: Callable[[], Sequence[str]], done: list[str], failures: list[str], say: Say) -> None:
    """Do one thing; what it did or why it failed is told, and the next thing is done all the same."""
    try:
        sentences = work()
    except ImagerError as error:
        failures.append(f"{error.message} {error.hint}".strip())
    else:
        for sentence in sentences:
            say(sentence)
            done.append(sentence)


@dataclass(frozen=True)
class Source:
    """A whole disk that is about to be restored.

    Attributes:
        layout: Of the image.
        target: What it is written to.
        reader: The image, if it can be read anywhere; without, the plan cannot name the loaders.
    """

    layout: Layout
    target: str
    reader: BlockReader | None = None


def plan_boot_entries(sources: Sequence[Source], *, root: Path = Path("/")) -> BootEntries | None:
    """The stage for whole disks; None when there is nothing to do or to say.

    Args:
        sources: What is restored; only disks can be started from, files are left out.
        root: Where sys is.
    """
    disks = [source for source in sources if System().is_block_device(source.target)]
    if not disks:
        return None
    firmware = read_firmware(root)
    partitions = tuple(each for disk in disks for each in _in_image(disk, firmware.architecture))
    layouts = {disk.target: disk.layout for disk in disks}
    present = present_signatures(layouts) if firmware.is_uefi and partitions else set()
    plan = plan_entries(firmware, partitions, present)
    stage = BootEntries(firmware, partitions, plan, tuple(layouts), any(map(is_bios_system, layouts.values())))
    return stage if stage.lines() else None


def _in_image(source: Source, arch: str) -> tuple[SystemPartition, ...]:
    if source.reader is not None:
        return system_partitions(source.reader, source.layout, arch, source.target)
    return tuple(
        SystemPartition(hard_drive(source.layout, entry), source.target)
        for entry in source.layout.partitions
        if is_system_partition(source.layout, entry)
    )
