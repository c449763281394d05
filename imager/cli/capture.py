# SPDX-License-Identifier: GPL-3.0-or-later
"""imager capture: disks into images."""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from imager.cli.options import (
    AllBlocksOption,
    DebugOption,
    ExcludeOption,
    GapsOption,
    JsonOption,
    PartitionsOption,
    ProgressOption,
    QuietOption,
    RescueOption,
    SectorSizeOption,
    SkipFilesOption,
    ThreadsOption,
    UnlockOption,
    disk_names,
    epilog,
    file_name,
    parse_size,
    shortened,
)
from imager.cli.output import Console
from imager.cli.problems import reports_problems
from imager.errors import ContentIncomplete, UsageError
from imager.text import storable

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from imager.capture.complete import CompleteImage
    from imager.capture.options import CaptureOptions, CaptureResult
    from imager.cli.sources import Opened
    from imager.image.description import SetMember

NAME = "capture"
EPILOG = epilog(
    ("imager capture /dev/sda /mnt/backup/server.img.zst", "the whole disk, used blocks only"),
    ("imager capture --exclude 3 --level fast /dev/nvme0n1 pc.img.zst", "without partition 3, as fast as it goes"),
    ("imager capture /dev/sda /dev/sdb /mnt/backup/server/", "two disks that belong together, into a folder"),
    ("imager capture /dev/sda - | ssh backup 'cat > server.img.zst'", "over the network"),
    ("imager capture --answers recovery.toml /dev/sda pc.img.zst", "with what an unattended restore does with it"),
    (
        "imager capture --skip-file-content pagefile.sys,swapfile.sys /dev/sda pc.img.zst",
        "without the content of page files",
    ),
    ("imager capture --rescue /dev/sdc dying.img.zst", "a disk with bad sectors"),
    ("imager capture --resume /dev/sda server.img.zst", "go on where an interrupted capture stopped"),
    statuses=(2, 3, 5, 7, 130),
)
_CHUNK_SIZES = (256 * 1024, 4 * 1024 * 1024)


@reports_problems
def command(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="Block devices, raw image files, virtual disks.", callback=disk_names),
    ],
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE", help="New image; a folder for several sources; - for stdout.", callback=file_name
        ),
    ],
    level: Annotated[str, typer.Option("--level", metavar="fast|1..19", help="Compression level.")] = "3",
    threads: ThreadsOption = None,
    chunk_size: Annotated[
        str, typer.Option("--chunk-size", metavar="SIZE", help="256KiB to 4MiB: what is compressed at once.")
    ] = "1MiB",
    partitions: PartitionsOption = None,
    exclude: ExcludeOption = None,
    unlock: UnlockOption = None,
    skip_files: SkipFilesOption = None,
    all_blocks: AllBlocksOption = False,
    gaps: GapsOption = False,
    split: Annotated[
        str | None, typer.Option("--split", metavar="SIZE", help="Parts of this size, for FAT32 sticks: IMAGE.000, ...")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing image when the new one is whole.")
    ] = False,
    comment: Annotated[str, typer.Option("--comment", metavar="TEXT", help="A note that the image carries.")] = "",
    answers: Annotated[
        str | None,
        typer.Option(
            "--answers",
            metavar="FILE",
            help="A recovery.toml that the image carries, for an unattended restore; of several images, the first.",
            callback=file_name,
        ),
    ] = None,
    image_id: Annotated[
        str | None,
        typer.Option("--image-id", metavar="UUID", help="Id of the image, for identical bytes; else random."),
    ] = None,
    rate_limit: Annotated[
        str | None, typer.Option("--rate-limit", metavar="SIZE", help="Read at most so many bytes a second.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with an interrupted capture of the same disk; fine when it is complete."),
    ] = False,
    rescue: RescueOption = False,
    sector_size: SectorSizeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = None,
    debug: DebugOption = False,
) -> int:
    """Copy the used blocks of disks into compressed images.

    The source is only read, and refused while it is in use for writing. The image is an ordinary .zst file whose
    content is the raw disk; it appears under its name when it is complete and on stable storage, not before.
    """
    from imager.cli.answers import read_answers
    from imager.cli.capture_set import interrupted_set
    from imager.cli.sources import opened_and_surveyed, survey_options, tell_of_missing_files
    from imager.cli.unlock import parse_requests

    _check_output(sources, image, resume=resume, split=split, overwrite=overwrite, image_id=image_id)
    console = Console(
        json=as_json, quiet=quiet, progress_as=progress, results=sys.stderr if image == "-" else sys.stdout
    )
    options = _capture_options(
        level, threads, chunk_size, rate_limit, image_id, comment=comment, resume=resume, rescue=rescue
    )
    wanted = survey_options(
        all_blocks=all_blocks, gaps=gaps, partitions=partitions, exclude=exclude, skip_files=skip_files
    )
    split_size = parse_size(split, "--split") if split is not None else None
    recorded = {"partitions": partitions, "exclude": exclude, "all blocks": all_blocks, "gaps": gaps}
    recorded["skip file content"] = list(wanted.skip_files)
    options = replace(options, recorded={name: _recorded(value) for name, value in recorded.items() if value})
    answers_text = read_answers(answers) if answers is not None else ""
    with opened_and_surveyed(
        sources, wanted, sector_size=sector_size, exclusive=True, unlocking=parse_requests(unlock)
    ) as opened:
        tell_of_missing_files(opened, wanted.skip_files, console)
        targets = [image] if len(opened) == 1 and not _is_folder(image) else _names_in_folder(Path(image), opened)
        set_id = interrupted_set(targets) if resume and len(opened) > 1 else None
        if len(opened) > 1:
            options = replace(options, set_id=set_id or uuid.uuid4(), set_members=_members(opened, targets))
        results = []
        for number, (each, name) in enumerate(zip(opened, targets, strict=True)):
            own = replace(options, answers="" if number else answers_text)
            results.append(_capture_one(each, name, own, console, overwrite=overwrite, split_size=split_size))
    facts = [_facts(each, name, result) for each, name, result in zip(opened, targets, results, strict=True)]
    console.result({"images": facts}, _lines(opened, targets, results))
    return ContentIncomplete.exit_code if any(result.lacks_content for result in results) else 0


def _check_output(
    sources: Sequence[str], image: str, *, resume: bool, split: str | None, overwrite: bool, image_id: str | None
) -> None:
    if image == "-":
        if resume or split or overwrite:
            raise UsageError("--resume, --split and --overwrite need a file; they cannot be used with standard output")
        if len(sources) > 1:
            raise UsageError(
                "several disks cannot go to standard output", hint="Capture one at a time, or into a folder."
            )
        if sys.stdout.isatty():
            raise UsageError(
                "an image would be written to the terminal", hint="Redirect standard output, or name a file."
            )
    elif len(sources) > 1 and _is_no_folder(image):
        raise UsageError(f"{image} is not a folder: several disks go into a folder, one image each")
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other")
    if image_id and len(sources) > 1:
        raise UsageError("--image-id names one image, and there are several sources")


def _capture_options(
    level: str,
    threads: int | None,
    chunk_size: str,
    rate_limit: str | None,
    image_id: str | None,
    *,
    comment: str,
    resume: bool,
    rescue: bool,
) -> CaptureOptions:
    from imager.capture.options import CaptureOptions

    size = parse_size(chunk_size, "--chunk-size")
    if not _CHUNK_SIZES[0] <= size <= _CHUNK_SIZES[1] or size & (size - 1):
        raise UsageError(f"--chunk-size {chunk_size}: it is a power of two from 256KiB to 4MiB")
    try:
        given_id = uuid.UUID(image_id) if image_id is not None else None
    except ValueError as error:
        raise UsageError(f"--image-id: {image_id!r} is no UUID") from error
    rate = parse_size(rate_limit, "--rate-limit") if rate_limit is not None else None
    if rate == 0:
        raise UsageError("--rate-limit 0 would never end")
    return CaptureOptions(
        level=_parse_level(level),
        threads=threads,
        chunk_size=size,
        rescue=rescue,
        rate_limit_bytes_per_second=rate,
        comment=storable(comment),
        image_id=given_id,
        resume=resume,
    )


def _recorded(value: list[str] | bool) -> str:
    return ",".join(value) if isinstance(value, list) else "yes"


def _parse_level(text: str) -> int | Literal["fast"]:
    if text == "fast":
        return "fast"
    if not text.isdecimal() or len(text) > 2 or not 1 <= int(text) <= 19:
        raise UsageError(f"--level {shortened(text)}: it is fast, or a number from 1 to 19")
    return int(text)


def _is_folder(image: str) -> bool:
    with suppress(OSError):  # such as a name that is too long: what is wrong with it is said when it is made
        return image != "-" and (image.endswith("/") or Path(image).is_dir())
    return False


def _is_no_folder(place: str) -> bool:
    with suppress(OSError):
        return Path(place).exists() and not Path(place).is_dir()
    return False


def _names_in_folder(folder: Path, opened: Sequence[Opened]) -> list[str]:
    """One image name a disk, from model and serial; the folder is made when it is missing."""
    from imager.stores.base import store_error

    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise store_error(error, str(folder), "cannot make the folder") from error
    names: list[str] = []
    for each in opened:
        identity = each.survey.layout.identity
        words = f"{identity.model}_{identity.serial or identity.wwn}".strip("_") or Path(each.path).name
        stem = re.sub(r"[^A-Za-z0-9.+-]+", "_", words).strip("_.") or "disk"
        same = sum(1 for name in names if Path(name).name.split(".img")[0].rsplit("~", 1)[0] == stem)
        names.append(str(folder / f"{stem}{f'~{same + 1}' if same else ''}.img.zst"))
    return names


def _members(opened: Sequence[Opened], names: Sequence[str]) -> tuple[SetMember, ...]:
    """The disks that are captured together."""
    from imager.image.description import SetMember

    return tuple(
        SetMember(storable(Path(name).name), each.survey.layout.identity, each.reader.size)
        for each, name in zip(opened, names, strict=True)
    )


def _capture_one(
    each: Opened, name: str, options: CaptureOptions, console: Console, *, overwrite: bool, split_size: int | None
) -> CaptureResult | CompleteImage:
    from imager.capture.complete import complete_image, is_complete
    from imager.capture.job import capture
    from imager.cli.sources import refuse_replacing
    from imager.stores import open_output

    refuse_replacing(name, [each.path])
    for text in each.survey.layout.all_warnings():
        console.warn(f"{each.path}: {text}")
    if options.resume and is_complete(name):
        return complete_image(each.reader, each.survey, name, options)
    output = open_output(name, overwrite=overwrite, resume=options.resume, split_size=split_size)
    return capture(each.reader, each.survey, output, options, console.progress())


def _facts(each: Opened, name: str, result: CaptureResult | CompleteImage) -> dict[str, Any]:
    return {"source": each.path, "image": name, **result.as_dict()}


def _lines(
    opened: Sequence[Opened], names: Sequence[str], results: Sequence[CaptureResult | CompleteImage]
) -> Iterator[str]:
    for each, name, result in zip(opened, names, results, strict=True):
        yield _done_line(each, name, result)
        for part in result.damage:
            yield f"  DAMAGED: {part.sentence()}"


def _done_line(each: Opened, name: str, result: CaptureResult | CompleteImage) -> str:
    from imager.capture.complete import CompleteImage
    from imager.pictures.sizes import duration_text, size_text

    if isinstance(result, CompleteImage):
        return (
            f"{each.path} -> {name}: is complete already, captured {result.description.created}: nothing to do "
            "(imager verify reads all of it, with --against the disk too)"
        )
    rate = size_text(round(result.bytes_read / max(result.seconds, 1e-9)))
    return (
        f"{each.path} -> {name}: {size_text(result.bytes_read)} of {size_text(each.reader.size)} copied into "
        f"{size_text(result.bytes_written)} in {duration_text(result.seconds)} ({rate}/s)"
    )
