# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks once more at what the planner says before anybody believes it: a wrong place would destroy what lies there."""

from __future__ import annotations

from imager.errors import Defect
from imager.fitting.model import Fitting
from imager.layout import Layout


def checked(fitting: Fitting, layout: Layout) -> Fitting:
    """The same fitting, of which every partition has whole sectors to itself that the table can name.

    Args:
        fitting: What the planner made.
        layout: The image's layout.

    Raises:
        Defect: A place is impossible. Nothing has been written.
    """
    there = fitting.layout_on_target(layout)
    sector, at = there.logical_sector_bytes, 0
    for entry in sorted(there.partitions, key=lambda entry: entry.start):
        if entry.kind == "extended":
            continue
        is_whole = entry.start % sector == entry.end % sector == 0
        if not (is_whole and at <= entry.start < entry.end <= fitting.usable_end):
            raise Defect(
                f"the plan puts partition {entry.number} at bytes {entry.start} to {entry.end}, which is impossible "
                f"with sectors of {sector} bytes, {at} bytes in use before it and {fitting.usable_end} usable",
                hint="Nothing was written; restore without fitting, and report this with `imager info --json IMAGE`.",
            )
        at = entry.end
    return fitting
