# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures how tight the maps of used blocks are: `make used-map-report`.

Each case of used_map_cases.py is made in a file, filled, and looked at in three ways: what the file system itself
counts as used, imager's map, and partclone's map of the same file. The table is written to docs/reference, or shown
with --print. No root is needed; what is not installed is left out, and said.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from used_map_cases import CASES, Case, make_content
from used_map_counts import PROGRAM_PATH, call

from imager import __version__
from imager.devices.opening import open_source
from imager.examine import Volume, examine
from imager.extents import Extents
from imager.filesystems import registry

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "used-map-report.md"
_MIB = 1024 * 1024
_MADE = "<!-- Made by make used-map-report (scripts/used_map_report.py); change it there. -->"
_NOTHING = "–"  # noqa: RUF001 - as in the tables of other pages


@dataclass(frozen=True)
class Row:
    """What was measured of a case.

    Attributes:
        own_bytes: What the file system counts as used; None when nothing tells.
        map_bytes: The parser's map; None when the volume is copied whole.
        image_bytes: What a capture copies of the volume, its edges among it.
        partclone: partclone's map; None when it has none.
        lost_bytes: How much of the parser's map is not in it.
        whole_reason: Why the volume is copied whole.
    """

    case: Case
    size_bytes: int
    own_bytes: int | None
    map_bytes: int | None
    image_bytes: int
    partclone: Extents | None
    refusal: str = ""
    lost_bytes: int = 0
    whole_reason: str = ""


def measure(case: Case, folder: Path, content: Path) -> Row:
    """Make a volume and look at it."""
    image = folder / "volume"
    with image.open("wb") as file:
        file.truncate(case.size_mib * _MIB)
    case.make(image, content)
    own_bytes = case.count(image) if case.count is not None else None
    with open_source(image) as reader:
        found = examine(Volume(reader, str(image)))
        parser = next((each for each in registry.PARSERS if found.content.type in each.DOC.types), None)
        trusted = parser is not None and not found.content.whole_reason
        used = parser.used_map(reader).used if parser is not None and trusted else None
        size = reader.size
    theirs, refusal = partclone_map(case, image)
    image.unlink()
    lost = used - theirs if used is not None and theirs is not None else Extents()
    return Row(
        *(case, size, own_bytes, None if used is None else used.total_bytes, found.used.total_bytes),
        *(theirs, refusal, lost.total_bytes, found.content.whole_reason),
    )


def partclone_map(case: Case, image: Path) -> tuple[Extents | None, str]:
    """What partclone would copy: its domain map's ranges that are marked with a plus; or why there is none."""
    if not case.partclone:
        return None, _NOTHING
    if shutil.which(case.partclone, path=PROGRAM_PATH) is None:
        return None, "not installed"
    try:
        said = call(case.partclone, "-D", "-s", image, "-o", "-", "-L", "/dev/null", "-q")
    except RuntimeError:
        return None, "refuses"
    rows = re.findall(r"^(0x\w+)\s+(0x\w+)\s+\+$", said, re.MULTILINE)
    return Extents.of((int(start, 16), int(start, 16) + int(length, 16)) for start, length in rows), ""


def mib(count: int) -> str:
    """A size in MiB, with a digit more for small ones."""
    return f"{count / _MIB:.3f}" if count < _MIB else f"{count / _MIB:.2f}"


def lost(row: Row) -> str:
    """How much of our map partclone leaves out."""
    if row.partclone is None or row.map_bytes is None:
        return _NOTHING
    return mib(row.lost_bytes) if row.lost_bytes >= _MIB / 100 else f"{row.lost_bytes} bytes" if row.lost_bytes else "0"


def table(rows: list[Row]) -> Iterator[str]:
    """The rows as a table in Markdown."""
    titles = ("file system", "case", "volume", "its own count", "imager's map", "of its count")
    titles += ("partclone's map", "not in partclone's", "in an image")
    yield f"| {' | '.join(titles)} |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        ours = "whole" if row.map_bytes is None else mib(row.map_bytes)
        own = _NOTHING if row.own_bytes is None else mib(row.own_bytes)
        is_known = row.map_bytes is not None and row.own_bytes is not None
        share = f"{100 * row.map_bytes / row.own_bytes:.1f} %" if is_known else _NOTHING
        theirs = row.refusal if row.partclone is None else mib(row.partclone.total_bytes)
        cells = (row.case.system, row.case.what.replace("_", "\\_"), mib(row.size_bytes), own, ours)
        yield f"| {' | '.join((*cells, share, theirs, lost(row), mib(row.image_bytes)))} |"


def page(rows: list[Row], left_out: dict[str, str], content: Path) -> str:
    """The page of the documentation."""
    sizes = [path.stat().st_size for path in content.rglob("file*")]
    facts = {"version": __version__, "files": len(sizes), "content": f"{sum(sizes) / _MIB:.2f}"}
    lines = [_MADE, "", *_HEAD.format(**facts).splitlines(), "", *table(rows), ""]
    whole = [f"* {row.case.system}, {row.case.what}: {row.whole_reason}." for row in rows if row.whole_reason]
    if whole:
        lines += ["Copied whole:", "", *whole, ""]
    if left_out:
        lines += ["Not measured:", "", *(f"* {name}: {why}." for name, why in left_out.items()), ""]
    return "\n".join([*lines, *_TAIL.splitlines(), ""])


_HEAD = """# How tight the maps are

Sizes in MiB, measured by `make used-map-report` with imager {version}. The volumes are made and filled in user space,
with the same {files} files ({content} MiB) each, unless the case says otherwise; from FAT and ext every third file is
deleted again. NTFS gets those that are not empty, in one folder. Volumes of the corpus were
filled and aged by a kernel.

* **Its own count** is what the file system's own tool says is in use, or what the kernel said that made it.
* **imager's map** is what the parser calls used: the count above, and what a file system needs without counting it:
  boot sectors, copies of the superblock, the log, space that is reserved.
* **partclone's map** is what `partclone.FS -D` calls used, of the same volume; **not in partclone's** is what our map
  holds beside it.
* **In an image** there are also the first and the last MiB of every volume, and, for images of known length, one MiB
  behind their end. That is the price of never losing a label or a boot loader, and does not grow with the volume."""

_TAIL = """## Why they differ

* **NTFS.** The last sector of the volume is the backup of the boot sector, behind the last cluster. No bitmap counts
  it, and partclone leaves it out; a boot sector that is damaged later cannot be repaired then.
* **XFS.** The blocks that the free space trees keep in stock for themselves (AGFL) are free by the count, and partclone
  leaves them out. They are in use here. Most of the rest is the log, which always counts.
* **Btrfs.** Where both copies of a block group (DUP) lie on the disk, its count is doubled here. partclone copies one
  of the two: `btrfs scrub` then finds every block of the other one damaged. The first MiB is reserved, and used here.
  partclone counts in blocks of 16 KiB, so its map is larger and holds less.
* **FAT, exFAT.** In front of the clusters lie the boot sectors and the FATs: they are counted as used here.
* **F2FS.** One block more: the one that the next node goes to, which recovery reads.
* **NILFS2.** Both superblocks are counted by nobody. What it frees is a whole segment.
* **squashfs, EROFS, ISO 9660.** Their own count is their length. squashfs is padded to 4 KiB.
* **Linux swap.** The first 64 KiB are kept whatever the size of a page."""


def main() -> int:
    """Measure, and write the page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--print", action="store_true", dest="shows", help="show the table, write nothing")
    arguments.add_argument("--only", metavar="TEXT", default="", help="cases of file systems whose name begins so")
    chosen = arguments.parse_args()
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        content = make_content(Path(name, "content"))
        for case in CASES:
            title = f"{case.system}, {case.what}"
            missing = case.missing()
            if not case.system.lower().startswith(chosen.only.lower()):
                continue
            if missing:
                left_out[title] = f"not installed: {', '.join(missing)}"
                continue
            sys.stderr.write(f"{title}\n")
            rows.append(measure(case, Path(name), content))
        text = page(rows, left_out, content)
    if chosen.shows or chosen.only:
        sys.stdout.write(text)
    else:
        PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
