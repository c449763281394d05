# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the reference pages that the program itself knows best: commands, exit statuses, file systems, volumes.

The command pages become manual pages too, so they have a manual page's sections. Run with --check, nothing is
written, and the exit status says whether the pages in docs/reference are the program's.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from bootmedia.cli.app import app as bootmedia_app
from bootmedia.cli.options import EXIT_STATUSES as BOOTMEDIA_EXIT_STATUSES
from bootmedia.recovery.cli import EXIT_STATUSES as RECOVERY_EXIT_STATUSES
from bootmedia.recovery.cli import app as recovery_app
from imager import errors
from imager.cli.app import app
from imager.cli.problems import EXIT_STATUSES
from imager.filesystems.base import ParserDoc
from imager.filesystems.named import NAMED, Named
from imager.filesystems.registry import PARSERS
from imager.growing import table
from imager.volumes.base import ManagerDoc
from imager.volumes.registry import DOCS as MANAGER_DOCS

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
MADE = "<!-- Made by scripts/make_reference.py from the program; change it there. -->\n"


def pages() -> dict[Path, str]:
    """Every generated page, by its path."""
    root = get_command(app)
    made = {REFERENCE / "commands" / "imager.md": root_page(root)}
    for name, command in root.commands.items():
        made[REFERENCE / "commands" / f"imager-{name}.md"] = command_page("imager", name, command)
    bootmedia = get_command(bootmedia_app)
    made[REFERENCE / "commands" / "bootmedia.md"] = bootmedia_page(bootmedia)
    for name, command in bootmedia.commands.items():
        made[REFERENCE / "commands" / f"bootmedia-{name}.md"] = command_page("bootmedia", name, command)
    recovery = get_command(recovery_app)
    made[REFERENCE / "commands" / "recovery.md"] = recovery_page(recovery)
    for name, command in recovery.commands.items():
        made[REFERENCE / "commands" / f"recovery-{name}.md"] = command_page("recovery", name, command)
    made[REFERENCE / "exit-status.md"] = exit_status_page()
    made[REFERENCE / "file-systems.md"] = file_systems_page()
    made[REFERENCE / "growing.md"] = growing_page()
    return {path: MADE + "\n" + text.rstrip("\n") + "\n" for path, text in made.items()}


# --- Commands ---------------------------------------------------------------------------------------------------


def root_page(root: TyperGroup) -> str:
    """The page of `imager` itself: what its commands are, and what holds for all of them."""
    commands = "\n".join(
        f"[{name}](imager-{name}.md)\n: {first_sentence(command.help)}\n" for name, command in root.commands.items()
    )
    completion = "\n".join(option_entry(option) for option in root.params)
    return f"""# imager

## Synopsis

    imager COMMAND [OPTIONS] ...

## Description

{root.help}

SOURCE and TARGET are block devices (`/dev/sda`) or raw image files, with a partition table or with a file system
directly on the disk. An IMAGE is a file that `imager capture` made, or `-` for a stream. Results go to standard output;
messages, questions and progress go to standard error. Progress is shown only on a terminal.

## Commands

{commands}
## Options

{completion}
## Exit status

{status_table()}
## Environment

`SOURCE_DATE_EPOCH`
: The time that a new image carries, in seconds since 1970, for images that are the same byte by byte.

`NO_COLOR`
: When set, no colours.
"""


def bootmedia_page(root: TyperGroup) -> str:
    """The page of `bootmedia` itself."""
    commands = "\n".join(
        f"[{name}](bootmedia-{name}.md)\n: {first_sentence(command.help)}\n" for name, command in root.commands.items()
    )
    completion = "\n".join(option_entry(option) for option in root.params)
    return f"""# bootmedia

## Synopsis

    bootmedia COMMAND [OPTIONS] ...

## Description

{root.help}

What is on a medium is told by files in the folder `bootmedia/recipe`: package lists, a tree of files, the boot menu,
the kernel modules of the initrd. [](../../howto/make-a-recovery-stick.md) shows the way from there to a stick.

## Commands

{commands}
## Options

{completion}
## Exit status

{status_table(BOOTMEDIA_EXIT_STATUSES)}
## Environment

`SOURCE_DATE_EPOCH`
: The time that all files of a new medium carry, in seconds since 1970, for media that are the same byte by byte.

`XDG_CACHE_HOME`
: Where what is kept for the next build lies, below `imager/bootmedia`. Default: `~/.cache`.
"""


def recovery_page(root: TyperGroup) -> str:
    """The page of `recovery` itself."""
    commands = "\n".join(
        f"[{name}](recovery-{name}.md)\n: {first_sentence(command.help)}\n" for name, command in root.commands.items()
    )
    completion = "\n".join(option_entry(option) for option in root.params)
    return f"""# recovery

## Synopsis

    recovery COMMAND [OPTIONS] ...

## Description

{root.help}

[](../recovery-toml.md) says what that file holds and where it is looked for;
[](../../howto/unattended-recovery.md) shows how it is used.

## Commands

{commands}
## Options

{completion}
## Exit status

{status_table(RECOVERY_EXIT_STATUSES)}"""


def command_page(program: str, name: str, command: TyperCommand) -> str:
    """A command's page: synopsis, description, arguments, options, and the end of its help."""
    about = inspect.cleandoc(command.help)
    arguments = [entry for entry in command.params if entry.param_type_name == "argument"]
    options = [entry for entry in command.params if entry.param_type_name == "option" and not entry.hidden]
    words = " ".join(entry.metavar or entry.name.upper() for entry in arguments)
    parts = [f"# {program}-{name}\n", f"## Synopsis\n\n    {program} {name} [OPTIONS] {words}\n"]
    parts.append(f"## Description\n\n{about}\n")
    if arguments:
        parts.append("## Arguments\n\n" + "\n".join(map(argument_entry, arguments)))
    parts.append("## Options\n\n" + "\n".join(map(option_entry, options)))
    parts += epilog_sections(command.epilog or "")
    return "\n".join(parts)


def argument_entry(argument: TyperArgument) -> str:
    """An argument as an entry of a definition list."""
    return f"`{argument.metavar or argument.name.upper()}`\n: {escaped(argument.help or '')}\n"


def option_entry(option: TyperOption) -> str:
    """An option with its value and its default as an entry of a definition list."""
    value = "" if option.is_flag else f" {option.metavar or 'VALUE'}"
    names = ", ".join(f"`{name}{value}`" for name in (*option.opts, *option.secondary_opts))
    shown = option.default if not option.is_flag and option.default not in (None, "", ()) else None
    default = "" if shown is None else f" Default: `{shown}`."
    return f"{names}\n: {escaped(option.help or '')}{default}\n"


def epilog_sections(epilog: str) -> Iterator[str]:
    """The paragraphs of a help's end, each `Title:` and indented lines, as sections of literal lines."""
    for paragraph in epilog.replace("\b\n", "").split("\n\n"):
        title, _, lines = paragraph.strip("\n").partition("\n")
        if title.rstrip(":") == "Exit status":
            yield "## Exit status\n\n" + statuses_of(lines)
        elif lines:
            body = "\n".join(f"    {line.removeprefix('  ')}" for line in lines.split("\n"))
            yield f"## {title.rstrip(':')}\n\n{body}\n"


def statuses_of(lines: str) -> str:
    """Lines of `number  meaning` as a definition list."""
    pairs = (line.split(None, 1) for line in lines.split("\n"))
    return "\n".join(f"{number}\n: {escaped(meaning)}\n" for number, meaning in pairs)


def first_sentence(text: str) -> str:
    """The first paragraph of a help text, on one line."""
    return escaped(" ".join(inspect.cleandoc(text).split("\n\n")[0].split()))


def escaped(text: str) -> str:
    """Text without what Markdown would take for markup."""
    return text.replace("<", "\\<").replace("*", "\\*").replace("_", "\\_")


# --- Exit statuses ----------------------------------------------------------------------------------------------


def status_table(statuses: Sequence[tuple[int, str]] = EXIT_STATUSES) -> str:
    """Every exit status and what it means, as a definition list."""
    return "\n".join(f"{code}\n: {escaped(meaning)}\n" for code, meaning in statuses)


def exit_status_page() -> str:
    """Exit statuses, and the errors behind each."""
    rows = "\n".join(
        f"| {kind.exit_code} | `{kind.__name__}` | {first_sentence(kind.__doc__ or '')} |"
        for kind in sorted(error_kinds(errors.ImagerError), key=lambda kind: kind.exit_code)
        if kind.__module__ == errors.__name__
    )
    return f"""# Exit status

Every command ends with one of these. They are stable: scripts may rely on them.

{status_table()}
## Errors

With `--json`, an error is one JSON object on standard error: `error` is a name from this table, `message` says what,
where, found and expected, `hint` what to do next, `facts` holds the same facts as values, and `exit_status` is the
number.

| exit status | error | meaning |
|---|---|---|
{rows}
"""


def error_kinds(kind: type[errors.ImagerError]) -> Iterator[type[errors.ImagerError]]:
    """All classes below an error class, parents first."""
    for each in kind.__subclasses__():
        yield each
        yield from error_kinds(each)


# --- File systems -----------------------------------------------------------------------------------------------


def file_systems_page() -> str:
    """The support table: all in one list, then what parsers, managers and the table of names say of themselves."""
    sections = "\n".join(parser_section(parser.DOC) for parser in PARSERS)
    managers = "\n".join(manager_section(doc) for doc in MANAGER_DOCS)
    return f"""# File systems and volumes

What is found on a disk is copied in one of three ways. The conditions are below: if one is not met, that volume is
copied whole, every block of it, and the image says why. Nothing stops, and nothing is left out in silence.

| what | names that blkid gives it | an image holds |
|---|---|---|
{support_rows()}

Anything else, and anything with more than one owner, is copied whole as well. `imager survey` shows what was found
and why it is copied whole. What "used" means is told in [](../explanation/what-used-means.md); how tight the maps are,
in [](used-map-report.md).

## File systems by their used blocks

{sections}
## Volume managers that are followed

What lies in their volumes is looked at like a partition, at any depth, over all disks that are surveyed together. The
used blocks of what is found inside, and what the manager keeps for itself, are copied.

{managers}
## Named and copied whole

{named_table()}
"""


def support_rows() -> str:
    """A row for everything that is known by name."""
    parsers = [(parser.DOC.name, parser.DOC.types, parser.DOC.copied) for parser in PARSERS]
    managers = [(doc.name, doc.types, "what lies in its volumes") for doc in MANAGER_DOCS]
    named = [(each.name, each.types, "every block") for each in named_only()]
    return "\n".join(
        f"| {escaped(name)} | {code_list(types)} | {copied} |" for name, types, copied in parsers + managers + named
    )


def named_only() -> list[Named]:
    """Owners without a parser and without a manager."""
    followed = {kind for parser in PARSERS for kind in parser.DOC.types} | {
        kind for doc in MANAGER_DOCS for kind in doc.types
    }
    return [each for each in NAMED if not followed.issuperset(each.types)]


def growing_page() -> str:
    """What grows with its partition, and what stays as it is."""
    grown = "\n".join(
        f"| {escaped(each.name)} | {code_list(each.programs)} | {escaped(each.does)} | `{each.check}` |"
        for each in (table.LUKS, table.PHYSICAL_VOLUME, table.LOGICAL_VOLUME, *table.FILE_SYSTEMS, table.SWAP)
    )
    stays = "\n".join(f"| {escaped(each.name)} | {escaped(each.reason)} |" for each in table.STAYING)
    template = (Path(__file__).parent / "growing.md.in").read_text()
    return template.replace("@GROWN@", grown).replace("@STAYING@", stays)


def named_table() -> str:
    """Why each of them is copied whole."""
    rows = "\n".join(f"| {escaped(each.name)} | {escaped(each.why)} |" for each in named_only())
    return f"| what | why |\n|---|---|\n{rows}"


def code_list(names: tuple[str, ...]) -> str:
    """Names as code, in a row."""
    return ", ".join(f"`{name}`" for name in names)


def parser_section(doc: ParserDoc) -> str:
    """One parser: what it handles, when it gives up its map, and where the format is described."""
    return section(doc.name, doc.types, "Handled", doc.handled, doc.whole_when, doc.references)


def manager_section(doc: ManagerDoc) -> str:
    """One volume manager: what it puts together, what is copied whole, and where the format is described."""
    return section(doc.name, doc.types, "Followed", doc.followed, doc.whole_when, doc.references)


def section(
    name: str,
    types: tuple[str, ...],
    title: str,
    points: tuple[str, ...],
    whole_when: tuple[tuple[str, str], ...],
    references: tuple[str, ...],
) -> str:
    """What is known of one format."""
    short = all(len(text) < 24 for text in points)
    listed = escaped(", ".join(points)) if short else "\n".join(f"* {escaped(text)}" for text in points)
    whole = "\n".join(f"| {escaped(condition)} | {escaped(why)} |" for condition, why in whole_when)
    sources = "\n".join(f"* {text}" for text in references)
    return f"""### {name}

Names that blkid gives it: {code_list(types)}.

{title}:

{listed}

Copied whole when:

| condition | why |
|---|---|
{whole}

References:

{sources}
"""


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, say what is stale")
    check = parser.parse_args().check
    wanted = pages()
    there = set((REFERENCE / "commands").glob("*.md"))
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    stale += sorted(there - set(wanted))
    for path in stale:
        sys.stderr.write(f"{'stale' if check else 'written'}: {path.relative_to(REFERENCE.parent.parent)}\n")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path]) if path in wanted else path.unlink()
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
