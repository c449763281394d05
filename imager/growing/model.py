# SPDX-License-Identifier: GPL-3.0-or-later
"""What is grown, as data: steps in their order, and what stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from imager.pictures.sizes import size_text

StepKind = Literal["luks", "physical-volume", "logical-volume", "filesystem", "swap"]


def place_name(number: int) -> str:
    """What people call a partition; 0 is a disk without a table."""
    return f"partition {number}" if number else "the disk"


def known_as(volume: str, number: int) -> str:
    """What people call a volume in a partition; nobody knows a container by its UUID."""
    if volume.startswith("luks-"):
        return f"the container in {place_name(number)}"
    return volume or place_name(number)


@dataclass(frozen=True)
class GrowStep:
    """One thing that is grown.

    Attributes:
        kind: What it is.
        type: blkid's name of it; of a logical volume, lvm.
        partition: Number of the partition that it lies in; 0 is a disk without a table.
        volume: Its name, such as vg0/root or luks-UUID; empty for what lies in the partition itself.
        outer: Name of the volume that it lies in, empty for the partition; it must have grown before.
        programs: What does it.
        before_bytes: Its size.
        after_bytes: The size that it will have, as far as it can be told beforehand: managers round down.
        why: Why this one, where there was a choice.
        commands: The same by hand.
    """

    kind: StepKind
    type: str
    partition: int
    volume: str
    outer: str
    programs: tuple[str, ...]
    before_bytes: int
    after_bytes: int
    why: str = ""
    commands: tuple[str, ...] = ()

    @property
    def known_as(self) -> str:
        """What people call it."""
        return known_as(self.volume, self.partition)

    @property
    def text(self) -> str:
        """The step for people."""
        sizes = f"from {size_text(self.before_bytes)} to {size_text(self.after_bytes)}"
        why = f"; {self.why}" if self.why else ""
        if self.kind == "luks":
            return f"open the LUKS container in {self.known_as}: it grows {sizes} by that (cryptsetup){why}"
        what = {
            "physical-volume": f"grow the physical volume in {self.known_as}",
            "logical-volume": f"grow the logical volume {self.known_as}",
            "swap": f"make the swap area in {self.known_as} anew, with the same UUID,",
        }.get(self.kind, f"grow the {self.type} in {self.known_as}")
        return f"{what} {sizes} ({', '.join(self.programs)}){why}"

    def as_dict(self) -> dict[str, Any]:
        """The step for JSON."""
        return {
            "kind": self.kind,
            "type": self.type,
            "partition": self.partition,
            "volume": self.volume,
            "programs": self.programs,
            "before_bytes": self.before_bytes,
            "after_bytes": self.after_bytes,
            "text": self.text,
        }


@dataclass(frozen=True)
class Staying:
    """Something that does not grow with its partition.

    Attributes:
        name: What people call it.
        type: blkid's name of it.
        reason: Why it stays as it is.
        commands: What can be done by hand.
    """

    name: str
    type: str
    reason: str
    commands: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The same for people."""
        later = f"; by hand: {'; '.join(self.commands)}" if self.commands else ""
        return f"{self.name} ({self.type}) stays as it is: {self.reason}{later}"

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {"name": self.name, "type": self.type, "reason": self.reason, "commands": self.commands}


@dataclass(frozen=True)
class GrowPlan:
    """What is grown on one disk, in order."""

    steps: tuple[GrowStep, ...] = ()
    staying: tuple[Staying, ...] = ()

    def lines(self) -> list[str]:
        """The plan for people."""
        return [*(step.text for step in self.steps), *(each.text for each in self.staying)]

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "steps": [step.as_dict() for step in self.steps],
            "staying": [each.as_dict() for each in self.staying],
        }
