# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that several commands share, so that their help is written once, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from imager.cli.problems import EXIT_STATUSES
from imager.errors import UsageError
from imager.pictures.sizes import size_of


def file_name(value: str | None) -> str | None:
    """Refuse an empty name, which stands for the current folder where the system is asked: a variable was not set."""
    if value is not None and not value:
        raise typer.BadParameter("the name is empty")
    return value


def disk_name(value: str | None) -> str | None:
    """The same for a disk, which can be no stream either."""
    if value == "-":
        raise typer.BadParameter("a disk is a device or a file, never a stream; a file of this name is ./-")
    return file_name(value)


def disk_names(values: list[str]) -> list[str]:
    """The same for several disks."""
    for value in values:
        disk_name(value)
    return values


PROGRESS_KINDS = ("lines", "bar", "none")


def _progress_kind(value: str | None) -> str | None:
    if value is not None and value not in PROGRESS_KINDS:
        raise typer.BadParameter(f"{shortened(value)!r} is none of {', '.join(PROGRESS_KINDS)}")
    return value


JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, for scripts.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No messages and no progress.")]
ProgressOption = Annotated[
    str | None,
    typer.Option(
        "--progress",
        metavar="lines|bar|none",
        help="Show progress as a bar (by itself on a terminal), or as lines of JSON; also with --quiet.",
        callback=_progress_kind,
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="On an error, show where in the program it arose.")]
ImageArgument = Annotated[
    str, typer.Argument(metavar="IMAGE", help="An image, or - for standard input.", callback=file_name)
]
SectorSizeOption = Annotated[
    int | None,
    typer.Option(
        "--sector-size", metavar="BYTES", help="Sector size of a disk in a file, 512 or 4096 (else found out)."
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=256, metavar="N", help="Worker threads; by default one a core."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask: the plan is agreed to.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")]
ReportOption = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="FOLDER",
        help="Keep a log and a report there: NAME.log, .html, .txt and .json, also of a failure or a dry run.",
        callback=file_name,
    ),
]
AcceptDamageOption = Annotated[
    bool,
    typer.Option("--accept-damage", help="Restore an image with missing or unreadable ranges as far as it goes."),
]
PartitionsOption = Annotated[
    list[str] | None,
    typer.Option("--partition", metavar="N", help="Copy only these partitions: a number, or several with commas."),
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="N", help="Leave these partitions out: a number, or several with commas."),
]
UnlockOption = Annotated[
    list[str] | None,
    typer.Option(
        "--unlock",
        metavar="N[:KEYFILE]",
        help="Look into this encrypted partition (or: disk), to copy only its used blocks, as ciphertext.",
    ),
]
UnlockRestoredOption = Annotated[
    list[str] | None,
    typer.Option(
        "--unlock",
        metavar="N[:KEYFILE]",
        help="Open this encrypted partition (or: disk) when all is written, to grow or repair what is in it.",
    ),
]
VerifyOption = Annotated[bool, typer.Option("--verify", help="Read everything back past the cache and compare.")]
RescueOption = Annotated[
    bool, typer.Option("--rescue", help="Go on past unreadable sectors of the source; the result says which they are.")
]
AllBlocksOption = Annotated[bool, typer.Option("--all-blocks", help="Copy every block, used or not.")]
SkipFilesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--skip-file-content",
        metavar="NAME",
        help="Leave out the content of these files in root directories, such as pagefile.sys,swapfile.",
    ),
]
GrowOption = Annotated[
    str | None,
    typer.Option(
        "--grow",
        metavar="last|proportional|N",
        help="Give the room of a larger disk to the last partition that can grow, to all in proportion, or to N.",
    ),
]
FitOption = Annotated[
    bool,
    typer.Option("--fit", help="On a smaller disk, move partitions together, and make file systems smaller if needed."),
]
ScratchOption = Annotated[
    str | None,
    typer.Option(
        "--scratch",
        metavar="FOLDER",
        help="Where changes are kept while file systems are made smaller, by default where temporary files lie; "
        'or "target": at once on the target, which is lost if it fails.',
    ),
]
GapsOption = Annotated[bool, typer.Option("--gaps", help="Copy all of the space between partitions.")]

_LONGEST_NUMBER = 40
"""More digits than any size has; Python refuses to read thousands of them."""
_LONGEST_NAME = 255
_MOST_NAMES = 64


def shortened(text: str) -> str:
    """A word of the command line for a message."""
    return text if len(text) <= _LONGEST_NUMBER else f"{text[:_LONGEST_NUMBER]}..."


def parse_size(text: str, what: str) -> int:
    """A size such as 1MiB, 4G or 650M in bytes; units are powers of 1024.

    Raises:
        UsageError: It is no size.
    """
    try:
        return size_of(text)
    except ValueError:
        raise UsageError(
            f"{what}: {shortened(text)!r} is not a size", hint="Write it like 512KiB, 1MiB or 4GiB."
        ) from None


def parse_numbers(texts: Sequence[str] | None, option: str) -> frozenset[int]:
    """Partition numbers, given as numbers with commas between them.

    Raises:
        UsageError: One of them is no number.
    """
    words = [word.strip() for text in texts or () for word in text.split(",")]
    for word in words:
        if not word.isdecimal() or len(word) > _LONGEST_NUMBER:
            raise UsageError(f"{option}: {shortened(word)!r} is not a partition number")
    return frozenset(map(int, words))


def parse_file_names(texts: Sequence[str] | None) -> tuple[str, ...]:
    """Names of files in a root directory, given with commas between them, each once.

    Raises:
        UsageError: One of them is no name, or there are too many.
    """
    option = "--skip-file-content"
    words = [word.strip() for text in texts or () for word in text.split(",")]
    for word in words:
        if not 0 < len(word.encode("utf-8", "surrogateescape")) <= _LONGEST_NAME or word in (".", ".."):
            raise UsageError(f"{option}: {shortened(word)!r} is not the name of a file")
        if "/" in word or "\\" in word:
            raise UsageError(
                f"{option}: {shortened(word)!r} is a path",
                hint="Name a file in the root directory of its file system, as swapfile for /swapfile.",
            )
        if not word.isprintable():  # and not what is no UTF-8, which an image could not record
            raise UsageError(f"{option}: {shortened(word)!r} has characters that cannot be shown")
    if len(set(words)) > _MOST_NAMES:
        raise UsageError(f"{option}: {len(set(words))} names are more than the {_MOST_NAMES} that are looked for")
    return tuple(dict.fromkeys(words))


def summary(command: Callable[..., object]) -> str:
    """What a command does, for the list of all commands: its first line, which Typer would cut off at some word."""
    return (command.__doc__ or "").strip().partition("\n")[0]


def examples(*lines: tuple[str, str]) -> str:
    """Command lines with comments, for the end of a help."""
    shown = "\n".join(f"  # {comment}\n  {line}" for line, comment in lines)
    return f"\b\nExamples:\n{shown}"


def epilog(*lines: tuple[str, str], statuses: Sequence[int]) -> str:
    """The end of a command's help: examples with comments, and the exit statuses that it uses."""
    meanings = dict(EXIT_STATUSES)
    listed = "\n".join(f"  {code:<4} {meanings[code]}" for code in (0, *statuses))
    return f"{examples(*lines)}\n\n\b\nExit status:\n{listed}"
