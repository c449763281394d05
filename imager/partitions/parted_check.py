# SPDX-License-Identifier: GPL-3.0-or-later
"""A second opinion on a partition table: libparted's, in a child process.

Ours is the authority, because libparted knows nothing of type GUIDs, unique GUIDs, attributes, boot code and hybrid
MBRs, and refuses tables that are only unusual. But where both read a table and see partitions in other places, one of
them is wrong, and that is worth knowing.

libparted cannot harm the disk here: the child gets a file in memory, as long as the disk and with the sectors of the
table in it. It opens what it reads for writing, which for a disk means that udev looks at it anew afterwards.
It runs in a child (`parted_look`) because a failed assertion in libparted ends the whole process (abort).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from imager.blocks import BlockReader
from imager.errors import SourceUnreadable
from imager.extents import Extents
from imager.partitions.found import FoundTable, join
from imager.process import ProgramFailed, run

_CHILD: Final = "imager.partitions.parted_look"
_EDGE_BYTES: Final = 1024 * 1024
_MOST_COPIED_BYTES: Final = 64 * 1024 * 1024
_TIMEOUT_SECONDS: Final = 30
_NO_TABLE: Final = ("", "loop")
"""libparted calls a file system without a table a table of the kind loop."""
_NAMES: Final = {"gpt": "gpt", "hybrid": "gpt", "mbr": "msdos"}

Places = set[tuple[int, int]]


def cross_check(reader: BlockReader, found: FoundTable) -> FoundTable:
    """The table, with what libparted sees otherwise among its problems.

    Where our own reading met problems, a disagreement makes the disk one that is copied whole.
    """
    if found.table.kind == "unreadable" or found.whole_reason:
        return found
    try:
        seen = _ask(reader, found)
    except (ProgramFailed, OSError, ValueError) as error:
        return found.with_problem(f"libparted could not be asked for its reading: {error}")
    label = str(seen.get("label", ""))
    if label in _NO_TABLE:
        return _refused(found, [str(text) for text in seen.get("said", [])])
    text = _difference(found, label, _places(seen, reader.sector_size))
    if not text:
        return found
    in_doubt = bool(found.table.problems) or found.table.kind == "none"
    return found.with_problem(text, whole=in_doubt)


def _refused(found: FoundTable, said: list[str]) -> FoundTable:
    """It refuses what is only unusual; that is news where our own reading has nothing that explains it."""
    if found.table.kind == "none" or found.table.problems:
        return found
    return found.with_problem(f"libparted reads no partition table here: {join(said)}")


def _places(seen: dict[str, Any], sector_bytes: int) -> Places:
    return {(int(start) * sector_bytes, (int(end) + 1) * sector_bytes) for start, end in seen.get("partitions", [])}


def _difference(found: FoundTable, label: str, theirs: Places) -> str:
    if found.table.kind == "none":
        return f"libparted reads a partition table of the kind {label} here" if theirs else ""
    if label != _NAMES[found.table.kind]:
        return f"libparted takes the partition table for one of the kind {label}"
    ours: Places = {(entry.start, entry.end) for entry in found.partitions}
    if ours == theirs:
        return ""
    return f"libparted sees other partitions: {_list(theirs - ours)} instead of {_list(ours - theirs)}"


def _list(places: Places) -> str:
    return join([f"bytes {start} to {end}" for start, end in sorted(places)]) or "none"


def _ask(reader: BlockReader, found: FoundTable) -> dict[str, Any]:
    package_root = Path(__file__).parents[2]
    with _table_file(reader, found) as descriptor:
        done = run(
            [sys.executable, "-m", _CHILD, f"/proc/self/fd/{descriptor}"],
            timeout_seconds=_TIMEOUT_SECONDS,
            pass_fds=[descriptor],
            environment={
                "PARTED_SECTOR_SIZE": str(reader.sector_size),
                "PYTHONPATH": os.pathsep.join([str(package_root), *filter(None, [os.environ.get("PYTHONPATH")])]),
                "PYTHONWARNINGS": "ignore",
            },
        )
    answer = json.loads(done.output)
    if "failure" in answer:
        raise ValueError(str(answer["failure"]))
    return dict(answer)


@contextlib.contextmanager
def _table_file(reader: BlockReader, found: FoundTable) -> Iterator[int]:
    """A file in memory that looks like the disk where tables lie, and is empty elsewhere."""
    edges = Extents.of([(0, min(_EDGE_BYTES, reader.size)), (max(0, reader.size - _EDGE_BYTES), reader.size)])
    wanted = edges | Extents.of(found.table.table_ranges)
    if wanted.total_bytes > _MOST_COPIED_BYTES:
        raise ValueError(f"the table takes {wanted.total_bytes} bytes")
    descriptor = os.memfd_create("partition-table")
    try:
        os.ftruncate(descriptor, reader.size)
        for start, end in wanted:
            # What cannot be read is missing for libparted as well.
            with contextlib.suppress(SourceUnreadable):
                os.pwrite(descriptor, reader.read(start, end - start), start)
        yield descriptor
    finally:
        os.close(descriptor)
