# SPDX-License-Identifier: GPL-3.0-or-later
"""imager survey: what a capture would copy, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imager.cli.options import (
    AllBlocksOption,
    DebugOption,
    ExcludeOption,
    GapsOption,
    JsonOption,
    PartitionsOption,
    QuietOption,
    SectorSizeOption,
    SkipFilesOption,
    UnlockOption,
    disk_names,
    epilog,
)
from imager.cli.output import Console
from imager.cli.problems import reports_problems
from imager.errors import StoreError, UsageError
from imager.text import one_line

if TYPE_CHECKING:
    from imager.cli.sources import Opened  # imported late at run time, so that --help is fast

NAME = "survey"
EPILOG = epilog(
    ("imager survey /dev/sda", "what is on the first disk, and how much a capture would copy"),
    ("imager survey --svg sda.svg /dev/sda", "a map of its used blocks to look at"),
    ("imager survey --extents disk.img | awk '{n += $2} END {print n}'", "bytes to copy, for a script"),
    statuses=(2, 3),
)


@reports_problems
def command(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="Block devices, raw image files, virtual disks.", callback=disk_names),
    ],
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Write a map of the used blocks.")] = None,
    extents: Annotated[
        bool, typer.Option("--extents", help="Print the used ranges, start and length in bytes, and nothing else.")
    ] = False,
    partitions: PartitionsOption = None,
    exclude: ExcludeOption = None,
    unlock: UnlockOption = None,
    skip_files: SkipFilesOption = None,
    all_blocks: AllBlocksOption = False,
    gaps: GapsOption = False,
    sector_size: SectorSizeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a capture would copy, and why.

    The source is only read. It may be in use: then what is shown is a state that changes while it is looked at.
    """
    from imager.cli.sources import opened_and_surveyed, survey_options, tell_of_missing_files
    from imager.cli.unlock import parse_requests

    if (svg or extents) and len(sources) > 1:
        raise UsageError("--svg and --extents take one source at a time")
    if extents and as_json:
        raise UsageError("--extents and --json contradict each other")
    console = Console(json=as_json, quiet=quiet)
    options = survey_options(
        all_blocks=all_blocks, gaps=gaps, partitions=partitions, exclude=exclude, skip_files=skip_files
    )
    with opened_and_surveyed(
        sources, options, sector_size=sector_size, exclusive=False, unlocking=parse_requests(unlock)
    ) as opened:
        tell_of_missing_files(opened, options.skip_files, console)
        if svg:
            _write_svg(svg, opened[0])
        if extents:
            console.result({}, (f"{start}\t{end - start}" for start, end in opened[0].survey.used))
        else:
            console.result({"disks": [_facts(each) for each in opened]}, _lines(opened))


def _facts(each: Opened) -> dict[str, Any]:
    used = each.survey.used
    return {
        "source": each.path,
        "used_bytes": used.total_bytes,
        "extent_count": len(used),
        "layout": each.survey.layout,
    }


def _lines(opened: list[Opened]) -> Iterator[str]:
    from imager.cli.show import layout_lines, terminal_style
    from imager.pictures.sizes import size_text

    style = terminal_style()
    for each in opened:
        yield from layout_lines(each.survey.layout, style)
        used, size = each.survey.used, each.survey.layout.size_bytes
        share = 100 * used.total_bytes / size if size else 0
        yield f"a capture copies {size_text(used.total_bytes)} ({share:.1f} %) in {len(used)} ranges"
        yield ""


def _write_svg(path: Path, each: Opened) -> None:
    from imager.cli.sources import refuse_replacing
    from imager.pictures.svg import disk_map
    from imager.stores.base import store_error

    refuse_replacing(str(path), [each.path])
    title = f"{one_line(each.path)}  {each.survey.layout.identity.short_name()}"
    try:
        if not _may_become_picture(path):
            raise StoreError(
                f"{path} exists and is no picture: it would be lost", hint="Choose another name.", path=str(path)
            )
        path.write_text(disk_map(each.survey.layout, each.survey.used, title), encoding="utf-8")
    except OSError as error:
        raise store_error(error, str(path), "cannot write the picture") from error


def _may_become_picture(path: Path) -> bool:
    """Whether nothing but an older picture would be replaced; a mistyped name may be that of a disk."""
    if path.is_file():
        with path.open("rb") as there:
            return there.read(4) in (b"", b"<svg")
    return not path.is_block_device()
