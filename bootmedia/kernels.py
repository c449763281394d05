# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel of a medium: Debian's, out of the base, or one that is given with its modules, for odd hardware.

Reference: Linux, Documentation/arch/x86/boot.rst (the setup header of a bzImage).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bootmedia.base import Base
from bootmedia.errors import RecipeError

_HEADER_MAGIC = (0x202, b"HdrS")
_VERSION_POINTER = 0x20E
_VERSION_POINTER_BASE = 0x200
_SETUP_BYTES = 64 << 10
_TABLES = ("modules.dep", "modules.alias", "modules.symbols", "modules.softdep", "modules.builtin")
DEBIANS = "linux-image-amd64"
"""The package that a recipe has, in whose place another comes."""


@dataclass(frozen=True)
class Kernel:
    """A kernel and the folder of its modules, lib/modules/VERSION."""

    image: Path
    modules: Path

    @property
    def version(self) -> str:
        """What it calls itself."""
        return self.modules.name


def kernel_of(base: Base) -> Kernel:
    """The kernel that came with the base's packages."""
    return Kernel(base.part("boot/vmlinuz-*"), base.modules)


def given_kernel(image: Path, modules: Path) -> Kernel:
    """A kernel from files.

    Raises:
        RecipeError: They are not what they should be, or do not belong together.
    """
    folder = modules.resolve()
    missing = [name for name in _TABLES if not (folder / name).is_file()]
    if missing:
        raise RecipeError(
            f"--modules: {folder} has no {', '.join(missing)}",
            hint=f"Give the folder lib/modules/VERSION of this kernel; depmod makes the tables: depmod {folder.name}.",
        )
    version = _version(image)
    if version != folder.name:
        raise RecipeError(
            f"--kernel: {image} is {version}, and the modules in {folder} are for {folder.name}",
            hint="A kernel loads the modules of its own version only, from a folder of that name.",
        )
    return Kernel(image, folder)


def _version(image: Path) -> str:
    """What a kernel calls itself."""
    try:
        with image.open("rb") as file:
            setup = file.read(_SETUP_BYTES)
    except OSError as error:
        raise RecipeError(f"--kernel: {image} cannot be read: {error.strerror}") from error
    place, magic = _HEADER_MAGIC
    if setup[place : place + len(magic)] != magic:
        raise RecipeError(f"--kernel: {image} is no Linux kernel for x86 (a bzImage)", hint="As /boot/vmlinuz-VERSION.")
    start = int.from_bytes(setup[_VERSION_POINTER : _VERSION_POINTER + 2], "little") + _VERSION_POINTER_BASE
    text = re.match(rb"[\x21-\x7e]{1,64}", setup[start:])
    return text[0].decode("ascii") if text else "of no version that it tells"
