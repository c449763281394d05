# SPDX-License-Identifier: GPL-3.0-or-later
"""What an unattended recovery will do, all of it decided before anything is written: every image, every target.

One refusal refuses everything: a machine that is half restored is harder to understand than one that was left alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from bootmedia.recovery.answers import Answers, Restore
from bootmedia.recovery.choose import Candidate, Choice, Need, choose, refuse_shared
from bootmedia.recovery.facts import MachineFacts, candidates, file_candidate
from bootmedia.recovery.naming import rule_of
from bootmedia.recovery.places import Found, ImageSource, Surroundings, folder_beside, image_source
from bootmedia.recovery.unlocking import unlocked
from imager.errors import StoreError, TargetRefused, UsageError
from imager.fitting.firmware import rule_for_firmware
from imager.fitting.model import Rule
from imager.image.description import Description, FinalFacts
from imager.layout import Layout
from imager.partitions.adapt import missing_bytes
from imager.pictures.sizes import size_text
from imager.restore.afterwards import Afterwards
from imager.restore.boot_stages import Wish, boot_stages
from imager.restore.grow_stage import grow_stages
from imager.restore.looking import look_at_target
from imager.restore.plan import Plan, RestoreOptions, RestoreScope, make_plan
from imager.restore.scope import wanted_partition
from imager.restore.sets import SetImage, missing_sentences
from imager.restore.shrinking import with_scratch
from imager.volumes.luks import VolumeKey


@dataclass(frozen=True)
class Task:
    """One restore, ready to be carried out.

    Attributes:
        restore: As the answers have it.
        source: The image.
        about: The image's header.
        choice: The disk, and why this one.
        plan: What is written where.
    """

    restore: Restore
    source: ImageSource
    about: Description
    choice: Choice
    plan: Plan

    @property
    def image_id(self) -> UUID:
        """What must still be at the image's place when the writing begins."""
        return self.about.image_id

    def by_hand(self) -> str:
        """The command that does the same."""
        image = str(self.source.path) if self.source.path else "-"
        words = ["imager", "restore", *(["--verify"] if self.restore.verify else [])]
        words += ["--accept-damage"] if self.restore.accept_damage else []
        words += ["--grow", self.restore.grow] if self.restore.grow else []
        words += ["--fit"] if self.restore.fit else []
        words += ["--grow-volume", self.restore.grow_volume] if self.restore.grow_volume else []
        inside = self.restore.repair_boot or self.restore.firmware or self.restore.new_ids
        opens = self.restore.grow or self.restore.fit or inside
        if opens:  # what else is restored needs no passphrase
            words += [word for text in self.restore.unlock for word in ("--unlock", text)]
        words += ["--repair-boot"] if self.restore.repair_boot else []
        words += [f"--to-{self.restore.firmware}"] if self.restore.firmware else []
        words += ["--windows-drivers", self.restore.windows_drivers] if self.restore.windows_drivers else []
        words += ["--new-ids"] if self.restore.new_ids else []
        words += [] if self.restore.boot_entries else ["--no-boot-entries"]
        if self.restore.partition is not None:
            words += ["--partition", str(self.restore.partition), "--onto", str(self.restore.onto)]
        return shlex.join([*words, image, self.choice.disk.path])

    def lines(self) -> list[str]:
        """The restore for people."""
        layout = self.about.layout
        of = f"{layout.identity.short_name()}, " if layout.identity.short_name() != "unnamed disk" else ""
        made = f", made {self.about.created}" if self.about.created else ""
        used = f"{size_text(self.about.used.total_bytes)} used"
        what = f"partition {self.restore.partition}" if self.restore.partition is not None else "the whole disk"
        onto = f", onto its partition {self.restore.onto}" if self.restore.onto is not None else ""
        return [
            f"image    {self.source.name}",
            f"  of {of}{size_text(layout.size_bytes)}, {used}{made}; {what} is restored",
            f"chosen   {self.choice.disk}{onto}",
            f"  because {self.choice.why}",
            *self.plan.lines(),
            *([f"  {self.source.warning}"] if self.source.warning else []),
            f"the same by hand: {self.by_hand()}",
        ]

    def as_dict(self) -> dict[str, Any]:
        """The restore for JSON."""
        return {
            "image": self.source.name,
            "image_id": str(self.image_id),
            "created": self.about.created,
            "rule": self.restore.target,
            "target": self.choice.disk.as_dict(),
            "why": self.choice.why,
            "by_hand": self.by_hand(),
            "plan": self.plan.as_dict(),
        }


@dataclass(frozen=True)
class RecoveryPlan:
    """Everything that will be done.

    Attributes:
        found: The answers.
        facts: The machine.
        disks: Its disks.
        tasks: The restores, in order.
        after: What is done once, when all of them are done.
    """

    found: Found
    facts: MachineFacts
    disks: tuple[Candidate, ...]
    tasks: tuple[Task, ...]
    after: Afterwards = Afterwards()  # noqa: RUF009  frozen

    @property
    def answers(self) -> Answers:
        """What the file says."""
        return self.found.answers

    @property
    def set_warnings(self) -> tuple[str, ...]:
        """What is missing of disks that were captured together."""
        whole = [task for task in self.tasks if task.restore.partition is None]
        return missing_sentences([SetImage(task.source.name, task.about) for task in whole])

    def lines(self) -> list[str]:
        """The plan for people."""
        after = {"reboot": "the machine starts again", "poweroff": "the machine is switched off", "shell": "a shell"}
        lines = [f"answers  {self.found.name}", "this machine"]
        for name, values in self.facts.as_dict().items():
            lines.append(f"  {name}: {', '.join(values) or 'none that can be read'}")
        lines += ["its disks", *(f"  {disk}{_kept(disk)}" for disk in self.disks)]
        for number, task in enumerate(self.tasks, 1):
            lines += ["", f"restore {number} of {len(self.tasks)}", *(f"  {line}" for line in task.lines())]
        stages = self.after.lines()
        lines += ["", *stages] if stages else []
        lines += ["", *self.set_warnings] if self.set_warnings else []
        return [*lines, "", f"then     {after[self.answers.after]}"]

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "answers": self.found.name,
            "machine": self.facts.as_dict(),
            "disks": [disk.as_dict() for disk in self.disks],
            "restores": [task.as_dict() for task in self.tasks],
            "afterwards": self.after.as_dict(),
            "after": self.answers.after,
            "set_warnings": self.set_warnings,
        }


def _kept(disk: Candidate) -> str:
    return f": {disk.kept or disk.obstacle}" if disk.kept or disk.obstacle else ""


def make_recovery_plan(found: Found, facts: MachineFacts, around: Surroundings) -> RecoveryPlan:
    """Decide everything; nothing is written.

    Raises:
        StoreError: An image is not there.
        ImageError: It is none, or damaged.
        TargetError: A rule fits no disk or several, or the disk must not be written, or is too small.
        ImageIncomplete: An image lacks content, and the answers do not accept that.
    """
    sources = [image_source(restore, found, facts, around) for restore in found.answers.restore]
    read = [_read(source) for source in sources]
    disks = candidates(_kept_files(sources, found, around), around.system)
    restores = found.answers.restore
    choices = [_choose(restore, about, disks) for restore, (about, _) in zip(restores, read, strict=True)]
    refuse_shared([(choice, restore.onto) for choice, restore in zip(choices, restores, strict=True)])
    asked = [(restore, source, about) for restore, source, (about, _) in zip(restores, sources, read, strict=True)]
    layouts, secrets, keys = unlocked(asked, found, around)
    tasks = [
        Task(restore, source, about, choice, _plan(restore, source, _with(about, layout, restore), final, choice, keys))
        for restore, source, (about, final), choice, layout in zip(
            restores, sources, read, choices, layouts, strict=True
        )
    ]
    # One name for all disks: a volume group may lie on several.
    volume = next((restore.grow_volume for restore in restores if restore.grow_volume), None)
    growing = grow_stages([task.plan for task in tasks], layouts, secrets=secrets, volume=volume)
    wishes = [
        Wish(
            task.plan,
            wanted.boot_entries,
            wanted.repair_boot or bool(wanted.firmware),
            folder_beside(wanted.windows_drivers, found, around) if wanted.windows_drivers else None,
            wanted.new_ids,
            layout,
            firmware=wanted.firmware,
        )
        for task, wanted, layout in zip(tasks, restores, layouts, strict=True)
    ]
    after = Afterwards((*growing, *boot_stages(wishes, secrets)))
    return RecoveryPlan(found, facts, disks, tuple(tasks), after)


def _kept_files(sources: Sequence[ImageSource], found: Found, around: Surroundings) -> dict[str, str]:
    """What no restore may overwrite, by path: images of other restores, too, and the answers."""
    kept = {str(source.path.absolute()): "the image" for source in sources if source.path is not None}
    kept |= {str(found.folder): "recovery.toml"} if found.folder else {}
    return kept | {str(folder): "the recovery stick" for folder in around.stick_folders() if str(folder) not in kept}


def _read(source: ImageSource) -> tuple[Description, FinalFacts | None]:
    """What an image says of itself. A stream is closed again: it is read anew when its turn comes."""
    with source.open() as image:
        return image.description, None if image.streamed else image.final


def _choose(restore: Restore, about: Description, disks: Sequence[Candidate]) -> Choice:
    rule = rule_of(restore.target)
    path = Path(rule.value)
    if rule.kind == "path" and path.is_file():
        disks = [*disks, file_candidate(path, about.sector_size)]
        if restore.onto is not None:
            raise TargetRefused(f"{path} is a file: a single partition can only be restored onto a disk")
    return choose(rule, _need(restore, about), disks)


def _need(restore: Restore, about: Description) -> Need:
    layout = about.layout
    if restore.partition is not None:
        size = wanted_partition(layout, restore.partition).size_bytes
        return Need(about.sector_size, size, size, restore.onto)
    least = 0 if restore.fit else missing_bytes(layout, 0)  # the plan says what is missing
    return Need(about.sector_size, layout.size_bytes, least, is_fitted=restore.fit or bool(restore.grow))


def _with(about: Description, layout: Layout, restore: Restore) -> Description:
    """The image with what lies in its containers, where that may have to be smaller."""
    return replace(about, layout=layout) if restore.fit else about


def _plan(
    restore: Restore,
    source: ImageSource,
    about: Description,
    final: FinalFacts | None,
    choice: Choice,
    keys: Sequence[VolumeKey],
) -> Plan:
    state = look_at_target(
        choice.disk.path,
        image_files=[str(source.path)] if source.path else [],
        sector_size=about.sector_size,
        new_file_bytes=about.disk_size,
        twins_of=about.layout if restore.partition is None else None,
    )
    scope = RestoreScope.whole()
    if restore.partition is not None and restore.onto is not None:
        entry = state.layout.partition(restore.onto) if state.layout else None
        if entry is None or entry.kind == "extended":
            raise UsageError(f"there is no partition {restore.onto} on {state.name} that could be written")
        scope = RestoreScope.partition(restore.partition, entry.start, entry.end)
    grow = Rule("fit") if restore.fit else Rule.parse(restore.grow) if restore.grow else None
    grow = rule_for_firmware(grow, about.layout, restore.firmware)

    def planned(scratch: str) -> Plan:
        options = RestoreOptions(
            accept_damage=restore.accept_damage, verify=restore.verify, grow=grow, scratch=scratch, keys=tuple(keys)
        )
        return make_plan(about, final, state, scope, options)

    return with_scratch(planned, "") if restore.fit else planned("")


def check_same_image(task: Task, image_id: UUID) -> None:
    """Refuse an image that is not the one that the plan was made for.

    Raises:
        StoreError: It was replaced meanwhile.
    """
    if image_id != task.image_id:
        raise StoreError(
            f"{task.source.name} was replaced since the plan was made: it is image {image_id} now, not {task.image_id}",
            hint="Start again.",
            path=task.source.name,
        )
