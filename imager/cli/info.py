# SPDX-License-Identifier: GPL-3.0-or-later
"""imager info: what an image holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imager.cli.options import DebugOption, ImageArgument, JsonOption, QuietOption, epilog
from imager.cli.output import Console
from imager.cli.problems import reports_problems
from imager.errors import UsageError

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from imager.image.description import FinalFacts
    from imager.image.reader import Image, StreamedImage

NAME = "info"
EPILOG = epilog(
    ("imager info server.img.zst", "the disk that is in it"),
    ("imager info --json server.img.zst | jq '.layout.partitions[].content.type'", "for a script"),
    ("ssh backup 'cat server.img.zst' | imager info -", "of a stream: reads only its beginning"),
    ("imager info --answers server.img.zst > recovery.toml", "the answers that it carries"),
    statuses=(2, 4, 5),
)


@reports_problems
def command(
    image: ImageArgument,
    answers: Annotated[
        bool, typer.Option("--answers", help="Print the recovery.toml that the image carries, and nothing else.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what an image holds, without reading its data."""
    from imager.image.reader import open_image

    console = Console(json=as_json, quiet=quiet)
    with open_image(image) as opened:
        if answers:
            _print_answers(image, opened.description.answers, console)
            return
        final = None if opened.streamed else opened.final
        console.result(_facts(opened, final), _lines(opened, final))


def _print_answers(image: str, answers: str, console: Console) -> None:
    if not answers:
        raise UsageError(f"{image} carries no recovery.toml", hint="imager capture --answers puts one in.")
    console.result({"answers": answers}, answers.removesuffix("\n").split("\n"))


def _facts(image: Image | StreamedImage, final: FinalFacts | None) -> dict[str, Any]:
    about = image.description
    facts = {
        "image_id": str(about.image_id),
        "set_id": str(about.set_id),
        "created": about.created,
        "tool": about.tool,
        "compressor": about.compressor,
        "level": about.level,
        "comment": about.comment,
        "options": about.options,
        "set_members": about.set_members,
        "answers": about.answers,
        "disk_size_bytes": about.disk_size,
        "chunk_size_bytes": about.chunk_size,
        "used_bytes": about.used.total_bytes,
        "extent_count": len(about.used),
        "chunk_count": image.chunks.count,
        "layout": about.layout,
    }
    if final is not None:
        facts["unreadable"] = list(final.unreadable)
        facts["missing"] = list(final.missing)
        facts["final_warnings"] = final.warnings
        facts["salvaged_from"] = final.salvaged_from
    return facts


def _lines(image: Image | StreamedImage, final: FinalFacts | None) -> Iterator[str]:
    from imager.cli.show import layout_lines, terminal_style
    from imager.damage import damaged_parts
    from imager.pictures.sizes import size_text

    about = image.description
    yield from layout_lines(about.layout, terminal_style())
    yield ""
    yield f"image     {about.image_id}" + (f"  (set {about.set_id})" if about.set_id.int else "")
    yield f"made      {about.created} by {about.tool}, level {about.level}, {about.compressor}"
    for name, value in about.options.items():
        yield f"option    {name}: {value}"
    if about.comment:
        yield f"comment   {about.comment}"
    for member in about.set_members:
        yield f"in set    {member.image}: {member.identity.short_name()}, {size_text(member.size_bytes)}"
    if about.answers:
        yield f"answers   a recovery.toml of {len(about.answers.encode())} bytes (imager info --answers prints it)"
    chunks = f"{image.chunks.count} chunks of {size_text(about.chunk_size)}"
    yield f"used      {size_text(about.used.total_bytes)} in {len(about.used)} ranges, {chunks}"
    if final is None:
        yield "damage    not known: a stream says it at its end (imager verify reads it)"
        return
    for text in final.warnings:
        yield f"warning: {text}"
    for part in damaged_parts(about.layout, final.missing, final.unreadable):
        yield f"DAMAGED: {part.sentence()}"
