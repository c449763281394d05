# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes a finished medium apart again: its kernel, its layers, and single files out of these.

Nothing is mounted, so no root is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bootmedia.errors import MediumUnusable, ToolFailed
from bootmedia.programs import follow
from imager.errors import StoreError

_LAYER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.squashfs")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*")
_FIRST_ENTRY = re.compile(r"^\s*linux /live/vmlinuz (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Opened:
    """A medium's files, outside of it."""

    kernel: Path
    layers: tuple[Path, ...]
    """From the lowest to the highest."""
    title: str
    kernel_version: str
    kernel_options: str
    """Of the first entry in its boot menu."""


def open_medium(medium: Path, folder: Path) -> Opened:
    """Take the parts of a medium out of its ISO file.

    Raises:
        MediumUnusable: It is no medium of `bootmedia build`.
        StoreError: There is no room for them.
    """
    wanted = {"/live": folder / "live", "/bootmedia": folder / "about", "/boot/grub/grub.cfg": folder / "grub.cfg"}
    try:
        extract = [word for name, place in wanted.items() for word in ("-extract", name, str(place))]
        follow(["xorriso", "-abort_on", "FAILURE", "-osirrox", "on", "-indev", f"stdio:{medium}", *extract])
        about = json.loads((folder / "about" / "about.json").read_text())
        options = _FIRST_ENTRY.search((folder / "grub.cfg").read_text())
        layers = tuple(sorted((folder / "live").glob("*.squashfs")))
    except (ToolFailed, OSError, ValueError) as error:
        _refuse_full_disk(error, folder)
        raise _no_medium(medium, str(error)) from error
    kernel = folder / "live" / "vmlinuz"
    for path in (kernel, *layers):
        if path.is_symlink() or not path.is_file():
            raise _no_medium(medium, f"live/{path.name} is no file")
    if (
        not isinstance(about, dict)
        or options is None
        or not layers
        or not all(_LAYER_NAME.fullmatch(path.name) for path in layers)
    ):
        raise _no_medium(medium, "its boot menu, its layers or its about.json are not of the expected form")
    version = str(about.get("kernel"))
    if not _VERSION.fullmatch(version):
        raise _no_medium(medium, f"its kernel calls itself {version!r}")
    return Opened(kernel, layers, str(about.get("title", "recovery")), version, options[1])


def _no_medium(medium: Path, why: str) -> MediumUnusable:
    return MediumUnusable(
        f"{medium} is not a medium that bootmedia build made: {why}", hint="Give the .iso file.", path=str(medium)
    )


def take_out(layers: Sequence[Path], patterns: Sequence[str], folder: Path) -> None:
    """Take files out of the layers; where several have one, the highest layer's."""
    for layer in layers:
        words = ["unsquashfs", "-force", "-quiet", "-no-progress", "-no-xattrs", "-d", str(folder), str(layer)]
        try:
            follow([*words, *patterns])
        except ToolFailed as error:
            _refuse_full_disk(error, folder)
            raise


def _refuse_full_disk(error: Exception, folder: Path) -> None:
    """Say that there is no room, where this is what a program complains about: the medium has nothing to do with it."""
    if isinstance(error, ToolFailed) and any("No space left on device" in line for line in error.lines):
        raise StoreError(
            f"{folder.parent.parent} has no room for what is taken out of the medium",
            hint="It needs three times the size of the medium's live/, for a short time.",
            path=str(folder.parent.parent),
        ) from error
