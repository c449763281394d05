# SPDX-License-Identifier: GPL-3.0-or-later
"""The stage of a restore that repairs the restored system so that it starts on this machine, when that was asked for.

Before the restore nothing of the system is there to be looked at, so the plan says what can be said: which of its
parts are looked at, and what is changed in them where it is needed. What exactly is changed is told before it is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from imager.booting.adopting import adopt_system_partition
from imager.booting.drivers import chain_of
from imager.booting.firmware import Firmware
from imager.booting.repair import NOTHING_KNOWN, Looked, look, repair
from imager.booting.windows.planning import Wanted
from imager.booting.written import fill_fallback, partitions_of_disk
from imager.identities.planning import renamed_partitions
from imager.identities.systems import Rewritten, rewrite_systems
from imager.layout import Layout
from imager.opening import Secrets
from imager.opening.identify import layout_of
from imager.opening.whole import Shown, shown_as_disks
from imager.process import find_program
from imager.progress import Progress
from imager.restore.afterwards import Say, StageResult, WrittenDisk
from imager.restore.as_root import refuse_without_root


@dataclass(frozen=True)
class RepairBoot:
    """What is done in the systems on restored disks.

    Attributes:
        firmware: What started this machine.
        targets: The disks.
        secrets: For containers.
        looked: The systems, when they are there already; None before a restore.
        windows: What is known for the repair of a Windows.
        becomes_gpt: An MBR becomes a GPT, so partitions get other names.
        may_find_nothing: It follows from something else, and there need not be a system.
        is_other_firmware: The systems were made for another kind, so their disk has partitions that are new to them.
        is_here: Whether the systems will run on this machine; those in files will not.
        shown: As what the disks are shown to programs, when that is so already.
    """

    firmware: Firmware
    targets: tuple[str, ...]
    secrets: Secrets = field(default_factory=dict, repr=False)
    looked: Looked | None = None
    windows: Wanted = NOTHING_KNOWN
    may_find_nothing: bool = False
    becomes_gpt: bool = False
    is_other_firmware: bool = False
    is_here: bool = True
    shown: Shown | None = None
    kind: ClassVar[str] = "repair-boot"
    title: ClassVar[str] = "boot repair"

    def check(self) -> None:
        """See Stage: what else cannot be done is told in the plan.

        Raises:
            UsageError: Only root can.
        """
        check_may_repair()

    def lines(self) -> Sequence[str]:
        """What will be done, for the plan."""
        if self.looked is not None:
            return [self._names.named(line) for line in self.looked.lines()]
        drivers = dict.fromkeys(device.driver for target in self.targets for device in chain_of(target))
        here = f" (here: {', '.join(drivers)})" if drivers else ""
        platform = "its EFI system partition" if self.firmware.is_uefi else "the disk"
        renaming = ["put the partitions' GUIDs in place of the MBR's PARTUUIDs in boot options and fstab"]
        linux = [
            "look for Linux systems on the disks; in each of them, its own programs are run as root:",
            *(renaming if self.becomes_gpt else []),
            "turn device names of the old machine in fstab, crypttab and boot options into UUIDs; old files are kept",
            f"make the initramfs of all its kernels again, with the drivers of all storage{here}",
            f"install its boot loader again on {platform} for {self.firmware.words}, and make its menu again",
        ]
        if self.is_other_firmware and self.firmware.is_uefi:
            linux.insert(1, "let them mount the new EFI system partition at /boot/efi, by a line in fstab")
            linux.append("put the loader on the fallback path \\EFI\\BOOT too, where firmware without an entry looks")
        return [*linux, *self._windows_lines(here)]

    @property
    def finds_nothing(self) -> bool:
        """Whether somebody has looked, and there is no system."""
        return self.looked is not None and not self.looked.found_any

    @property
    def _names(self) -> Shown:
        return self.shown or Shown()

    def _fallbacks(self, pairs: Sequence[tuple[str, Layout]], say: Say) -> tuple[str, ...]:
        """Where firmware looks that has no entry: it may be that of another machine, which nobody can enter it into."""
        found = [each for pair in pairs for each in partitions_of_disk(*pair, self.firmware.architecture)]
        layouts = dict(pairs)
        done = [text for each in found if each.fallback for text in fill_fallback(each, layouts[each.disk])]
        for sentence in done:
            say(sentence)
        return tuple(done)

    def _windows_lines(self, here: str) -> Iterator[str]:
        layouts = self.windows.before.values()
        if not any(content.type == "ntfs" for layout in layouts for _, content in layout.contents()):
            return
        yield "look for Windows on the disks; none of its programs is run, and each file that is changed is kept:"
        yield f"let the drivers of this machine's storage{here} start with it, in its registry"
        if self.windows.drivers:
            yield f"put in drivers that it lacks, from {self.windows.drivers}"
        yield "set drive letters and the boot menu right, where partitions have other places or numbers now"
        if find_program("hivexsh") is None:
            yield "MISSING: hivexsh, which changes the registry: install libhivex-bin, or start the recovery medium"

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        found = self._names.facts(self.looked.as_dict()) if self.looked else {}
        return {"firmware": self.firmware.words, "steps": [*self.lines()], **found}

    def carry_out(self, disks: Sequence[WrittenDisk], say: Say, progress: Progress) -> StageResult:
        """Look, plan, tell, and do it."""
        mine = [disk for disk in disks if disk.path in self.targets]
        sectors = [(disk.path, disk.layout.logical_sector_bytes) for disk in mine]
        with nullcontext(self.shown) if self.shown else shown_as_disks(sectors) as shown:
            before = {shown.devices[path]: layout for path, layout in self.windows.before.items()}
            there = replace(self, windows=replace(self.windows, before=before))
            pairs = [(shown.devices[disk.path], disk.layout) for disk in mine]
            return _in_words_of(shown, there.repaired(pairs, lambda text: say(shown.named(text))))

    def repaired(self, pairs: Sequence[tuple[str, Layout]], say: Say) -> StageResult:
        """The same for block devices."""
        adopted: tuple[str, ...] = ()
        if self.is_other_firmware:  # what is new to the disk, no image knows
            pairs = [(path, layout_of(path)) for path, _ in pairs]
        if self.is_other_firmware and self.firmware.is_uefi:
            adopted = adopt_system_partition(pairs, self.secrets)
            for sentence in adopted:
                say(sentence)
        looked = self.looked
        renamed = renamed_partitions(self.windows.before, pairs)
        files = rewrite_systems(pairs, self.secrets, renamed, {}, say) if renamed else Rewritten()
        if looked is None:
            looked = look(pairs, self.firmware, self.secrets, self.windows, is_here=self.is_here)
            for line in looked.lines():
                say(line)
        done = repair(looked, pairs, say, self.secrets) if looked.found_any else ()
        if self.is_other_firmware and self.firmware.is_uefi:
            adopted += self._fallbacks(pairs, say)
        nothing = (
            ()
            if looked.found_any or self.may_find_nothing
            else ("no Linux system and no Windows was found, so nothing was repaired",)
        )
        return StageResult(
            self.kind,
            sentences=(*adopted, *files.done, *(text for each in done for text in each.sentences())),
            warnings=(*looked.problems, *looked.notes),
            failures=(*nothing, *files.failures, *looked.missing, *(text for each in done for text in each.failures())),
            facts={"plan": looked.as_dict()},
        )


def check_may_repair() -> None:
    """Before anything is written.

    Raises:
        UsageError: This is not root.
    """
    refuse_without_root("a system is repaired", "What is restored already, imager repair-boot repairs later.")


def _in_words_of(shown: Shown, result: StageResult) -> StageResult:
    """The same result, about the disks that a person named."""

    def named(sentences: Sequence[str]) -> tuple[str, ...]:
        return tuple(shown.named(text) for text in sentences)

    return replace(
        result,
        sentences=named(result.sentences),
        warnings=named(result.warnings),
        failures=named(result.failures),
        facts=shown.facts(result.facts),
    )
