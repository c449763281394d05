# SPDX-License-Identifier: GPL-3.0-or-later
"""imager salvage: a valid image from a damaged one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from imager.cli.options import DebugOption, JsonOption, ProgressOption, QuietOption, ThreadsOption, epilog, file_name
from imager.cli.output import Console
from imager.cli.problems import reports_problems
from imager.errors import ContentIncomplete, UsageError

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from imager.image.salvage import Salvaged

NAME = "salvage"
EPILOG = epilog(
    ("imager salvage broken.img.zst saved.img.zst", "keep all that its digests prove"),
    ("imager salvage server.img.zst.partial saved.img.zst", "of a capture that was cut off and cannot be resumed"),
    ("imager salvage server.img.zst saved.img.zst", "of a split image, also when parts of it are lost"),
    statuses=(2, 4, 5, 7),
)


@reports_problems
def command(
    broken: Annotated[
        str,
        typer.Argument(metavar="BROKEN", help="A truncated or damaged image; it is only read.", callback=file_name),
    ],
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The new image.", callback=file_name)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing IMAGE.")] = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = None,
    debug: DebugOption = False,
) -> int:
    """Make a valid image of all that a damaged one still holds.

    The new image has an id of its own and records what is missing. Restoring it needs --accept-damage.
    """
    from imager.cli.sources import refuse_replacing
    from imager.image.salvage import salvage
    from imager.stores import open_input, open_output

    if image == "-" or broken == "-":
        raise UsageError("salvage reads a file and writes a file", hint="Store the damaged image first.")
    refuse_replacing(image, [broken])
    console = Console(json=as_json, quiet=quiet, progress_as=progress)
    with closing(open_input(broken, unfinished=True)) as source:
        output = open_output(image, overwrite=overwrite)
        saved = salvage(source, output, image_id=uuid.uuid4(), threads=threads, progress=console.progress())
    facts = {
        "image": image,
        "image_id": str(saved.summary.image_id),
        "chunk_count": saved.summary.chunk_count,
        "missing_bytes": saved.missing.total_bytes,
        "missing": list(saved.missing),
    }
    console.result(facts, _lines(image, saved))
    return ContentIncomplete.exit_code if len(saved.missing) else 0


def _lines(image: str, saved: Salvaged) -> Iterator[str]:
    from imager.pictures.sizes import size_text

    yield f"{image}: {saved.summary.chunk_count} chunks saved"
    if len(saved.missing):
        yield f"missing: {size_text(saved.missing.total_bytes)} in {len(saved.missing)} ranges (imager info lists them)"
    else:
        yield "nothing is missing"
