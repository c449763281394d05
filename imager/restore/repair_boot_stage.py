# SPDX-License-Identifier: GPL-3.0-or-later
"""The stage of a restore that repairs the restored system so that it starts on this machine, when that was asked for.

Before the restore nothing of the system is there to be looked at, so the plan says what can be said: which of its
parts are looked at, and what is changed in them where it is needed. What exactly is changed is told before it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from imager.booting.drivers import chain_of
from imager.booting.firmware import Firmware
from imager.booting.repair import Looked, look, repair
from imager.opening import Secrets
from imager.progress import Progress
from imager.restore.afterwards import Say, StageResult, WrittenDisk


@dataclass(frozen=True)
class RepairBoot:
    """What is done in the systems on restored disks.

    Attributes:
        firmware: What started this machine.
        targets: The disks.
        secrets: For containers.
        looked: The systems, when they are there already; None before a restore.
    """

    firmware: Firmware
    targets: tuple[str, ...]
    secrets: Secrets = field(default_factory=dict, repr=False)
    looked: Looked | None = None
    kind: ClassVar[str] = "repair-boot"
    title: ClassVar[str] = "boot repair"

    def check(self) -> None:
        """See Stage: what cannot be done is told in the plan."""

    def lines(self) -> Sequence[str]:
        """What will be done, for the plan."""
        if self.looked is not None:
            return [*self.looked.lines()]
        drivers = dict.fromkeys(device.driver for target in self.targets for device in chain_of(target))
        here = f" (here: {', '.join(drivers)})" if drivers else ""
        platform = "its EFI system partition" if self.firmware.is_uefi else "the disk"
        return [
            "look for Linux systems on the disks; in each of them, its own programs are run as root:",
            "turn device names of the old machine in fstab, crypttab and boot options into UUIDs; old files are kept",
            f"make the initramfs of all its kernels again, with the drivers of all storage{here}",
            f"install its boot loader again on {platform} for {self.firmware.words}, and make its menu again",
        ]

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        found = self.looked.as_dict() if self.looked else {}
        return {"firmware": self.firmware.words, "steps": [*self.lines()], **found}

    def carry_out(self, disks: Sequence[WrittenDisk], say: Say, progress: Progress) -> StageResult:
        """Look, plan, tell, and do it."""
        pairs = [(disk.path, disk.layout) for disk in disks if disk.path in self.targets]
        looked = self.looked
        if looked is None:
            looked = look(pairs, self.firmware, self.secrets)
            for line in looked.lines():
                say(line)
        done = repair(looked, pairs, say, self.secrets) if looked.systems else ()
        notes = tuple(note for system in looked.systems for note in system.plan.notes)
        nothing = () if looked.systems else ("no Linux system was found on the disks, so nothing was repaired",)
        return StageResult(
            self.kind,
            sentences=tuple(text for each in done for text in each.sentences()),
            warnings=(*looked.problems, *notes),
            failures=(*nothing, *looked.missing, *(text for each in done for text in each.failures())),
            facts={"plan": looked.as_dict()},
        )
