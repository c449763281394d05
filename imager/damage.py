# SPDX-License-Identifier: GPL-3.0-or-later
"""Names what of a disk's content is lost: which partition, which ranges, and why. The same words everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from imager.extents import Extents
from imager.layout import Layout
from imager.pictures.sizes import size_text

_SHOWN_RANGES: Final = 8


@dataclass(frozen=True)
class DamagedPart:
    """A part of a disk whose content is not what the disk held.

    Attributes:
        what: Which part of the disk, for people.
        number: The partition's number; 0 outside of partitions.
        ranges: The ranges, as offsets of the disk that was captured.
        is_missing: True when the image does not have them, False when the source could not be read there.
    """

    what: str
    number: int
    ranges: Extents
    is_missing: bool

    def sentence(self) -> str:
        """The part and its ranges, in words."""
        shown = [f"{start}-{end}" for start, end in list(self.ranges)[:_SHOWN_RANGES]]
        more = len(self.ranges) - len(shown)
        shown += [f"and {more} more ranges"] if more else []
        fate = "are missing from the image" if self.is_missing else "could not be read and are zeros"
        return f"{self.what}: {size_text(self.ranges.total_bytes)} {fate} (disk bytes {', '.join(shown)})"


def damaged_parts(layout: Layout, missing: Extents, unreadable: Extents) -> tuple[DamagedPart, ...]:
    """Split lost ranges by the partitions that they hit.

    Args:
        layout: Of the disk that was captured.
        missing: What the image does not have.
        unreadable: What the source could not deliver.
    """
    found: list[DamagedPart] = []
    for ranges, is_missing in ((missing, True), (unreadable, False)):
        rest = ranges
        for entry in layout.partitions:
            hit = ranges.clip(entry.start, entry.end)
            if entry.kind == "extended" or not len(hit):
                continue
            label = entry.content.type if entry.content else ""
            name = f"partition {entry.number}" + (f" ({label})" if label else "")
            found.append(DamagedPart(name, entry.number, hit, is_missing))
            rest -= Extents.single(entry.start, entry.end)
        if len(rest):
            found.append(DamagedPart("outside of partitions" if layout.partitions else "the disk", 0, rest, is_missing))
    return tuple(found)
