# SPDX-License-Identifier: GPL-3.0-or-later
"""What reading a partition table comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from imager.layout import Partition, Table

_SHOWN: Final = 5


@dataclass(frozen=True)
class FoundTable:
    """A partition table as it was found.

    Attributes:
        table: The table as a whole, with what is wrong with it.
        partitions: Its partitions in ascending number, their content not yet looked at.
        whole_reason: Why the partitions cannot be relied on and every block of the disk is to be copied;
            empty in the normal case.
    """

    table: Table
    partitions: tuple[Partition, ...] = ()
    whole_reason: str = ""

    def with_problem(self, text: str, *, whole: bool = False) -> FoundTable:
        """The same with one more problem, which may make the disk one that is copied whole."""
        table = replace(self.table, problems=(*self.table.problems, text))
        reason = join([self.whole_reason, text]) if whole else self.whole_reason
        return replace(self, table=table, whole_reason=reason)


def unreadable(problem: str) -> FoundTable:
    """A disk with a table that nobody here can read."""
    return FoundTable(Table("unreadable", problems=(problem,)), (), problem)


def join(texts: Sequence[str]) -> str:
    """Several reasons as one, cut where a hostile table would make a book of it."""
    said = [text for text in texts if text]
    more = [f"and {len(said) - _SHOWN} more of the kind"] if len(said) > _SHOWN else []
    return "; ".join(said[:_SHOWN] + more)
