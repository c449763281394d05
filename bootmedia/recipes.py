# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the recipe: the files in recipe/ that say what is on a medium. Their form is told in each of them.

Knows the form of these files and nothing of how they are carried out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bootmedia.errors import RecipeError
from bootmedia.tree import Tree

RECIPE = Path(__file__).parent / "recipe"
# Debian policy 5.6.1, and what apt understands beside a name: an architecture, a version.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+~:-]+)?")
_UNIT = re.compile(r"[A-Za-z0-9@:._\\-]+\.[a-z]+")


@dataclass(frozen=True)
class UnitChange:
    """A systemd unit that is switched on for a target, or masked: it does not start whoever asks for it."""

    action: str
    unit: str
    target: str = ""


@dataclass(frozen=True)
class Recipe:
    """What is on a medium of one profile."""

    folder: Path
    profile: str
    packages: tuple[str, ...]
    left_out: tuple[str, ...]
    unit_changes: tuple[UnitChange, ...]
    initrd_modules: tuple[str, ...]
    kernel_options: tuple[str, ...]
    network_modules: tuple[str, ...] = ()

    @property
    def overlay(self) -> Path:
        """Files that are laid over the Debian packages' own."""
        return self.folder / "overlay"

    def with_packages(self, more: Sequence[str], *, instead_of: str = "") -> Recipe:
        """The same with further packages, in the place of one."""
        return replace(self, packages=tuple(sorted({*self.packages, *more} - {instead_of})))

    def with_kernel_options(self, more: Sequence[str]) -> Recipe:
        """The same with further words on the kernel's command line."""
        return replace(self, kernel_options=(*self.kernel_options, *more))

    def text(self, name: str) -> str:
        """The content of one of the recipe's files."""
        return (self.folder / name).read_text(encoding="utf-8")


def profiles(folder: Path = RECIPE) -> list[str]:
    """The names of all profiles."""
    return sorted(path.stem for path in (folder / "profiles").glob("*.txt"))


def read_recipe(profile: str, *, more_packages: Sequence[str] = (), folder: Path = RECIPE) -> Recipe:
    """Read the recipe of a profile.

    Raises:
        RecipeError: There is no such profile, or a line is not what its file is for.
    """
    if profile not in profiles(folder):
        raise RecipeError(
            f"there is no profile {profile!r}", hint=f"There are: {', '.join(profiles(folder))}.", profile=profile
        )
    return Recipe(
        folder,
        profile,
        packages=tuple(sorted({*_packages(folder / "profiles" / f"{profile}.txt"), *map(package, more_packages)})),
        left_out=tuple(entries(folder / "leave-out.txt")),
        unit_changes=tuple(_unit_changes(folder / "units.txt")),
        initrd_modules=tuple(entries(folder / "initrd" / "modules.txt")),
        network_modules=tuple(entries(folder / "initrd" / "network-modules.txt")),
        kernel_options=tuple(entries(folder / "boot" / "options.txt")),
    )


def firmware_packages(folder: Path = RECIPE) -> list[str]:
    """The packages of firmware that is not free."""
    return list(_packages(folder / "firmware.txt"))


def package(name: str) -> str:
    """The name, when it can be one.

    Raises:
        RecipeError: It cannot.
    """
    if _PACKAGE.fullmatch(name) is None:
        raise RecipeError(f"{name!r} is not the name of a Debian package")
    return name


def _packages(path: Path) -> Iterator[str]:
    for line in entries(path):
        yield package(line)


def _unit_changes(path: Path) -> Iterator[UnitChange]:
    for line in entries(path):
        words = line.split()
        wanted = {"enable": 3, "mask": 2}.get(words[0])
        if wanted != len(words) or not all(map(_UNIT.fullmatch, words[1:])):
            raise RecipeError(
                f"{path}: {line!r} is not a change of a unit",
                hint="Lines are: enable UNIT TARGET, mask UNIT.",
            )
        yield UnitChange(*words)


def entries(path: Path) -> Iterator[str]:
    """Lines of a list without its comments; a comment begins a line or follows two spaces."""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = re.sub(r"(^|\s\s+)#.*", "", line).strip()
        if text:
            yield text


def apply_unit_changes(tree: Tree, changes: Sequence[UnitChange]) -> None:
    """Make the links in /etc that systemd reads (systemd.unit(5))."""
    for change in changes:
        if change.action == "enable":
            place = f"etc/systemd/system/{change.target}.wants/{change.unit}"
            own = f"etc/systemd/system/{change.unit}" in tree
            tree.add_link(place, f"{'/etc' if own else '/usr/lib'}/systemd/system/{change.unit}")
        else:
            tree.add_link(f"etc/systemd/system/{change.unit}", "/dev/null")
