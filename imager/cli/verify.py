# SPDX-License-Identifier: GPL-3.0-or-later
"""imager verify: whether an image is whole, and whether a disk equals it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from imager.cli.options import (
    DebugOption,
    ImageArgument,
    JsonOption,
    ProgressOption,
    QuietOption,
    SectorSizeOption,
    ThreadsOption,
    disk_name,
    epilog,
)
from imager.cli.output import Console
from imager.cli.problems import reports_problems
from imager.errors import ContentDiffers, ContentIncomplete, UsageError

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from imager.image.compare import Comparison
    from imager.image.reader import Image, StreamedImage
    from imager.image.verify import Verified
    from imager.layout import Layout

NAME = "verify"
EPILOG = epilog(
    ("imager verify server.img.zst", "read all of it and check every digest"),
    ("imager verify --quick server.img.zst", "only the structure: seconds, whatever the size"),
    ("imager verify --against /dev/sdb server.img.zst", "is my clone right?"),
    ("ssh backup 'cat server.img.zst' | imager verify -", "where it lies"),
    statuses=(2, 3, 4, 5, 7, 8),
)


@reports_problems
def command(
    image: ImageArgument,
    quick: Annotated[bool, typer.Option("--quick", help="Check the structure only, not the data.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Every byte of the file must be the one written.")] = False,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="DISK", help="Compare a disk with the image, used blocks only.", callback=disk_name
        ),
    ] = None,
    threads: ThreadsOption = None,
    sector_size: SectorSizeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = None,
    debug: DebugOption = False,
) -> int:
    """Check that an image is whole and undamaged, or that a disk equals it.

    Some bits of a compressed file do not matter; --strict reports a flip of these too.
    """
    from imager.image.reader import open_image

    if against and (quick or strict):
        raise UsageError("--against compares content; it goes without --quick and --strict")
    if quick and strict:
        raise UsageError("--quick and --strict contradict each other")
    console = Console(json=as_json, quiet=quiet, progress_as=progress)
    with open_image(image) as opened:
        if against:
            return _compare(opened, against, console, threads, sector_size)
        return _verify(opened, image, console, quick=quick, strict=strict, threads=threads)


def _verify(
    opened: Image | StreamedImage, name: str, console: Console, *, quick: bool, strict: bool, threads: int | None
) -> int:
    from imager.image.verify import verify

    found = verify(opened, quick=quick, strict=strict, threads=threads, progress=console.progress())
    damaged = bool(len(found.missing) or len(found.unreadable))
    facts = {
        "image": name,
        "whole": not damaged,
        "checked": "structure" if quick else "content",
        "chunk_count": found.chunk_count,
        "content_bytes": found.content_bytes,
        "root_digest": found.root_digest.hex(),
        "missing": list(found.missing),
        "unreadable": list(found.unreadable),
    }
    for text in found.warnings:
        console.warn(text)
    console.result(facts, _verified_lines(name, found, opened.layout, quick=quick))
    return ContentIncomplete.exit_code if damaged else 0


def _verified_lines(name: str, found: Verified, layout: Layout, *, quick: bool) -> Iterator[str]:
    from imager.damage import damaged_parts
    from imager.pictures.sizes import size_text

    what = "structure" if quick else "every digest"
    yield f"{name}: {what} is right; {found.chunk_count} chunks, {size_text(found.content_bytes)}"
    for part in damaged_parts(layout, found.missing, found.unreadable):
        yield f"DAMAGED: {part.sentence()}"


def _compare(
    opened: Image | StreamedImage, disk: str, console: Console, threads: int | None, sector_size: int | None
) -> int:
    from imager.cli.refusing import refuse_images
    from imager.devices.opening import open_source
    from imager.image.compare import compare
    from imager.virtual.show import shown_disk

    refuse_images([disk])
    with shown_disk(disk), open_source(disk, exclusive_check=False, sector_size=sector_size) as reader:
        found = compare(opened, reader, threads=threads, progress=console.progress())
    facts = {
        "disk": disk,
        "equal": not len(found.differing) and not len(found.missing),
        "compared_bytes": found.compared_bytes,
        "differing": list(found.differing),
        "missing": list(found.missing),
        "partitions": [{"number": number, "differing_bytes": count} for number, count in found.partitions],
    }
    console.result(facts, _compared_lines(disk, found))
    if len(found.differing):
        return ContentDiffers.exit_code
    return ContentIncomplete.exit_code if len(found.missing) else 0


def _compared_lines(disk: str, found: Comparison) -> Iterator[str]:
    from imager.pictures.sizes import size_text

    if len(found.missing):
        lost = size_text(found.missing.total_bytes)
        yield f"{lost} of the disk could not be compared: the image has lost them (imager info lists them)"
    if not len(found.differing):
        rest = " in all that it has" if len(found.missing) else ""
        yield f"{disk} equals the image{rest}: {size_text(found.compared_bytes)} in use compared"
        return
    yield f"{disk} differs from the image in {size_text(found.differing.total_bytes)}:"
    for number, count in found.partitions:
        yield f"  partition {number}: {size_text(count)}"
    if found.outside_bytes:
        yield f"  outside of partitions: {size_text(found.outside_bytes)}"
    for start, end in list(found.differing)[:20]:
        yield f"  {start}-{end}"
    if len(found.differing) > 20:
        yield f"  and {len(found.differing) - 20} more ranges (--json lists all)"
