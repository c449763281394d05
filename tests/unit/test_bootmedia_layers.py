# SPDX-License-Identifier: GPL-3.0-or-later
"""The house of bootmedia: what it takes from imager, and who of its own parts may import whom."""

from __future__ import annotations

from pathlib import Path

import pytest

import bootmedia
from bootmedia import layer
from tests.unit.test_layers import STARTS_PROGRAMS, calls_to_start, imported

HOUSE = Path(bootmedia.__file__).parent
# What every part may take from imager, and what the command line may beside it.
OF_IMAGER = {"errors", "interrupts", "process", "progress", "temporary", "__version__"}
OF_IMAGERS_COMMAND_LINE = {"cli.options", "cli.output", "cli.problems", "cli.running"}
# What runs on the medium: it works with all of imager, and knows nothing of how the medium was made.
ON_THE_MEDIUM = {"recovery": set(), "wizard": {"recovery"}}
# What writes sticks: it works with all of imager, too, and the command line shows what it says.
ON_DISKS = {"stick"}
# Each part and what it may import beside itself; imports go down in this list, never up.
MAY_IMPORT = {
    "__init__": set(),
    "errors": set(),
    "tree": set(),
    "cache": set(),
    "sources": {"errors"},
    "programs": {"errors"},
    "recipes": {"errors", "tree"},
    "menu": {"errors", "recipes"},
    "squashfs": {"programs"},
    "base": {"cache", "errors", "programs", "recipes", "squashfs"},
    "bytecode": {"base", "programs", "tree"},
    "network": {"errors"},
    "kernels": {"base", "errors"},
    "initrd": {"errors", "tree"},
    "layer": {"base", "cache", "errors", "programs", "recipes", "tree"},
    "iso": {"base", "menu", "programs"},
    "build": {
        *("base", "bytecode", "cache", "errors", "initrd", "iso", "kernels", "layer", "menu", "programs", "recipes"),
        *("sources", "squashfs", "tree"),
    },
    "served": set(),
    "opened": {"errors", "programs"},
    "netboot": {"errors", "initrd", "menu", "opened", "programs", "recipes", "served"},
    "stick": set(),
    "machine": {"errors"},
    "guest": {"errors", "machine"},
    "trial": {"errors", "guest", "machine", "programs"},
}


def modules() -> list[Path]:
    return sorted(HOUSE.rglob("*.py"))


def part_of(module: Path) -> str:
    return module.relative_to(HOUSE).parts[0].removesuffix(".py")


def names(module: Path, house: str) -> set[str]:
    """What a module imports of a house, without the house's name."""
    return {name.partition(".")[2] for name in imported(module) if name.split(".")[0] == house}


def test_every_part_has_its_place() -> None:
    assert {part_of(module) for module in modules()} - set(ON_THE_MEDIUM) == {*MAY_IMPORT, "cli", "__main__"}


def test_the_medium_gets_what_runs_on_it() -> None:
    assert set(layer.ON_THE_MEDIUM) == set(ON_THE_MEDIUM)


def test_the_table_itself_goes_downward_only() -> None:
    order = list(MAY_IMPORT)
    for part, allowed in MAY_IMPORT.items():
        assert all(order.index(below) < order.index(part) for below in allowed), part


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module.relative_to(HOUSE)))
def test_imports_go_downward_only(module: Path) -> None:
    part = part_of(module)
    if part not in {"cli", "__main__"}:
        allowed = ON_THE_MEDIUM[part] if part in ON_THE_MEDIUM else MAY_IMPORT[part]
        assert {name.split(".")[0] for name in names(module, "bootmedia")} <= allowed | {part}


@pytest.mark.parametrize("module", modules(), ids=lambda module: str(module.relative_to(HOUSE)))
def test_only_the_foundations_of_imager_are_used(module: Path) -> None:
    if part_of(module) in {*ON_THE_MEDIUM, *ON_DISKS} or module == HOUSE / "cli" / "write.py":
        return
    shared = OF_IMAGER | (OF_IMAGERS_COMMAND_LINE if part_of(module) == "cli" else set())
    for name in names(module, "imager") - {""}:
        assert any(name == known or name.startswith(f"{known}.") for known in shared), name


def test_only_the_command_line_knows_typer() -> None:
    knowing = {each for each in modules() if {"typer", "click", "tqdm"} & {n.split(".")[0] for n in imported(each)}}
    assert {part_of(each) for each in knowing if each.name != "cli.py"} == {"cli"}


def test_only_the_screens_know_textual() -> None:
    knowing = {each for each in modules() if {"textual", "rich"} & {n.split(".")[0] for n in imported(each)}}
    assert {str(each.parent.relative_to(HOUSE)) for each in knowing if each.name != "app.py"} == {"wizard/screens"}
    assert {str(each.relative_to(HOUSE)) for each in knowing if each.name == "app.py"} == {"wizard/app.py"}


def test_programs_are_started_by_imagers_one_module() -> None:
    assert not [
        module
        for module in modules()
        if any(name.split(".")[0] in STARTS_PROGRAMS for name in imported(module)) or calls_to_start(module)
    ]


def test_nothing_prints_but_through_the_console() -> None:
    assert not [module for module in modules() if "print(" in module.read_text() and part_of(module) != "cli"]
