# SPDX-License-Identifier: GPL-3.0-or-later
"""Growing as a stage after the last byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from imager.errors import UsageError
from imager.layout import Layout
from imager.progress import Progress
from imager.restore.afterwards import Say, StageResult, WrittenDisk
from imager.restore.outlook import layout_after
from imager.restore.plan import Plan

if TYPE_CHECKING:  # imported late at run time: most restores start without them
    from imager.growing.model import GrowPlan
    from imager.opening import Secrets


@dataclass(frozen=True)
class GrowStage:
    """What lies in partitions that have grown, on all disks of a set.

    Attributes:
        plans: What is grown on each target, by its path.
        secrets: Of the containers that are opened.
    """

    plans: dict[str, GrowPlan]
    secrets: Secrets = field(default_factory=dict, repr=False)
    kind: ClassVar[str] = "grow"
    title: ClassVar[str] = "grow"

    def check(self) -> None:
        """See Stage."""
        found = self._obstacles()
        if found:
            raise UsageError(
                f"what is in the partitions cannot be grown here: {'; '.join(found)}",
                hint="Restore without --grow, or from the boot medium, which has all that is needed.",
            )

    def lines(self) -> list[str]:
        """See Stage."""
        several = len(self.plans) > 1
        steps = [f"{path}: {line}" if several else line for path, plan in self.plans.items() for line in plan.lines()]
        return [*steps, *(f"but not on this machine: {text}" for text in self._obstacles())]

    def _obstacles(self) -> list[str]:
        from imager.growing.carry import obstacles

        return obstacles(list(self.plans.values()))

    def as_dict(self) -> dict[str, Any]:
        """See Stage."""
        return {"targets": [{"path": path, **plan.as_dict()} for path, plan in self.plans.items()]}

    def carry_out(self, disks: Sequence[WrittenDisk], say: Say, progress: Progress) -> StageResult:
        """See Stage."""
        from imager.growing.carry import Growth, carry_out
        from imager.growing.model import GrowPlan

        growths = [
            Growth(disk.path, disk.layout, self.plans.get(disk.path, GrowPlan())) for disk in disks
        ]  # all of them, because a volume group may lie on several
        done = carry_out(growths, self.secrets, say)
        return StageResult(
            self.kind,
            sentences=tuple(each.text for each in done if not each.failure),
            warnings=tuple(each.text for plan in self.plans.values() for each in plan.staying),
            failures=tuple(each.text for each in done if each.failure),
            facts={"steps": [each.as_dict() for each in done]},
        )


def grow_stages(
    plans: Sequence[Plan],
    layouts: Sequence[Layout] | None = None,
    *,
    secrets: Secrets | None = None,
    volume: str | None = None,
) -> tuple[GrowStage, ...]:
    """What grows with the partitions of these restores; nothing when none of them grows.

    Args:
        plans: All restores of the command.
        layouts: What each image holds, when containers of it could be looked into.
        secrets: Of those containers.
        volume: The logical volume that gets all room of its group, such as vg0/root.

    Raises:
        UsageError: There is no such volume.
    """
    images = layouts or [plan.layout for plan in plans]
    held = [_numbered_as_on_target(plan, layout) for plan, layout in zip(plans, images, strict=True)]
    growing = [(plan, layout) for plan, layout in zip(plans, held, strict=True) if plan.grown]
    if volume is not None and not growing:
        raise UsageError(f"no partition grows, so {volume} cannot", hint="It belongs to --grow and a larger target.")
    if not growing:
        return ()
    from imager.growing.steps import grow_steps

    known = secrets or {}
    steps = {}
    having = [layout for _, layout in growing if any(content.name == volume for _, content in layout.contents())]
    for plan, layout in growing:
        mine = volume if layout in having or not having else None
        steps[plan.target.name] = grow_steps(layout, plan.grown, mine, unlocked=known.keys(), disk=plan.target.name)
    return (GrowStage(steps, known),)


def _numbered_as_on_target(plan: Plan, image: Layout) -> Layout:
    """What is on the target: partitions may have other numbers there than in the image."""
    if plan.scope.kind != "partition":
        return _renumbered(plan, image)
    return layout_after(replace(plan, layout=image)) or image


def _renumbered(plan: Plan, image: Layout) -> Layout:
    """The partitions of the image that the target gets, with the numbers that they have there."""
    if plan.fitting is None or plan.fitting.table is None:
        return image
    numbers = {each.number: each.number_there for each in plan.fitting.partitions}
    there = (replace(entry, number=numbers[entry.number]) for entry in image.partitions if entry.number in numbers)
    return replace(image, partitions=tuple(there))
