# SPDX-License-Identifier: GPL-3.0-or-later
"""The only writer of targets: carries out what a plan says, in an order that survives being cut short.

1. What makes the target recognisable is zeroed, old and new, and unused ranges are cleared; flushed.
2. Content is written in any order, by several threads. What the plan writes last is kept in memory.
3. The backup GPT and extended boot records are written where they belong on this disk; flushed.
4. What was kept is written, the bytes at the lowest offset at the very end; flushed.

A target that is left before step 4 has no table and no superblock at its start: nothing takes it for a finished disk.
Content comes in with its digest checked; nothing here reads images.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from imager.blocks import BlockReader
from imager.damage import DamagedPart, damaged_parts
from imager.devices.target import TargetDisk
from imager.errors import ImageDamaged, ImageIncomplete, ImagerError, SourceUnreadable
from imager.extents import Extents
from imager.fitting.boot_sectors import mended
from imager.image.description import FinalFacts
from imager.partitions.adapt import Patch, relocate
from imager.partitions.adding import entry_patches
from imager.partitions.refit import refit
from imager.progress import NullProgress, Progress
from imager.restore.fitted import made_table
from imager.restore.placement import Move, Moves
from imager.restore.plan import Plan
from imager.restore.readback import Written
from imager.restore.scope import HEAD_BYTES
from imager.restore.steps import DoneStep, StepLog

_INCOMPLETE: Final = {
    "whole": "{name} is incomplete and has no partition table: run the restore again",
    "partition": "{name} is incomplete, and its start is blank: run the restore again",
    "new partition": "{name} has no new partition: what was written lies in free space, run the restore again",
    "table": "the partition table of {name} was not written",
    "boot": "the boot code of {name} was not written",
}

E = TypeVar("E", bound=ImagerError)


class KeptBytes(BlockReader):
    """The pieces of an image that are written last, readable at their offsets; other bytes cannot be read."""

    def __init__(self, size: int, sector_size: int) -> None:
        self.size = size
        self.sector_size = sector_size
        self._starts: list[int] = []
        self._pieces: list[bytearray] = []

    def keep(self, start: int, content: memoryview) -> None:
        """Remember a piece; pieces that touch become one."""
        index = bisect.bisect_left(self._starts, start)
        self._starts.insert(index, start)
        self._pieces.insert(index, bytearray(content))
        self._join(index)
        if index:
            self._join(index - 1)

    def _join(self, index: int) -> None:
        """Join a piece with the one that follows it, if they touch."""
        if index + 1 == len(self._starts):
            return
        if self._starts[index] + len(self._pieces[index]) == self._starts[index + 1]:
            self._pieces[index] += self._pieces.pop(index + 1)
            del self._starts[index + 1]

    def _read(self, offset: int, length: int) -> bytes:
        index = bisect.bisect_right(self._starts, offset) - 1
        inside = offset - self._starts[index] if index >= 0 else 0
        if index < 0 or inside + length > len(self._pieces[index]):
            # What a table may point to; whoever reads tables takes it as one more damaged copy.
            raise SourceUnreadable(f"bytes {offset} to {offset + length} are not kept", offset_bytes=offset)
        return bytes(self._pieces[index][inside : inside + length])

    def overlay(self, offset: int, content: bytes) -> None:
        """Change those of the kept bytes that lie where the content belongs."""
        end = offset + len(content)
        for start, piece in zip(self._starts, self._pieces, strict=True):
            first, last = max(start, offset), min(start + len(piece), end)
            if first < last:
                piece[first - start : last - start] = content[first - offset : last - offset]

    @property
    def ranges(self) -> Extents:
        """Which bytes are kept."""
        return Extents.of((start, start + len(piece)) for start, piece in zip(self._starts, self._pieces, strict=True))


class _OnTarget(BlockReader):
    """The target as it is now."""

    def __init__(self, target: TargetDisk) -> None:
        self.size = target.size
        self.sector_size = target.sector_size
        self._target = target

    def _read(self, offset: int, length: int) -> bytes:
        content = bytearray(length)
        self._target.read_back_into(offset, memoryview(content))
        return bytes(content)


@dataclass(frozen=True)
class Prepared:
    """What was done before the target is touched.

    Attributes:
        extra: Content that is written in place of what the image has.
        take: What beside the plan's comes from the image; image offsets.
        moves: Where that goes.
        steps: The steps that this took.
        sentences: What was changed, for people.
    """

    extra: tuple[Extra, ...] = ()
    take: Extents = field(default_factory=Extents)
    moves: tuple[Move, ...] = ()
    steps: tuple[DoneStep, ...] = ()
    sentences: tuple[str, ...] = ()

    @property
    def count_bytes(self) -> int:
        """How much of it is written."""
        return sum(each.used.total_bytes for each in self.extra)

    def joined(self, before: Prepared) -> Prepared:
        """What was done before this, and this."""
        return replace(
            self,
            extra=(*before.extra, *self.extra),
            steps=(*before.steps, *self.steps),
            sentences=(*before.sentences, *self.sentences),
        )

    def added_to(self, plan: Plan) -> Plan:
        """The plan, with what comes from the image beside it."""
        if not self.moves:
            return plan
        placed = plan.placement
        moves = Moves.of([*placed.moves.moves, *self.moves])
        return replace(plan, placement=replace(placed, take=placed.take | self.take, moves=moves))


@dataclass(frozen=True)
class Extra:
    """Content of a partition that does not come from the image.

    Attributes:
        reader: The partition.
        used: What is written of it.
        where: Where its ranges go on the target.
        there: What of it lies on the target already.
        seal: Encrypts a piece that goes to an offset of the target; None for what is written as it is.
    """

    reader: BlockReader
    used: Extents
    where: Moves
    there: Extents = field(default_factory=Extents)
    seal: Callable[[int, bytes], bytes] | None = None

    def pieces(self, ranges: Extents) -> Iterator[tuple[int, memoryview]]:
        """The bytes of ranges, each piece with its offset on the target."""
        for first, last in ranges:
            for start, end, distance in self.where.split(first, last):
                for at in range(start, end, HEAD_BYTES):
                    content = self.reader.read(at, min(HEAD_BYTES, end - at))
                    yield at + distance, memoryview(self.seal(at + distance, content) if self.seal else content)


class TargetSink:
    """Takes the checked chunks of an image or of a disk, in any order, and writes what the plan says.

    Attributes:
        written: What lies where on the target afterwards, for reading it back; empty unless asked for.
        damage: After finish: what of the content is missing or was unreadable.
        sentences: After finish: what was changed because the target has another size.
        steps: What of the plan was done, and when.
    """

    def __init__(
        self,
        plan: Plan,
        target: TargetDisk,
        *,
        verify: bool = False,
        progress: Progress | None = None,
        prepared: Prepared = Prepared(),
    ) -> None:
        self._verify = verify
        self.damage: tuple[DamagedPart, ...] = ()
        self.sentences: tuple[str, ...] = ()
        self.steps = StepLog(plan.steps, before=prepared.steps)
        self._target = target
        self._progress = progress or NullProgress()
        self._kept = KeptBytes(plan.disk_size, plan.layout.logical_sector_bytes)
        self.adopt(plan, prepared)
        self._lock = threading.Lock()
        self._received_bytes = 0
        self._state = f"{plan.target.name} was not touched"

    def adopt(self, plan: Plan, prepared: Prepared) -> None:
        """Take over what was prepared, before the first chunk comes."""
        self._plan = plan = prepared.added_to(plan)
        self._prepared = prepared
        self._now = plan.placement.take - plan.placement.last
        self._held = plan.placement.last | plan.placement.consulted
        self.written = Written(plan, is_kept=self._verify)

    def begin(self) -> None:
        """Make the target unrecognisable and clear what the image does not use."""
        plan = self._plan
        self.steps.begin("create")  # which opening it did
        kind = "new partition" if plan.scope.new else plan.scope.kind
        self._state = _INCOMPLETE[kind].format(name=plan.target.name)
        self.steps.begin("invalidate")
        self._zero(plan.invalidate)
        self._target.flush()
        self.steps.begin("clear")
        clearing = plan.clearing
        for start, end in clearing.discard:
            self._target.discard(start, end - start)
        self._zero(clearing.zero)
        if not plan.shrinks_on_target:
            self.steps.begin("write")

    def _zero(self, ranges: Extents) -> None:
        for start, end in ranges:
            self._target.zero(start, end - start)

    def write_chunk(self, number: int, content: memoryview, digest: bytes) -> None:
        """Write what the plan takes of a chunk; several threads may do so at once.

        Args:
            number: Which cell of the grid it is.
            content: Its bytes, checked; the unused ones zero. Not needed any more when the call returns.
            digest: BLAKE3 of the content.

        Raises:
            TargetFailed: It could not be written.
        """
        start = number * self._plan.chunk_size
        end = start + len(content)
        moves = self._plan.placement.moves
        distance = moves.distance(start, end)
        if distance is not None and self._now.holds(start, end):
            self._target.write(start + distance, content)
            self.written.whole(number, digest)
            self._count(len(content))
            return
        for first, last in self._now.clip(start, end):
            self._write_pieces(first, content[first - start : last - start])
            self._count(last - first)
        for first, last in self._held.clip(start, end):
            with self._lock:
                self._kept.keep(first, content[first - start : last - start])
        self._count(self._plan.placement.last.clip(start, end).total_bytes)

    def _write_pieces(self, start: int, content: memoryview) -> None:
        """Write bytes of the image from an offset on, each part where it goes."""
        for first, last, distance in self._plan.placement.moves.split(start, start + len(content)):
            piece = content[first - start : last - start]
            self._target.write(first + distance, piece)
            self.written.piece(first + distance, piece)

    def _count(self, count_bytes: int) -> None:
        with self._lock:
            self._received_bytes += count_bytes
            self._progress.advance(count_bytes)

    def finish(self, final: FinalFacts) -> None:
        """Write what makes the target whole, once all content is there.

        Args:
            final: What became known at the end of the image or of the capture.

        Raises:
            ImageIncomplete: The end says that content is missing, and nobody accepted that.
            ImageDamaged: Chunks did not come that should have.
            TargetFailed: A write failed.
        """
        self._check_complete(final)
        last = self._plan.placement.last & self._kept.ranges
        self.steps.begin("write-shrunk")
        for each in self._prepared.extra:
            self._write_extra(each)
        self.steps.begin("mend")
        self._mend()
        self.steps.begin("refit" if self._plan.has_step("refit") else "relocate")
        patches, stale = self._table()
        staying = last & self._plan.placement.moves.staying
        for start, end in stale:
            self._kept.overlay(start, bytes(end - start))
        self._zero(stale - staying)
        self.written.forget(stale)
        for patch in patches:
            self._write_patch(patch, staying)
        self._target.flush()
        self.steps.begin("write-last")
        self._state = f"{self._plan.target.name} may lack its table or first MiB: run the restore again"
        for start, end in reversed(list(last)):  # the start of the disk at the very end
            self._write_pieces(start, memoryview(self._kept.read(start, end - start)))
        self._target.flush()
        self._add_entry()
        self.steps.end()
        self._state = f"{self._plan.target.name} is completely written"

    def _add_entry(self) -> None:
        """Give a new partition its entry, now that its content is there."""
        new, layout = self._plan.scope.new, self._plan.target.layout
        if new is None or layout is None:
            return
        self.steps.begin("add-entry")
        name = self._plan.target.name
        self._state = f"the partition table of {name} may be half changed: look at it with sgdisk or sfdisk --verify"
        for patch in entry_patches(_OnTarget(self._target), layout.logical_sector_bytes, layout, new):
            self._target.write(patch.offset, patch.content)
            self.written.piece(patch.offset, memoryview(patch.content))
        self._target.flush()

    def _write_extra(self, extra: Extra) -> None:
        for offset, piece in extra.pieces(extra.used):
            self._target.write(offset, piece)
            self.written.piece(offset, piece)
            self._progress.advance(len(piece))
        for offset, piece in extra.pieces(extra.there) if self._verify else ():
            self.written.piece(offset, piece)

    def _mend(self) -> None:
        """Tell boot sectors where their partitions lie now, and how long sectors are; they wait in memory."""
        plan = self._plan
        for place in plan.fitting.mended(plan.layout) if plan.fitting else ():
            entry, sector = plan.layout.partition(place.number), plan.layout.logical_sector_bytes
            if entry is not None:
                for offset, content in mended(entry, self._kept, sector, place.start, plan.sector_there):
                    self._kept.overlay(offset, content)

    def _check_complete(self, final: FinalFacts) -> None:
        placed = self._plan.placement
        missing = final.missing & (placed.take | placed.missing)
        self.damage = damaged_parts(self._plan.layout, missing, final.unreadable & placed.take)
        if self.damage and not self._plan.options.accept_damage:
            raise ImageIncomplete(
                f"the image lacks content: {'; '.join(part.sentence() for part in self.damage)}",
                hint="--accept-damage restores what is there",
            )
        expected = (placed.take - missing).total_bytes
        # A trailer with very many missing ranges names some bytes between them that are there.
        if self._received_bytes < expected:
            raise ImageDamaged(
                f"{self._received_bytes} bytes of content came from the image, {expected} were expected",
                expected=expected,
                found=self._received_bytes,
            )

    def _table(self) -> tuple[list[Patch], Extents]:
        """How the table changes for this target, and what of the image's copies of it must not be found there."""
        plan = self._plan
        sector_bytes = plan.layout.logical_sector_bytes
        if plan.fitting and plan.fitting.table:
            return made_table(plan.layout, self._kept, plan.fitting)
        if plan.fitting and plan.fitting.is_changed:
            places = {each.number: (each.start, each.end) for each in plan.fitting.partitions}
            return refit(plan.layout, self._kept, self._target.size, places), Extents()
        if not plan.placement.moves_table:
            return [], Extents()
        if not self._kept.ranges.holds(0, sector_bytes):
            self.sentences = ("the backup GPT was not moved: the image lacks the start of the disk",)
            return [], Extents()
        patches, stale, sentences = relocate(plan.layout, self._kept, self._target.size, sector_bytes)
        self.sentences = tuple(sentences)
        return patches, stale

    def _write_patch(self, patch: Patch, last: Extents) -> None:
        """Write a patch, but for the part of it that lies in what is written last: that is changed in memory."""
        end = patch.offset + len(patch.content)
        where = Extents.single(patch.offset, end)
        for first, stop in where & last:
            self._kept.overlay(first, patch.content[first - patch.offset : stop - patch.offset])
        for first, stop in where - last:
            piece = memoryview(patch.content)[first - patch.offset : stop - patch.offset]
            self._target.write(first, piece)
            self.written.piece(first, piece)

    def with_state(self, error: E) -> E:
        """The same error, with the state that it leaves the target in, and what was done until then."""
        facts = {**error.facts, "state": self._state, "steps": self.steps.steps}
        told = type(error)(f"{error.message}; {self._state}", hint=error.hint, **facts)
        told.exit_code = error.exit_code
        return told

    @property
    def state(self) -> str:
        """What state the target is in, as a sentence."""
        return self._state
