# SPDX-License-Identifier: GPL-3.0-or-later
"""What was chosen so far, and all that follows from it: the command, what it destroys, what must be typed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from bootmedia.recovery.choose import Candidate
from bootmedia.wizard.pair import Pair
from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.source import Source
from bootmedia.wizard.targets import Target, refusal
from imager.fitting.firmware import FirmwareKind
from imager.pictures.sizes import size_text

WATCHED = ("--yes", "--progress", "lines", "--json")
"""The plan was agreed to here, and progress is shown here."""
_LEAST_ROOM_BYTES = 1 << 20


class Step(Enum):
    """The way to a restored machine."""

    PLACE = "where the image is"
    IMAGE = "which image"
    CONTENTS = "what is in it"
    TARGET = "which disk"
    OPTIONS = "all or a part"
    REVIEW = "before and after"
    CONFIRM = "agree"
    WORK = "restore"
    RESULT = "done"

    @property
    def number(self) -> int:
        """Its place on the way, from 1."""
        return list(Step).index(self) + 1

    def title(self, question: str = "") -> str:
        """For the top of its screen, with another question than usual if there is one."""
        return f"Restore, step {self.number} of {len(Step)}: {question or self.value}"


@dataclass(frozen=True)
class Choice:
    """What was chosen of a restore; what is not decided yet is None or off.

    Attributes:
        pairs: The image, and the disk that it goes onto; several for disks that were captured together.
        partition: Of the only image, when only one is restored.
        onto: The partition of the target that it is written to.
        grow: What happens to room that is left: last, proportional or a partition's number; "" for nothing.
        new_ids: What is restored gets new identifiers.
        firmware: Its system is made to start with this kind of firmware, and repaired; "" for that which it had.
        unlock: Files with the passphrases of encrypted partitions, by number.
        report_folder: Where the command keeps its report; "" for nowhere.
    """

    pairs: tuple[Pair, ...]
    partition: int | None = None
    onto: int | None = None
    grow: str = ""
    repair_boot: bool = False
    new_ids: bool = False
    verify: bool = True
    accept_damage: bool = False
    firmware: FirmwareKind = ""
    unlock: Mapping[int, str] = field(default_factory=dict)
    report_folder: str = ""

    @classmethod
    def of(cls, source: Source, *, report_folder: str = "") -> Choice:
        """An image, of which nothing is known yet."""
        return cls((Pair(source),), report_folder=report_folder)

    @property
    def first(self) -> Pair:
        """The only pair, where there is only one."""
        return self.pairs[0]

    @property
    def is_set(self) -> bool:
        """Whether several disks are restored together."""
        return len(self.pairs) > 1

    # --- What is chosen, step by step ---------------------------------------------------------------------------------

    def with_pairs(self, pairs: tuple[Pair, ...]) -> Choice:
        """The same for other images of a set; one that was among them keeps its target."""
        if [pair.source for pair in pairs] == [pair.source for pair in self.pairs]:
            return self
        known = {pair.source: pair.target for pair in self.pairs}
        again = tuple(replace(pair, target=known.get(pair.source)) for pair in pairs)
        return replace(self, pairs=again, partition=None, onto=None)

    def with_target(self, place: int, disk: Candidate) -> Choice:
        """The same with another target for one of the images; no disk is the target of two."""
        pairs = [replace(pair, target=None) if pair.target_path == disk.path else pair for pair in self.pairs]
        pairs[place] = replace(pairs[place], target=disk)
        changed = replace(self, pairs=tuple(pairs))
        is_another = self.pairs[place].target_path != disk.path or self.onto not in disk.partitions
        return replace(changed, partition=None, onto=None) if is_another else changed

    def toggled(self, name: str) -> Choice:
        """The same with one of verify, repair_boot, new_ids and accept_damage turned round."""
        if name == "verify":
            return replace(self, verify=not self.verify)
        if name == "repair_boot":
            return replace(self, repair_boot=not self.repair_boot)
        if name == "new_ids":
            return replace(self, new_ids=not self.new_ids)
        return replace(self, accept_damage=not self.accept_damage)

    # --- The command --------------------------------------------------------------------------------------------------

    @property
    def fit(self) -> bool:
        """Whether partitions are fitted to a target that is too small for them as they are, or has other sectors."""
        return self.partition is None and any(pair.needs_fitting for pair in self.pairs)

    @property
    def room_bytes(self) -> int:
        """How much larger the targets are, where that is worth a question."""
        return sum(pair.room_bytes for pair in self.pairs if pair.room_bytes >= _LEAST_ROOM_BYTES)

    @property
    def grows(self) -> bool:
        """Whether there is room, and somebody to get it."""
        return bool(self.grow and self.room_bytes)

    def options(self) -> tuple[str, ...]:
        """The words of the command for all that can be chosen."""
        words: list[str] = []
        is_whole = self.partition is None
        if not is_whole:
            words += ["--partition", str(self.partition), "--onto", str(self.onto)]
        elif self.fit:
            words += ["--fit"]
        elif self.grows:
            words += ["--grow", self.grow]
        switches = (
            (f"--to-{self.firmware}", bool(self.firmware) and is_whole),
            ("--repair-boot", self.repair_boot and not self.firmware and is_whole),
            ("--new-ids", self.new_ids and is_whole),
            ("--verify", self.verify),
            ("--accept-damage", self.accept_damage),
        )
        opened = [word for number, path in self.unlock.items() for word in ("--unlock", f"{number}:{path}")]
        return (*words, *(opened if self.looks_inside else ()), *(word for word, is_on in switches if is_on))

    @property
    def looks_inside(self) -> bool:
        """Whether the command needs what lies in encrypted partitions, and can look into them: a stream comes once."""
        is_wanted = self.fit or self.grows or self.repair_boot or self.firmware or self.new_ids
        return bool(is_wanted and self.first.source.path and self.partition is None)

    @property
    def encrypted(self) -> tuple[int, ...]:
        """The numbers of encrypted partitions; a passphrase is for all disks that have one there."""
        return tuple(sorted({number for pair in self.pairs for number in pair.encrypted}))

    def info(self) -> Pipeline:
        """What tells what is in the image."""
        return self.first.source.piped("imager", "info", "--json")

    def dry_run(self) -> Pipeline:
        """What tells what would be done."""
        return self._command("--dry-run")

    def restore(self) -> Pipeline:
        """What does it."""
        return self._command(*WATCHED, *(("--report", self.report_folder) if self.report_folder else ()))

    def _command(self, *how: str) -> Pipeline:
        words = ("imager", "restore", *how, *self.options())
        if not self.is_set:
            return self.first.source.piped(*words, last=(self.first.target_path,))
        pairs = [word for pair in self.pairs for word in ("--to", f"{pair.source.path}={pair.target_path}")]
        return Pipeline.of(*words, *pairs)

    # --- Targets, and what is lost on them ----------------------------------------------------------------------------

    def offered(self, disks: Iterable[Candidate], place: int = 0) -> list[Target]:
        """Every disk as the target of one of the images, those that can be chosen first; the others with the reason.

        A disk that is too small for all of the image is offered if it has partitions that one of the image's could
        be written to.
        """
        pair = self.pairs[place]
        taken = {each.target_path: f"is for {each.name}" for each in self.pairs[:place]}
        has_parts = not self.is_set and pair.image is not None and bool(pair.image.layout.partitions)
        rows = []
        for disk in disks:
            never = refusal(disk, None) or taken.get(disk.path, "")
            short = replace(pair, target=disk).whole_refusal
            has_room = has_parts and bool(disk.partitions) and "sectors" not in short
            rows.append(Target(disk, never or ("" if has_room else short)))
        return sorted(rows, key=lambda row: (not row.may_be_written, row.disk.path))

    def destroyed(self) -> str:
        """What will be destroyed, in one sentence; "" as long as a target is missing."""
        if not all(pair.target for pair in self.pairs):
            return ""
        if self.is_set:
            return f"EVERYTHING on {len(self.pairs)} disks: {', '.join(pair.target_path for pair in self.pairs)}"
        target = self.first.target
        if self.onto is not None and target:
            return (
                f"partition {self.onto} ({size_text(target.partitions.get(self.onto, 0))}) of {self.first.destroyed()}"
            )
        return f"EVERYTHING on {self.first.destroyed()}"

    def agreed_by(self, typed: str) -> bool:
        """Whether what was typed names all targets in their order: each by its device or its serial number."""
        names = ["|".join(map(re.escape, pair.names())) for pair in self.pairs]
        return all(names) and bool(re.fullmatch(r"[\s,]+".join(f"(?:{each})" for each in names), typed.strip()))

    def expected_words(self) -> str:
        """What must be typed to agree, for people."""
        if not self.is_set:
            return self.first.expected_words()
        return " ".join(pair.names()[0] for pair in self.pairs if pair.target)


@dataclass
class Draft:
    """A choice as the steps change it: who goes back and comes again finds everything as it was left."""

    choice: Choice
