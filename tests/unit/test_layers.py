# SPDX-License-Identifier: GPL-3.0-or-later
"""The house: who may import whom, who may talk to the terminal, who may start programs.

Read from the source with `ast`, so that an import inside a function or under TYPE_CHECKING counts too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import imager

HOUSE = Path(imager.__file__).parent
PARSING = {"crc", "errors", "text", "process", "extents", "blocks", "layout"}
SURVEYING = {*PARSING, "filesystems", "volumes", "partitions", "devices"}

AFTERWARDS = {"opening", "growing", "booting", "identities"}

# Each part and what it may import beside itself; imports go down in this list, never up.
MAY_IMPORT = {
    "__init__": set(),
    "errors": set(),
    "progress": set(),
    "process": {"errors"},
    "closing": set(),
    "interrupts": set(),
    "crc": set(),
    "text": set(),
    "crew": {"errors"},
    "extents": {"errors"},
    "blocks": {"errors", "extents"},
    "layout": {"errors", "extents"},
    "filesystems": PARSING,
    "partitions": PARSING,
    "volumes": {*PARSING, "partitions"},
    "devices": {*PARSING, "closing"},
    "temporary": {"devices", "errors", "process"},
    "toml": {"text"},
    "virtual": {"errors", "process", "temporary"},
    "pictures": {"errors", "extents", "layout"},
    "damage": {"errors", "extents", "layout", "pictures"},
    "fitting": {"blocks", "errors", "extents", "layout", "partitions", "pictures", "text", "toml"},
    "examine": SURVEYING,
    "nesting": {*SURVEYING, "examine"},
    "survey": {*SURVEYING, "examine", "nesting", "progress"},
    "opening": {*SURVEYING, "survey", "temporary"},
    "booting": {*SURVEYING, "survey", "temporary", "opening", "pictures"},
    "identities": {*SURVEYING, "survey", "opening", "booting"},
    "growing": {*SURVEYING, "survey", "opening", "pictures", "progress"},
    "remaking": {
        *PARSING,
        "temporary",
        "filesystems",
        "devices",
        "opening",
        "fitting",
        "pictures",
        "progress",
        "__init__",
    },
    "stores": {"closing", "errors", "extents", "process", "progress"},
    "image": {*PARSING, "closing", "crew", "stores", "progress", "__init__"},
    "overlay": {*SURVEYING, "temporary", "opening", "image", "__init__"},
    "shrinking": {"errors", "process", "layout", "extents", "fitting", "opening", "overlay", "remaking", "progress"},
    "capture": {*SURVEYING, "survey", "crew", "damage", "stores", "image", "pictures", "progress", "__init__"},
    "restore": SURVEYING
    | AFTERWARDS
    | {
        "examine",
        "survey",
        "crew",
        "damage",
        "fitting",
        "stores",
        "image",
        "overlay",
        "remaking",
        "shrinking",
        "pictures",
        "progress",
        "temporary",
    },
    "cloning": {*SURVEYING, "survey", "image", "capture", "restore", "progress"},
    "reports": {"errors", "extents", "text", "layout", "pictures", "damage", "image", "progress", "restore"},
}
STARTS_PROGRAMS = {"subprocess", "pty", "popen2"}
STARTING_CALLS = {"system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp"}


def modules() -> list[Path]:
    return sorted(HOUSE.rglob("*.py"))


def part_of(module: Path) -> str:
    return module.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported(module: Path) -> Iterator[str]:
    """Dotted names that a module imports; `from a import b` gives a.b, because b may be a module."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}:{node.lineno}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def imported_parts(module: Path) -> set[str]:
    """The parts of imager that a module imports; imager itself, as in `from imager import __version__`, is __init__."""
    parts = set()
    for name in imported(module):
        first, *rest = name.split(".")
        if first == "imager":
            known = rest and ((HOUSE / rest[0]).is_dir() or (HOUSE / f"{rest[0]}.py").is_file())
            parts.add(rest[0] if known else "__init__")
    return parts


def test_every_part_has_its_place() -> None:
    assert {part_of(module) for module in modules()} == {*MAY_IMPORT, "cli", "__main__"}


def test_the_table_itself_goes_downward_only() -> None:
    order = list(MAY_IMPORT)
    for part, allowed in MAY_IMPORT.items():
        assert all(order.index(below) < order.index(part) for below in allowed), part


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_go_downward_only(part: str) -> None:
    wrong = {
        f"{module.relative_to(HOUSE)} imports {other}"
        for module in modules()
        if part_of(module) == part
        for other in imported_parts(module) - MAY_IMPORT[part] - {part}
    }
    assert not wrong


def test_only_the_command_line_knows_typer() -> None:
    knowing = {
        part_of(module)
        for module in modules()
        if any(name.split(".")[0] in {"typer", "click", "rich", "tqdm"} for name in imported(module))
    }
    assert knowing <= {"cli"}


def test_only_one_module_starts_programs() -> None:
    starting = {
        str(module.relative_to(HOUSE))
        for module in modules()
        if any(name.split(".")[0] in STARTS_PROGRAMS for name in imported(module)) or calls_to_start(module)
    }
    assert starting == {"process.py"}


def calls_to_start(module: Path) -> bool:
    """Whether a module calls os.fork and its like."""
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and (node.attr in STARTING_CALLS or node.attr.startswith(("exec", "spawn")))
        for node in ast.walk(ast.parse(module.read_text()))
    )


def test_only_the_command_line_prints() -> None:
    printing = {
        part_of(module)
        for module in modules()
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing <= {"cli"}


def test_the_library_never_imports_its_surroundings() -> None:
    strangers = {"tests", "bootmedia", "bench", "scripts"}
    assert not {
        str(module.relative_to(HOUSE))
        for module in modules()
        if any(name.split(".")[0] in strangers for name in imported(module))
    }
