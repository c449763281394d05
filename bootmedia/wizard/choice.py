# SPDX-License-Identifier: GPL-3.0-or-later
"""What was chosen so far, and all that follows from it: the command, what it destroys, what must be typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from bootmedia.recovery.choose import Candidate
from bootmedia.wizard.images import ImageFacts
from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.targets import Target, name_of, need_of, refusal
from imager.errors import ImagerError
from imager.fitting.firmware import FirmwareKind
from imager.fitting.model import Fitting, Rule
from imager.fitting.planner import fit
from imager.pictures.sizes import size_text

WATCHED = ("--yes", "--progress", "lines", "--json")
"""The plan was agreed to here, and progress is shown here."""


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

    def title(self) -> str:
        """For the top of its screen."""
        return f"Restore, step {self.number} of {len(Step)}: {self.value}"


@dataclass(frozen=True)
class Source:
    """Where the bytes of an image come from.

    Attributes:
        path: A file; "" for a stream.
        fetch: The words of the program whose output is the image; for a stream.
        name: For people.
    """

    path: str = ""
    fetch: tuple[str, ...] = ()
    name: str = ""

    def piped(self, *words: str, last: tuple[str, ...] = ()) -> Pipeline:
        """A command that gets the image as one of its words, before the last ones; from a pipe, as "-"."""
        if self.path:
            return Pipeline.of(*words, self.path, *last)
        return Pipeline((self.fetch,)).into(*words, "-", *last)

    def __str__(self) -> str:
        """Its name."""
        return self.name or self.path


@dataclass(frozen=True)
class Choice:
    """What was chosen of a restore; what is not decided yet is None or off.

    Attributes:
        partition: Of the image, when only one is restored.
        onto: The partition of the target that it is written to.
        grow: What happens to room that is left: last, proportional or a partition's number; "" for nothing.
        fit: Partitions are moved together, and made smaller where needed: the disk is smaller than the image's, or
            has other sectors.
        firmware: Its system is made to start with this kind of firmware, and repaired; "" for that which it had.
        unlock: Files with the passphrases of encrypted partitions, by number.
        report_folder: Where the command keeps its report; "" for nowhere.
    """

    source: Source
    image: ImageFacts | None = None
    target: Candidate | None = None
    partition: int | None = None
    onto: int | None = None
    grow: str = ""
    repair_boot: bool = False
    verify: bool = True
    accept_damage: bool = False
    fit: bool = False
    firmware: FirmwareKind = ""
    unlock: Mapping[int, str] = field(default_factory=dict)
    report_folder: str = ""

    def toggled(self, name: str) -> Choice:
        """The same with one of verify, repair_boot and accept_damage turned round."""
        if name == "verify":
            return replace(self, verify=not self.verify)
        if name == "repair_boot":
            return replace(self, repair_boot=not self.repair_boot)
        return replace(self, accept_damage=not self.accept_damage)

    def options(self) -> tuple[str, ...]:
        """The words of the command for all that can be chosen."""
        words: list[str] = []
        if self.partition is not None:
            words += ["--partition", str(self.partition), "--onto", str(self.onto)]
        elif self.fit:
            words += ["--fit"]
        elif self.grow:
            words += ["--grow", self.grow]
        switches = (
            (f"--to-{self.firmware}", bool(self.firmware) and self.partition is None),
            ("--repair-boot", self.repair_boot and not self.firmware and self.partition is None),
            ("--verify", self.verify),
            ("--accept-damage", self.accept_damage),
        )
        opened = [word for number, path in self.unlock.items() for word in ("--unlock", f"{number}:{path}")]
        return (*words, *(opened if self.looks_inside else ()), *(word for word, is_on in switches if is_on))

    @property
    def looks_inside(self) -> bool:
        """Whether the command needs what lies in encrypted partitions, and can look into them: a stream comes once."""
        is_wanted = self.fit or self.grow or self.repair_boot or self.firmware
        return bool(is_wanted and self.source.path and self.partition is None)

    @property
    def encrypted(self) -> tuple[int, ...]:
        """The encrypted partitions in the image."""
        entries = self.image.layout.partitions if self.image else ()
        return tuple(each.number for each in entries if each.content and each.content.type == "crypto_LUKS")

    def info(self) -> Pipeline:
        """What tells what is in the image."""
        return self.source.piped("imager", "info", "--json")

    def dry_run(self) -> Pipeline:
        """What tells what would be done."""
        return self.source.piped("imager", "restore", "--dry-run", *self.options(), last=(self._target(),))

    def restore(self) -> Pipeline:
        """What does it."""
        kept = ("--report", self.report_folder) if self.report_folder else ()
        return self.source.piped("imager", "restore", *WATCHED, *kept, *self.options(), last=(self._target(),))

    def _target(self) -> str:
        return self.target.path if self.target else ""

    @property
    def room_bytes(self) -> int:
        """How much larger the target is than the image's disk."""
        if not self.target or not self.image:
            return 0
        return max(0, self.target.size_bytes - self.image.layout.size_bytes)

    def whole_refusal(self) -> str:
        """Why the whole disk cannot go onto the target, as a verb and what follows; "" when it can."""
        if not self.target or not self.image:
            return ""
        short = need_of(self.image).shortfall(self.target)
        return "" if self.fitting() or self.may_fit_unlocked() else short

    def fitting(self) -> Fitting | None:
        """Where the partitions go on a target that the image does not fit onto as it is; None when they cannot."""
        if not self.target or not self.image or not need_of(self.image).shortfall(self.target):
            return None
        try:
            return fit(self.image.layout, self.target.size_bytes, Rule("fit"), self.target.sector_bytes)
        except ImagerError:
            return None

    def may_fit_unlocked(self) -> bool:
        """Whether a target that is too small has room for all but what is encrypted, and may have it for that too."""
        if not self.target or not self.image or not self.source.path or not need_of(self.image).shortfall(self.target):
            return False
        locked = frozenset(self.encrypted)
        others = {each.number for each in self.image.layout.partitions} - locked
        if not locked or not others:
            return bool(locked)
        rule = Rule("fit", leave_out=locked)
        try:
            fit(self.image.layout, self.target.size_bytes, rule, self.target.sector_bytes)
        except ImagerError:
            return False
        return True

    def fitting_words(self) -> str:
        """What the target costs the partitions, for people; "" when it costs nothing."""
        fitting = self.fitting()
        if fitting is None and self.may_fit_unlocked():
            return "too small, unless what is encrypted fits: unlock it below (--fit)"
        if fitting is None or not self.target or not self.image:
            return ""
        smaller = ", ".join(str(place.number) for place in fitting.shrunk)
        words = f"made smaller: {smaller}" if smaller else "partitions are moved together"
        if self.target.sector_bytes != self.image.layout.logical_sector_bytes:
            words = f"fitted to sectors of {self.target.sector_bytes} bytes{f', {words}' if smaller else ''}"
        return f"{words} (--fit)"

    def offered(self, disks: Iterable[Candidate]) -> list[Target]:
        """Every disk, those that can be chosen first; the others with the reason.

        A disk that is too small for all of the image is offered if it has partitions that one of the image's could
        be written to.
        """
        rows = []
        has_parts = self.image is not None and bool(self.image.layout.partitions)
        for disk in disks:
            never = refusal(disk, None)
            short = replace(self, target=disk).whole_refusal()
            has_room = has_parts and bool(disk.partitions) and "sectors" not in short
            rows.append(Target(disk, never or ("" if has_room else short)))
        return sorted(rows, key=lambda row: (not row.may_be_written, row.disk.path))

    def destroyed(self) -> str:
        """What will be destroyed, in one sentence; "" as long as no target was chosen."""
        if self.target is None:
            return ""
        if self.onto is not None:
            size = size_text(self.target.partitions.get(self.onto, 0))
            return f"partition {self.onto} ({size}) of {name_of(self.target)}"
        return f"EVERYTHING on {name_of(self.target)}"

    def agreed_by(self, typed: str) -> bool:
        """Whether what was typed names the target: its device or its serial number."""
        if self.target is None:
            return False
        path, serial = self.target.path, self.target.serial
        names = {path, path.removeprefix("/dev/"), *([serial] if len(serial) > 1 else [])}
        return typed.strip() in names

    def expected_words(self) -> str:
        """What must be typed to agree, for people."""
        if self.target is None:
            return ""
        name = self.target.path.removeprefix("/dev/")
        return f"{name} or {self.target.serial}" if len(self.target.serial) > 1 else name

    def partition_refusal(self, onto: int) -> str:
        """Why the chosen partition cannot be written to one of the target's; "" when it can."""
        if not self.target or not self.image or self.partition is None:
            return "nothing is chosen"
        return need_of(self.image, self.partition, onto).shortfall(self.target)
