# SPDX-License-Identifier: GPL-3.0-or-later
"""The boot menu's text: the recipe's templates with this medium's words in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bootmedia.errors import RecipeError
from bootmedia.recipes import Recipe


@dataclass(frozen=True)
class Menu:
    """The two files that GRUB reads."""

    grub: str
    """On the medium: the menu itself."""
    efi: str
    """On the file system that UEFI starts from: where the menu is."""


def make_menu(recipe: Recipe, *, medium_id: str, title: str, timeout_seconds: int) -> Menu:
    """Fill in the templates.

    Raises:
        RecipeError: A template has a word between @ that is not known.
    """
    known = {
        "ID": medium_id,
        "TITLE": title.replace('"', "'"),
        "TIMEOUT_SECONDS": str(timeout_seconds),
        "OPTIONS": kernel_options(recipe.kernel_options, medium_id=medium_id),
    }
    return Menu(
        grub=filled(without_comments(recipe.text("boot/grub.cfg")), known, "boot/grub.cfg"),
        efi=filled(without_comments(recipe.text("boot/efi.cfg")), known, "boot/efi.cfg"),
    )


def kernel_options(words: Sequence[str], *, medium_id: str) -> str:
    """The kernel's command line."""
    return filled(" ".join(words), {"ID": medium_id}, "boot/options.txt")


def filled(template: str, known: Mapping[str, str], name: str) -> str:
    """The template with the words for what stands between @ in it.

    Raises:
        RecipeError: A word is not known.
    """

    def word_for(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise RecipeError(f"{name}: @{match[1]}@ is not known", hint=f"Known are: {', '.join(sorted(known))}.")
        return known[match[1]]

    return re.sub(r"@([A-Z_]+)@", word_for, template)


def without_comments(template: str) -> str:
    """A template for a file that only a program reads."""
    return "".join(line for line in template.splitlines(keepends=True) if not line.lstrip().startswith("#"))
