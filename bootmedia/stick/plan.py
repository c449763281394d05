# SPDX-License-Identifier: GPL-3.0-or-later
"""What will become of a stick, before anything is written: a plan that can be printed, tested and sent as JSON.

Pure: `looking` has looked at the stick, and `job` carries the plan out. Whatever can be refused is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from bootmedia.stick.data import KINDS, LEAST_BYTES, MIB
from bootmedia.stick.exfat import is_possible_name
from bootmedia.stick.medium import DATA_NUMBER, HEAD_BYTES, SECTOR_BYTES, Entry, Medium, entries, is_ours
from imager.errors import TargetRefused, TargetTooSmall, UsageError
from imager.pictures.sizes import size_text
from imager.restore.guards import TargetState, check_sector_size, check_target
from imager.restore.scope import RestoreScope
from imager.restore.words import lost_sentences, partition_text

_SPARE_BYTES: Final = 512 * MIB
"""Behind the medium, for a larger one that is written later; an eighth of the room at most."""
_MOST_SECTORS: Final = (1 << 32) - 1  # that an entry can tell


@dataclass(frozen=True)
class Wishes:
    """What was asked for.

    Attributes:
        label: Of the data partition.
        asked_format: One of KINDS, "none" for no data partition, or None where nobody said.
        discard_data: Make a new data partition even where the stick has one of ours.
        not_removable: The disk may be one that does not look like a stick.
        verify: Read everything back.
        images: Sizes of the images for it, by name.
        files: Small files for its top.
    """

    label: str
    asked_format: str | None = None
    discard_data: bool = False
    not_removable: bool = False
    verify: bool = True
    images: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def data_format(self) -> str:
        """What a new data partition gets."""
        return "exfat" if self.asked_format is None else self.asked_format


@dataclass(frozen=True)
class Found:
    """What was found out about the stick.

    Attributes:
        state: As for every restore.
        head: Its first bytes.
        is_partition: It is only a part of a disk.
        is_removable: It looks like a stick or a card, or is a file.
    """

    state: TargetState
    head: bytes
    is_partition: bool
    is_removable: bool


@dataclass(frozen=True)
class StickPlan:
    """Everything that will be done.

    Attributes:
        medium: What is written.
        found: The stick as it is.
        wishes: What was asked for.
        data: The data partition; None for none.
        keeps_data: It is there already, and stays as it is.
        will_be_lost: What is on the stick now and will be gone.
        warnings: What the user should know before agreeing.
    """

    medium: Medium
    found: Found
    wishes: Wishes
    data: Entry | None
    keeps_data: bool
    will_be_lost: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """The stick for messages."""
        return self.found.state.name

    def steps(self) -> Iterator[str]:
        """The stages, in order."""
        yield "erase the old start, so that a stick that is pulled out too early is not taken for a whole one"
        yield f"write the medium {self.medium.path}, {size_text(self.medium.size_bytes)}"
        if self.data and not self.keeps_data:
            put = ", ".join([*sorted(self.wishes.files), *(f"images/{name}" for name in sorted(self.wishes.images))])
            size = size_text(self.data.end - self.data.start)
            yield (
                f"make partition {DATA_NUMBER}, {size} from byte {self.data.start}: "
                f"{self.wishes.data_format} with the name {self.wishes.label}, folders images/ and logs/, {put}"
            )
        yield "write the partition table and the first MiB when all else is on the stick"
        if self.wishes.verify:
            yield "read everything back past the cache"
        if self.found.state.is_block_device:
            yield "let the kernel read the new table"

    def kept(self) -> str:
        """What stays on the stick, as a sentence; "" for nothing."""
        if not self.keeps_data or not self.data:
            return ""
        layout = self.found.state.layout
        entry = layout.partition(DATA_NUMBER) if layout else None
        about = partition_text(entry) if entry else f"partition {DATA_NUMBER}"
        return f"{about}, {size_text(self.data.end - self.data.start)}, with all that is in it"

    def lines(self) -> list[str]:
        """The plan for people."""
        state = self.found.state
        about = [state.identity.short_name()] if state.identity.short_name() != state.name else []
        lines = [f"target   {state.name}: {', '.join([*about, size_text(state.size_bytes)])}"]
        lines += ["now on it, and lost", *(f"  {sentence}" for sentence in self.will_be_lost or ("nothing",))]
        lines += ["kept", f"  {self.kept()}"] if self.kept() else []
        lines += ["steps", *(f"  {number}. {text}" for number, text in enumerate(self.steps(), 1))]
        lines += ["warnings", *(f"  {sentence}" for sentence in self.warnings)] if self.warnings else []
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The plan as facts, for JSON."""
        start, end = (self.data.start, self.data.end) if self.data else (0, 0)
        return {
            "target": self.name,
            "identity": self.found.state.identity,
            "target_size_bytes": self.found.state.size_bytes,
            "medium": str(self.medium.path),
            "medium_size_bytes": self.medium.size_bytes,
            "data": {"start": start, "size_bytes": end - start, "kept": self.keeps_data} if self.data else None,
            "data_format": None if self.keeps_data else self.wishes.data_format,
            "images": sorted(self.wishes.images),
            "will_be_lost": self.will_be_lost,
            "kept": self.kept(),
            "steps": list(self.steps()),
            "plan_warnings": self.warnings,
        }


def make_stick_plan(medium: Medium, found: Found, wishes: Wishes) -> StickPlan:
    """Decide everything.

    Raises:
        TargetRefused: The stick must not be written.
        TargetTooSmall: The medium, or what is to go onto the data partition, does not fit.
        UsageError: Wishes contradict each other.
    """
    state = found.state
    _check_wishes(wishes)
    if found.is_partition:
        raise TargetRefused(
            f"{state.name} is a partition; a medium needs all of the stick", hint="Name the disk itself."
        )
    check_target(state)
    check_sector_size(state, SECTOR_BYTES)
    if not (found.is_removable or wishes.not_removable):
        raise TargetRefused(
            f"{state.name} is no USB stick and no memory card: {state.identity.short_name()}",
            hint="When it is meant all the same: --not-removable.",
            path=state.name,
        )
    if state.size_bytes < medium.size_bytes:
        raise TargetTooSmall(
            f"{state.name} has {size_text(state.size_bytes)}, the medium has {size_text(medium.size_bytes)}",
            hint="Take a larger stick, or build with --compression small.",
        )
    kept = None if wishes.discard_data or wishes.data_format == "none" else _own_data(found)
    if kept:
        _check_keeps(medium, found, wishes, kept)
    warnings: list[str] = []
    data = kept or _new_data(medium, state.size_bytes, wishes, warnings)
    return StickPlan(
        medium=medium,
        found=found,
        wishes=wishes,
        data=data,
        keeps_data=kept is not None,
        will_be_lost=lost_sentences(_without(state, kept), RestoreScope.whole()),
        warnings=tuple(warnings),
    )


def _check_wishes(wishes: Wishes) -> None:
    if wishes.data_format not in (*KINDS, "none"):
        raise UsageError(f"--data-format: {wishes.data_format!r} is none of {', '.join((*KINDS, 'none'))}")
    if wishes.data_format == "none" and wishes.images:
        raise UsageError("--include and --data-format none contradict each other")
    if wishes.data_format in ("ext4", "fat32") and wishes.images:
        raise UsageError(
            f"--include writes images into exFAT only, not into {wishes.data_format}",
            hint="Leave --data-format out, or copy the images when the stick is mounted.",
        )
    impossible = [name for name in wishes.images if not is_possible_name(name)]
    if impossible:
        raise UsageError(f"--include: exFAT has no files of the name {impossible[0]!r}", hint="Rename the image.")


def _own_data(found: Found) -> Entry | None:
    """The data partition of a stick that was written by us before, to its end or not."""
    entry = entries(found.head).get(DATA_NUMBER) if is_ours(found.head) else None
    return entry if entry and HEAD_BYTES < entry.start < entry.end <= found.state.size_bytes else None


def _check_keeps(medium: Medium, found: Found, wishes: Wishes, kept: Entry) -> None:
    if medium.size_bytes > kept.start:
        raise TargetTooSmall(
            f"the medium has {size_text(medium.size_bytes)}; the data partition of {found.state.name}, which is kept, "
            f"begins at {size_text(kept.start)}",
            hint="Save what is on it, then make a new one with --discard-data.",
        )
    if wishes.images or set(wishes.files) - {"README.txt"}:
        raise UsageError(
            f"{found.state.name} has a data partition, which is kept: --include and --answers are for a new one",
            hint="Mount it and copy the files there; or `bootmedia build` the medium with them; "
            "or make a new one with --discard-data, which loses what is on it.",
        )
    if wishes.asked_format is not None:
        raise UsageError(
            f"{found.state.name} has a data partition, which is kept as it is: --data-format is for a new one",
            hint="Leave it out, or make a new one with --discard-data, which loses what is on it.",
        )


def _new_data(medium: Medium, size_bytes: int, wishes: Wishes, warnings: list[str]) -> Entry | None:
    if wishes.data_format == "none":
        return None
    room = size_bytes - medium.size_bytes
    spare = min(_SPARE_BYTES, room // 8)
    start = -(-(medium.size_bytes + spare) // MIB) * MIB
    end = min(size_bytes // MIB * MIB, start + _MOST_SECTORS * SECTOR_BYTES // MIB * MIB, _MOST_SECTORS * SECTOR_BYTES)
    needed = sum(wishes.images.values())
    if end - start < max(LEAST_BYTES, needed):
        if wishes.images or set(wishes.files) - {"README.txt"}:
            raise TargetTooSmall(
                f"behind the medium are {size_text(max(0, end - start))} for a data partition, and "
                f"{size_text(max(LEAST_BYTES, needed))} are needed",
                hint="Take a larger stick.",
            )
        warnings.append("there is no room for a data partition: no logs and no images can be kept on this stick")
        return None
    if end < size_bytes // MIB * MIB:
        warnings.append(f"the table cannot tell of more than {size_text(end)}: the rest of the disk stays unused")
    return Entry(KINDS[wishes.data_format], start, end)


def _without(state: TargetState, kept: Entry | None) -> TargetState:
    """The stick as if what is kept were not on it."""
    if not kept or not state.layout:
        return state
    rest = tuple(entry for entry in state.layout.partitions if entry.start != kept.start)
    return replace(state, layout=replace(state.layout, partitions=rest))


def image_sizes(paths: list[Path]) -> dict[str, int]:
    """Sizes of files by name.

    Raises:
        UsageError: One is missing, or two have the same name.
    """
    sizes: dict[str, int] = {}
    for path in paths:
        if not path.is_file():
            raise UsageError(f"--include: {path} is no file")
        if path.name in sizes:
            raise UsageError(f"--include: two files have the name {path.name}")
        sizes[path.name] = path.stat().st_size
    return sizes
