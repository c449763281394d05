# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a stick as its plan says, in an order that survives being cut short: what makes it a medium comes last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Final

from blake3 import blake3

from bootmedia.stick.data import MIB, Prepared
from bootmedia.stick.medium import SECTOR_BYTES, unfinished_sector, with_data_entry
from bootmedia.stick.plan import StickPlan
from imager.devices.buffers import aligned_buffer
from imager.devices.writing import TargetDisk
from imager.errors import ImagerError, Interrupted, StoreError, TargetFailed
from imager.progress import Progress

_BLOCK_BYTES: Final = 4 * MIB
_TAIL_BYTES: Final = 2 * MIB
"""Where the backup of an old table lies, and other marks at a disk's end."""


@dataclass
class Writing:
    """One run.

    Attributes:
        written: Offset on the stick, length and digest of everything that was written.
        warnings: What did not work, and is no failure.
    """

    plan: StickPlan
    target: TargetDisk
    progress: Progress
    written: list[tuple[int, int, bytes]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def written_bytes(self) -> int:
        """How much it was."""
        return sum(length for _, length, _ in self.written)

    def carry_out(self, prepared: Prepared | None, images: Mapping[str, Path]) -> None:
        """Do all of it.

        Args:
            prepared: The file system of a new data partition; None when there is none, or the old one is kept.
            images: Paths of the images that it gets, by name.

        Raises:
            TargetFailed: A write failed, or the stick does not hold what was written.
            StoreError: The medium or an image cannot be read.
            Interrupted: The user ended it.
        """
        try:
            self._write(prepared, images)
            if self.plan.wishes.verify:
                self._read_back()
        except KeyboardInterrupt as error:
            raise Interrupted(f"interrupted; {self.plan.name} is incomplete: write it again") from error
        except ImagerError as error:
            error.message += f"; {self.plan.name} is incomplete: write it again"
            raise
        self.warnings += filter(None, [self.target.reread_table()])

    def _write(self, prepared: Prepared | None, images: Mapping[str, Path]) -> None:
        plan = self.plan
        sizes = plan.wishes.images
        total = plan.medium.size_bytes + (prepared.used.total_bytes + sum(sizes.values()) if prepared else 0)
        self.progress.start(total, "write")
        self._erase_start()
        if not plan.keeps_data:
            self.target.zero(max(MIB, self.target.size - _TAIL_BYTES), min(_TAIL_BYTES, self.target.size - MIB))
        self.target.flush()
        self._copy(plan.medium.path, MIB, plan.medium.size_bytes, 0)
        if prepared and plan.data:
            for start, end in prepared.used:
                self._copy(prepared.path, start, end, plan.data.start)
            for name, place in prepared.image_places.items():
                self._copy(images[name], 0, sizes[name], plan.data.start + place)
        self.target.flush()
        with _reading(plan.medium.path) as file:
            first = file.read(MIB)
        self._put(0, memoryview(with_data_entry(first, plan.data) if plan.data else first))
        self.target.flush()
        self.progress.done()

    def _erase_start(self) -> None:
        """Nothing can start from it now; where data are kept, they can still be found."""
        erased = 0
        if self.plan.keeps_data and self.plan.data:
            sector = unfinished_sector(self.plan.data)
            self.target.write(0, sector)
            self.target.flush()  # before the rest, by which the old medium is known, is gone
            erased = len(sector)
        self.target.zero(erased, MIB - erased)

    def _copy(self, source: Path, start: int, end: int, distance: int) -> None:
        """Copy bytes of a file to that distance from where they lie in it."""
        buffer = aligned_buffer(_BLOCK_BYTES)
        with _reading(source) as file:
            file.seek(start)
            for offset in range(start, end, _BLOCK_BYTES):
                view = buffer[: min(_BLOCK_BYTES, end - offset)]
                if file.readinto(view) != len(view):
                    raise StoreError(f"{source} became shorter while it was read", path=str(source))
                whole = -(-len(view) // SECTOR_BYTES) * SECTOR_BYTES  # the rest of its last sector is nobody's
                buffer[len(view) : whole] = bytes(whole - len(view))
                self._put(offset + distance, buffer[:whole])

    def _put(self, offset: int, view: memoryview) -> None:
        self.target.write(offset, view)
        self.written.append((offset, len(view), blake3(view).digest()))
        self.progress.advance(len(view))

    def _read_back(self) -> None:
        self.progress.start(self.written_bytes, "read back")
        wrong = list(self._differing())
        self.progress.done()
        if wrong:
            raise TargetFailed(
                f"{self.plan.name} does not hold what was written: {sum(length for _, length in wrong)} bytes differ, "
                f"the first at byte {wrong[0][0]}",
                hint="The stick is failing, or smaller than it says: take another one.",
                path=self.plan.name,
            )

    def _differing(self) -> Iterator[tuple[int, int]]:
        buffer = aligned_buffer(_BLOCK_BYTES)
        for offset, length, digest in self.written:
            view = buffer[:length]
            self.target.read_back_into(offset, view)
            self.progress.advance(length)
            if blake3(view).digest() != digest:
                yield offset, length


@contextmanager
def _reading(path: Path) -> Iterator[FileIO]:
    """A file open for reading, whose errors are those of the place where it lies.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        with FileIO(path) as file:
            yield file
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
