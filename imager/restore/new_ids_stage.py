# SPDX-License-Identifier: GPL-3.0-or-later
"""The stage of a restore that gives all that was restored new identifiers, when that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from imager.identities.changing import Changed, change_ids, looked_at_again
from imager.identities.model import PEOPLE_MAY_WANT, IdPlan, NewId
from imager.identities.planning import mapping
from imager.identities.systems import rewrite_systems
from imager.layout import Layout
from imager.progress import Progress
from imager.restore.afterwards import Say, StageResult, WrittenDisk
from imager.restore.as_root import refuse_without_root


@dataclass(frozen=True)
class NewIds:
    """New identifiers for what is on restored disks.

    Attributes:
        plan: Which becomes which.
        targets: The disks.
        secrets: For containers; those that get a new UUID are known by that afterwards.
    """

    plan: IdPlan
    targets: tuple[str, ...]
    secrets: dict[str, bytes] = field(default_factory=dict, repr=False)
    kind: ClassVar[str] = "new-ids"
    title: ClassVar[str] = "new identifiers"

    def check(self) -> None:
        """See Stage: what else cannot be done is told in the plan.

        Raises:
            UsageError: Only root can.
        """
        refuse_without_root("new identifiers are given", "Or leave --new-ids out.")

    def lines(self) -> Sequence[str]:
        """See Stage."""
        return ["give what was restored new identifiers, so that it can live beside its source:", *self.plan.lines()]

    def as_dict(self) -> dict[str, Any]:
        """See Stage."""
        return {"steps": [*self.lines()], **self.plan.as_dict()}

    def carry_out(self, disks: Sequence[WrittenDisk], say: Say, progress: Progress) -> StageResult:
        """See Stage."""
        pairs = [(disk.path, disk.layout) for disk in disks if disk.path in self.targets]
        changed = change_ids(self.plan, pairs, self.secrets, say)
        for each in changed.done:
            if each.type == "crypto_LUKS" and each.old in self.secrets:
                self.secrets[each.new] = self.secrets[each.old]
        again = dict(looked_at_again(pairs))
        now = [replace(disk, layout=again.get(disk.path, disk.layout)) for disk in disks]
        wrong = _not_there(changed, now)
        by_path = {disk.path: disk.layout for disk in disks}
        done = [each for each in changed.done if each not in wrong]
        groups = {each.old: each.new for each in done if each.kind == "group"}
        files = rewrite_systems([*again.items()], self.secrets, mapping(done, by_path), groups, say)
        failures = [
            *changed.failures,
            *(f"{each.where} does not have its new {each.words} {each.new}" for each in wrong),
        ]
        return StageResult(
            self.kind,
            sentences=(*(each.sentence for each in done), *files.done),
            warnings=(*self.plan.kept, PEOPLE_MAY_WANT),
            failures=(*failures, *files.failures),
            facts=self.plan.as_dict(),
            disks=tuple(now),
        )


def _not_there(changed: Changed, disks: Sequence[WrittenDisk]) -> list[NewId]:
    """What should have a new identifier, can be looked at, and has another one."""
    found: set[str] = set()
    for disk in disks:
        found |= {disk.layout.table.id.lower().removeprefix("0x")}
        found |= {entry.uuid.lower() for entry in disk.layout.partitions}
        for _, content in disk.layout.contents():
            found |= {content.uuid.lower(), content.facts.get("volume_group", "").lower()}
    layouts = {disk.path: disk.layout for disk in disks}
    return [each for each in changed.done if each.new.lower() not in found and not _is_locked(each, layouts)]


def _is_locked(each: NewId, layouts: Mapping[str, Layout]) -> bool:
    """Whether it lies in a container, which is closed again."""
    entry = layouts[each.disk].partition(each.number)
    outer = entry.content if entry else layouts[each.disk].content
    return outer is not None and outer.type == "crypto_LUKS" and each.type != "crypto_LUKS"
