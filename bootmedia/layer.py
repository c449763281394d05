# SPDX-License-Identifier: GPL-3.0-or-later
"""The layer above the base: imager, the recipe's overlay, and the settings of one build.

It is small, so it is made anew at each build, in seconds. imager is taken from where this program runs, so that the
medium restores with the version that made it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import imager
from bootmedia.base import Base
from bootmedia.cache import Cache, key_of
from bootmedia.errors import PackagesUnavailable, RecipeError, ToolFailed
from bootmedia.programs import follow
from bootmedia.recipes import Recipe, UnitChange, apply_unit_changes
from bootmedia.tree import Tree
from imager.progress import Progress

PYTHON_PLACE = "usr/lib/bootmedia/python"
ON_THE_MEDIUM = ("recovery", "wizard")
"""Parts of this house that run on the medium; the others make it, and stay behind."""
_SSH_UNITS = {"ssh.service"}
_SSH_ENABLED = UnitChange("enable", "ssh.service", "multi-user.target")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_KEY_LINE = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?")


@dataclass(frozen=True)
class Settings:
    """What one build wants to be different."""

    title: str
    host_name: str = "recovery"
    keymap: str = ""
    ssh_keys: str = ""

    def __post_init__(self) -> None:
        if _HOST_NAME.fullmatch(self.host_name) is None:
            raise RecipeError(
                f"{self.host_name!r} is not a host name", hint="Letters, digits and hyphens, at most 63 of them."
            )


def ssh_keys(text: str, name: str) -> str:
    """The public keys in a file, one a line.

    Raises:
        RecipeError: A line is not a public key, or there is none.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    wrong = [line for line in lines if _KEY_LINE.fullmatch(line) is None]
    if wrong or not lines:
        raise RecipeError(
            f"{name} holds {'a line that is' if wrong else 'nothing, and so'} no public SSH key",
            hint="Give the file that ends in .pub; the private key stays where it is.",
        )
    return "".join(f"{line}\n" for line in lines)


def layer_tree(recipe: Recipe, base: Base, settings: Settings, packages: Path, modules: Path | None = None) -> Tree:
    """All files of the layer.

    Args:
        recipe: Has the overlay and the changes of units.
        base: What lies below.
        settings: Of this build.
        packages: The Python packages.
        modules: The folder of modules of a kernel that is not the base's; None for the base's.

    Raises:
        RecipeError: The keyboard layout is not in the base.
    """
    tree = Tree()
    tree.add_all(recipe.overlay)
    _add_python(tree, packages)
    _add_settings(tree, base, settings)
    if modules:
        _add_kernel_modules(tree, modules)
    changes = list(recipe.unit_changes)
    if settings.ssh_keys:
        changes = [change for change in changes if change.unit not in _SSH_UNITS] + [_SSH_ENABLED]
    apply_unit_changes(tree, changes)
    return tree


def _add_python(tree: Tree, packages: Path) -> None:
    """The Python packages that Debian has not, imager itself, and what restores by itself."""
    for path in sorted(packages.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.parent.name != "bin":
            tree.add_file(f"{PYTHON_PLACE}/{path.relative_to(packages)}", path.read_bytes())
    house = Path(imager.__file__).parent
    _add_modules(tree, house, sorted(house.rglob("*.py")))
    house = Path(__file__).parent
    parts = (path for part in ON_THE_MEDIUM for path in sorted((house / part).rglob("*")) if path.is_file())
    _add_modules(tree, house, [house / "__init__.py", *parts])


def _add_modules(tree: Tree, house: Path, paths: Iterable[Path]) -> None:
    for path in paths:
        if path.suffix not in {".pyc", ".pyo"}:
            tree.add_file(f"{PYTHON_PLACE}/{house.name}/{path.relative_to(house)}", path.read_bytes())


def _add_kernel_modules(tree: Tree, modules: Path) -> None:
    for path in sorted(modules.rglob("*")):
        if path.is_file() and not path.is_symlink():  # the links lead to where the kernel was built
            tree.add_file(f"usr/lib/modules/{modules.name}/{path.relative_to(modules)}", path.read_bytes())


def _add_settings(tree: Tree, base: Base, settings: Settings) -> None:
    tree.add_file("etc/hostname", f"{settings.host_name}\n".encode())
    tree.add_file("etc/hosts", f"127.0.0.1 localhost {settings.host_name}\n::1 localhost\n".encode())
    # An empty one gets a random id in memory; a missing one would mean a first start, with its questions.
    tree.add_file("etc/machine-id", b"")
    tree.add_file("etc/fstab", b"# Nothing of the machine is mounted by itself.\n")
    tree.add_file("etc/bootmedia/about", f"TITLE='{settings.title}'\n".encode())
    if settings.keymap:
        if settings.keymap not in base.keymaps:
            raise RecipeError(
                f"there is no keyboard layout {settings.keymap!r}",
                hint=f"There are: {', '.join(sorted(base.keymaps)) or 'none, the profile has no console-data'}.",
            )
        tree.add_file("etc/bootmedia/keymap", f"{settings.keymap}\n".encode())
    if settings.ssh_keys:
        tree.add_folder("root", mode=0o700)
        tree.add_folder("root/.ssh", mode=0o700)
        tree.add_file("root/.ssh/authorized_keys", settings.ssh_keys.encode(), mode=0o600)


def find_or_make_packages(cache: Cache, recipe: Recipe, base: Base, progress: Progress) -> Path:
    """The folder of Python packages for the base's Python: from the cache, or fetched with pip.

    Raises:
        PackagesUnavailable: They could not be fetched, or their digests are wrong.
    """

    def make(folder: Path) -> None:
        progress.start(None, "Python packages")
        try:
            follow(pip_command(recipe, base.python_version, folder), lambda line: None)
        except ToolFailed as error:
            raise PackagesUnavailable(
                f"Python packages could not be fetched: {' | '.join(error.lines[-3:])}",
                hint=f"Look at the network and at {recipe.folder / 'python.txt'}.",
            ) from error
        finally:
            progress.done()

    key = key_of("1", recipe.text("python.txt"), base.python_version)
    return cache.find_or_make("python", key, make, needed_bytes=100 << 20)


def pip_command(recipe: Recipe, python_version: str, folder: Path) -> list[str]:
    """The words of the call that fetches and unpacks the packages for another Python than ours."""
    return [
        *(sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "--quiet", "install"),
        *("--target", str(folder), "--no-deps", "--no-compile", "--require-hashes"),
        *("--python-version", python_version, "--implementation", "cp"),
        # Debian 13 has glibc 2.41.
        *(word for number in (17, 28, 34) for word in ("--platform", f"manylinux_2_{number}_x86_64")),
        *("--only-binary", ":all:", "--no-binary", "blkinfo"),
        *("-r", str(recipe.folder / "python.txt")),
    ]
