# SPDX-License-Identifier: GPL-3.0-or-later
"""One target of a restore or a clone, from the first zeroed byte to the table that is written last.

Content comes from whoever has it: an image (`imager.restore.job`) or a disk (`imager.capture.clone`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imager.damage import DamagedPart
from imager.devices.target import TargetDisk
from imager.errors import ContentIncomplete, ImagerError
from imager.image.description import FinalFacts
from imager.progress import NullProgress, Progress
from imager.restore.plan import Plan
from imager.restore.readback import read_back
from imager.restore.steps import DoneStep, StepLog
from imager.restore.write import Prepared, TargetSink


@dataclass(frozen=True)
class RestoreResult:
    """What a restore did.

    Attributes:
        target: The target's name.
        written_bytes: Bytes of the image's content that were written.
        cleared_bytes: Bytes of the target that were cleared.
        is_verified: Everything was read back and was right.
        changes: What is not as it was, because the target has another size.
        damage: Parts of the image whose content is missing or was unreadable.
        warnings: What did not go as wanted, although the content is there.
        steps: What of the plan was done, and when.
    """

    target: str
    written_bytes: int
    cleared_bytes: int
    is_verified: bool
    changes: tuple[str, ...] = ()
    damage: tuple[DamagedPart, ...] = ()
    warnings: tuple[str, ...] = ()
    steps: tuple[DoneStep, ...] = ()

    @property
    def outcome(self) -> ContentIncomplete | None:
        """How the command ends although it did as it was asked; None when all content is there."""
        if not self.damage:
            return None
        named = "; ".join(part.sentence() for part in self.damage)
        return ContentIncomplete(
            f"{self.target} was restored without some of its content: {named}",
            hint="Check the file systems before you use them.",
            damage=self.damage,
        )

    def as_dict(self) -> dict[str, Any]:
        """The result as facts, for JSON."""
        return {
            "target": self.target,
            "written_bytes": self.written_bytes,
            "cleared_bytes": self.cleared_bytes,
            "verified": self.is_verified,
            "changes": self.changes,
            "damage": self.damage,
            "result_warnings": self.warnings,
            "steps": [step.as_dict() for step in self.steps],
        }


class Receiver:
    """Takes content for a target and makes the target whole at the end; a `ChunkSink` for clones."""

    def __init__(
        self,
        plan: Plan,
        target: TargetDisk,
        *,
        threads: int | None = None,
        progress: Progress | None = None,
        reading_back: Progress | None = None,
        prepared: Prepared = Prepared(),  # noqa: B008  frozen
    ) -> None:
        """Prepare; nothing is written yet.

        Args:
            plan: Made for this target.
            target: Open for writing; it stays open.
            threads: How many read back at a time; by default one a core.
            progress: Told of every byte that is written.
            reading_back: Told of every byte that is read back; by default the same.
            prepared: What was done before.
        """
        self._plan = plan
        self._target = target
        self._threads = threads
        self._progress = progress or NullProgress()
        self._reading_back = reading_back or self._progress
        self._sink = TargetSink(plan, target, verify=plan.options.verify, progress=self._progress, prepared=prepared)
        self._count(prepared)

    def _count(self, prepared: Prepared) -> None:
        taken = self._plan.placement.take | prepared.take
        self._wanted = taken.total_bytes + prepared.count_bytes
        self._changes = prepared.sentences

    @property
    def steps(self) -> StepLog:
        """What of the plan was done."""
        return self._sink.steps

    @property
    def wanted_bytes(self) -> int:
        """How much is written."""
        return self._wanted

    def adopt(self, prepared: Prepared) -> None:
        """Take over what was prepared after the beginning, before the first chunk comes."""
        self._sink.adopt(self._plan, prepared)
        self._count(prepared)
        self.steps.begin("write")

    def begin(self) -> None:
        """Make the target unrecognisable and clear what will not be written."""
        self._sink.begin()

    def write_chunk(self, number: int, content: memoryview, digest: bytes) -> None:
        """Write what the plan takes of a chunk; several threads may do so at once."""
        self._sink.write_chunk(number, content, digest)

    def finish(self, final: FinalFacts) -> RestoreResult:
        """Write what makes the target whole, and read everything back if the plan says so.

        Raises:
            ImageIncomplete: Content is missing, and nobody accepted that.
            TargetFailed: A write failed, or the target does not hold what was written.
        """
        self._sink.finish(final)
        self._progress.done()
        if self._plan.options.verify:
            self._sink.steps.begin("verify")
            read_back(self._sink.written, self._target, self._threads, self._reading_back, self._wanted)
        hindrances = self._show_table()
        return RestoreResult(
            target=self._plan.target.name,
            written_bytes=self._wanted,
            cleared_bytes=self._plan.clear_ranges.total_bytes,
            is_verified=self._plan.options.verify,
            changes=(*self._changes, *self._sink.sentences),
            damage=self._sink.damage,
            warnings=hindrances,
            steps=self._sink.steps.steps,
        )

    def _show_table(self) -> tuple[str, ...]:
        """Let the kernel read a table that is new; what hinders it."""
        self._sink.steps.begin("reread-table")
        hindered = self._target.reread_table() if self._plan.has_step("reread-table") else ""
        self._sink.steps.end()
        return (hindered,) if hindered else ()

    def with_state(self, error: ImagerError) -> ImagerError:
        """The same error, with the state that it leaves the target in."""
        return self._sink.with_state(error)
