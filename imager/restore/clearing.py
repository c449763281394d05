# SPDX-License-Identifier: GPL-3.0-or-later
"""What must not survive on the target: which unused ranges are cleared, and how.

A range that the image does not use may hold the remains of what lay on the target before: a backup GPT at the old
end, RAID superblocks, LVM labels, file systems. Where the device zeroes cheaply everything is zeroed. Where it does
not, the places where such signatures live are zeroed, because a discard promises nothing about what is read
afterwards.

Members of arrays with parity are zeroed wherever they are not used, at any cost. RAID computes the new parity of a
stripe from the old one: where that was wrong, a disk that fails later takes what was written since with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from imager.devices import target
from imager.extents import Extents
from imager.layout import Layout
from imager.partitions.adapt import table_only_ranges
from imager.pictures.sizes import size_text

Method = target.Clearing | Literal["nothing"]

HEAD_MARK_BYTES: Final = 4 * 1024 * 1024
"""Signatures start within so many bytes of a volume: VMFS at 2 MiB is the farthest that blkid looks for."""
TAIL_MARK_BYTES: Final = 2 * 1024 * 1024
"""Backup GPT, MD 0.90 and 1.0, DDF, IMSM and ZFS labels lie within so many bytes of a volume's end."""
_GRAIN_BYTES: Final = 4096
"""Zeroing keeps to this grid where it can: no device has larger logical sectors."""


@dataclass(frozen=True)
class Clearing:
    """Ranges of the target that are cleared before anything is written.

    Attributes:
        method: How the device does it.
        discard: Ranges that are given back to the device; what they hold afterwards is not known.
        zero: Ranges that read as zeros afterwards.
        left: Ranges that stay as they are, because nothing that confuses can lie there.
        parity: The part of zero that would have been left but for parity.
    """

    method: Method
    discard: Extents
    zero: Extents
    left: Extents
    parity: Extents = field(default_factory=Extents)

    def sentence(self) -> str:
        """How it is done, for the plan."""
        about_parity = f"; {size_text(self.parity.total_bytes)} more are zeroed in members of arrays with parity"
        return self._in_general() + (about_parity if len(self.parity) else "")

    def _in_general(self) -> str:
        return {
            "punch-hole": "every unused range becomes a hole of the file",
            "write-zeroes": "every unused range is zeroed by the device",
            "discard+zero-edges": "unused ranges are discarded, and zeroed where signatures can lie",
            "zero-edges": "unused ranges are zeroed where signatures can lie, and keep old content elsewhere",
            "nothing": "nothing else is cleared",
        }[self.method]


def volume_marks(start: int, end: int) -> Extents:
    """Where the signatures of a volume that reaches from start to end can lie."""
    return Extents.of(
        [
            (start, min(start + HEAD_MARK_BYTES, end)),
            (max(end - TAIL_MARK_BYTES, start), end),
        ]
    )


def layout_marks(layout: Layout) -> Extents:
    """Where the signatures of all that a layout holds can lie, its own table included."""
    parts = [volume_marks(entry.start, entry.end) for entry in layout.partitions]
    parts.append(volume_marks(0, layout.size_bytes))
    parts.append(table_only_ranges(layout))
    return Extents.union_of(parts)


def plan_clearing(method: Method, rest: Extents, marks: Extents, parity: Extents = Extents()) -> Clearing:  # noqa: B008
    """Decide how the unused ranges are cleared.

    Args:
        method: What the target can do.
        rest: The ranges that nothing is written to.
        marks: Where signatures can lie.
        parity: Where all of the rest must read as zeros.
    """
    nothing = Extents()
    if method == "nothing":
        return Clearing(method, nothing, nothing, rest)
    if method in ("punch-hole", "write-zeroes"):
        return Clearing(method, nothing, rest, nothing)
    edges = rest & marks.align_outward(_GRAIN_BYTES)
    zero = edges | (rest & parity)
    discard = rest - (zero - edges) if method == "discard+zero-edges" else nothing
    return Clearing(method, discard, zero, rest - zero - discard, zero - edges)
