# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation says what the program does: generated pages, options, exit statuses, links."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command

from imager import errors
from imager.cli.app import app
from imager.cli.problems import EXIT_STATUSES
from imager.filesystems.base import Parser
from imager.filesystems.named import NAMED
from imager.filesystems.registry import PARSERS
from imager.volumes.base import Manager
from imager.volumes.registry import DOCS, managers

TOP = Path(__file__).parents[2]
WRITTEN = [TOP / "README.md", TOP / "CONTRIBUTING.md", TOP / "CHANGELOG.md", *sorted((TOP / "docs").rglob("*.md"))]
COMMANDS = get_command(app).commands


def script(name: str) -> ModuleType:
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, TOP / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED = script("make_reference").pages()


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: page.name)
def test_generated_pages_are_the_programs(page: Path) -> None:
    assert page.is_file(), "run: make generated"
    assert page.read_text() == GENERATED[page], "run: make generated"


def test_no_page_of_a_command_that_is_gone() -> None:
    folder = TOP / "docs" / "reference" / "commands"
    assert set(folder.glob("*.md")) <= set(GENERATED)


def test_every_errors_exit_status_is_documented() -> None:
    kinds = [errors.ImagerError, *script("make_reference").error_kinds(errors.ImagerError)]
    assert {kind.exit_code for kind in kinds} <= {code for code, _ in EXIT_STATUSES} | {143}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_examples_and_statuses(name: str) -> None:
    command = COMMANDS[name]
    assert "--json" in {word for entry in command.params for word in entry.opts}
    assert "Examples:" in command.epilog
    assert "Exit status:" in command.epilog
    assert all(entry.help for entry in command.params)


def called(text: str) -> Iterator[list[str]]:
    """Every call of imager in code blocks and code spans, as words."""
    blocks = re.findall(r"^(?: {4}|\t)(.*(?:\\\n.*)*)$|`([^`\n]+)`", text, re.MULTILINE)
    for part in (first or second for first, second in blocks):
        for call in re.findall(r"(?:^|[\s(|`!])imager ([a-z]+ [^|;&>#`]*)", part.replace("\\\n", " ") + " "):
            yield shlex.split(call.replace("'", " ").replace('"', " "))


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(TOP)))
def test_commands_and_options_in_the_text_exist(page: Path) -> None:
    for name, *words in called(page.read_text()):
        assert name in COMMANDS, f"imager {name}"
        known = {option for entry in COMMANDS[name].params for option in (*entry.opts, *entry.secondary_opts)}
        unknown = {word.split("=")[0] for word in words if word.startswith("--")} - known - {"--help"}
        assert not unknown, f"imager {name} {' '.join(words)}"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.DOC.name)
def test_the_readme_names_every_file_system(parser: Parser) -> None:
    section = (TOP / "README.md").read_text().partition("by its used blocks\n")[2].partition("\n## ")[0]
    assert all(name in section for name in parser.DOC.name.split(", "))


@pytest.mark.parametrize("manager", managers(), ids=lambda manager: manager.TYPES[0])
def test_every_volume_manager_says_what_it_follows(manager: Manager) -> None:
    doc = next(doc for doc in DOCS if set(doc.types) == set(manager.TYPES))
    assert doc.followed
    assert doc.references
    assert all(condition and why for condition, why in doc.whole_when)


def test_the_support_table_has_a_row_for_everything_that_has_a_name() -> None:
    page = GENERATED[TOP / "docs" / "reference" / "file-systems.md"]
    rows = dict(re.findall(r"^\| [^|]+ \| (`[^|]+`) \| ([^|]+) \|$", page, re.MULTILINE))
    listed = {kind: copied for kinds, copied in rows.items() for kind in re.findall(r"`([^`]+)`", kinds)}
    parsed = {kind: parser.DOC.copied for parser in PARSERS for kind in parser.DOC.types}
    followed = {kind: "what lies in its volumes" for doc in DOCS for kind in doc.types}
    named = {kind: "every block" for each in NAMED for kind in each.types}
    assert listed == {**named, **followed, **parsed}
    assert listed["zfs_member"] == "every block"


def test_make_help_names_every_target() -> None:
    makefile = (TOP / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (\S+)", makefile, re.MULTILINE))
    assert targets == set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert {"setup", "demo", "test", "lint", "docs", "clean"} <= targets


def test_every_package_list_names_packages_in_one_form() -> None:
    for listed in (TOP / "scripts" / "packages").glob("*.txt"):
        lines = [line for line in listed.read_text().splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[a-z0-9.+-]+( \| [a-z0-9.+-]+)*( +[\w.+-]+)?", line) for line in lines), listed
