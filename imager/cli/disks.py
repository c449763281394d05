# SPDX-License-Identifier: GPL-3.0-or-later
"""imager disks: the disks of this machine, and what is on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imager.cli.options import DebugOption, JsonOption, QuietOption, epilog
from imager.cli.output import Console
from imager.cli.problems import reports_problems
from imager.errors import ImagerError

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from imager.devices.inventory import DiskInfo
    from imager.layout import Content, Layout

NAME = "disks"
EPILOG = epilog(
    ("imager disks", "every disk, with its partitions and where they are mounted"),
    ("imager disks --json | jq -r '.disks[].identity.serial'", "for a script"),
    statuses=(1, 2),
)


@reports_problems
def command(
    fast: Annotated[bool, typer.Option("--fast", help="Do not read the disks: no table, no content.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """List the disks of this machine: identity, size, partitions, content, where mounted, what hides data.

    What is on the disks can only be read by root; without it, identity and use are shown all the same.
    """
    from imager.devices.hidden import hidden_disks
    from imager.devices.inventory import list_disks

    console = Console(json=as_json, quiet=quiet)
    found = []
    for disk in list_disks():
        layout, problem = (None, "") if fast else _look_into(disk)
        found.append((disk, layout, problem))
    hidden = hidden_disks()
    facts = {"disks": [_facts(*each) for each in found], "hidden_disks": hidden}
    lines = [line for each in found for line in _lines(*each)] + [f"warning: {text}" for text in hidden]
    console.result(facts, lines or ["no disks were found"])


def _look_into(disk: DiskInfo) -> tuple[Layout | None, str]:
    """What is on the disk, or why that cannot be told."""
    from imager.devices.opening import open_source
    from imager.survey import Disk, survey

    try:
        with open_source(disk.path, exclusive_check=False, write_back=False) as reader:
            found = survey([Disk(reader, disk.path, disk.identity, disk.physical_sector_bytes)])
    except ImagerError as error:
        return None, error.message
    return found[0].layout, ""


def _facts(disk: DiskInfo, layout: Layout | None, problem: str) -> dict[str, Any]:
    return {
        "path": disk.path,
        "identity": disk.identity,
        "size_bytes": disk.size_bytes,
        "logical_sector_bytes": disk.logical_sector_bytes,
        "physical_sector_bytes": disk.physical_sector_bytes,
        "removable": disk.is_removable,
        "rotational": disk.is_rotational,
        "read_only": disk.is_read_only,
        "backing_file": disk.backing_file,
        "uses": [{"kind": use.kind, "who": use.who, "detail": use.detail} for use in disk.uses],
        "hidden_data_warnings": disk.warnings,
        "hidden_data_unknown": disk.unknowns,
        "layout": layout,
        "not_read_because": problem,
    }


def _lines(disk: DiskInfo, layout: Layout | None, problem: str) -> Iterator[str]:
    from imager.pictures.sizes import size_text

    identity = disk.identity
    sectors = f"{disk.logical_sector_bytes}/{disk.physical_sector_bytes}-byte sectors"
    marks = [word for word, is_so in (("removable", disk.is_removable), ("read-only", disk.is_read_only)) if is_so]
    about = [size_text(disk.size_bytes), identity.transport, sectors, *marks]
    yield f"{disk.path}  {', '.join(word for word in about if word)}"
    names = (("model", identity.model), ("serial", identity.serial), ("WWN", identity.wwn), ("file", disk.backing_file))
    for name, value in names:
        if value:
            yield f"  {name:<7} {value}"
    if layout is not None:
        yield from _content_lines(disk, layout)
    elif problem:
        yield f"  not read: {problem}"
    for use in disk.uses:
        if use.kind != "mounted" or layout is None:
            yield f"  in use: {use}"
    for text in disk.warnings:
        yield f"  warning: {text}"
    for text in disk.unknowns:
        yield f"  unknown: {text}"
    yield ""


def _content_lines(disk: DiskInfo, layout: Layout) -> Iterator[str]:
    nodes = {node.number: node.path for node in disk.partitions}
    yield f"  table   {layout.table.kind} {layout.table.id}".rstrip()
    if layout.content is not None:
        yield _content_line("disk", layout.content, layout.size_bytes, _mounts(disk, disk.path))
    for entry in layout.partitions:
        if entry.content is not None:
            mounts = _mounts(disk, nodes.get(entry.number, ""))
            yield _content_line(f"{entry.number:>4}", entry.content, entry.size_bytes, mounts)
    for text in layout.all_warnings():
        yield f"  warning: {text}"


def _content_line(name: str, content: Content, size_bytes: int, mounts: str) -> str:
    from imager.pictures.sizes import size_text

    used = "" if content.used_bytes is None else f"{size_text(content.used_bytes)} used"
    words = [f"{size_text(size_bytes):>9}", f"{used:>14}", content.label, content.uuid, mounts and f"on {mounts}"]
    return f"  {name}  {content.type:<14.14} {'  '.join(word for word in words if word)}".rstrip()


def _mounts(disk: DiskInfo, path: str) -> str:
    return ", ".join(use.detail for use in disk.uses if use.kind == "mounted" and use.who == path)
