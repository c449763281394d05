# SPDX-License-Identifier: GPL-3.0-or-later
"""Translates Python files of the layer before the medium starts: nobody keeps there what a start has translated.

The bytecode must be that of the medium's Python, so its own interpreter makes it: taken out of the base and run by its
own loader, which needs no root and no folder that is a whole system.

Reference: PEP 552 (bytecode that names no time).
"""

from __future__ import annotations

from pathlib import Path

from bootmedia.base import Base
from bootmedia.programs import follow
from bootmedia.tree import Tree
from imager.errors import StoreError

_INTERPRETER = (
    "usr/bin/python3.*",
    "usr/lib/python3.*",
    "usr/lib/*/ld-linux*",
    "usr/lib/*/lib[cmz].so.*",
    "usr/lib/*/libexpat.so.*",
)


def add_bytecode(tree: Tree, place: str, base: Base, scratch: Path) -> None:
    """Put bytecode beside each Python file in one of the tree's folders.

    Raises:
        ToolFailed: A file is no Python, or the base's interpreter does not run.
    """
    sources, root = scratch / "python", scratch / "interpreter"
    for path, entry in tree:
        if path.startswith(f"{place}/") and path.endswith(".py"):
            copy = sources / path.removeprefix(f"{place}/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(entry.content)
    follow(["unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-d", str(root), str(base.squashfs), *_INTERPRETER])
    follow([*interpreter(root, base.python_version), *_words(sources, place)])
    for made in sorted(sources.rglob("*.pyc")):
        tree.add_file(f"{place}/{made.relative_to(sources)}", made.read_bytes())


def interpreter(root: Path, python_version: str) -> list[str]:
    """The words that run the Python in a root, with that root's loader and libraries and nothing of this machine's.

    Raises:
        StoreError: The root has no loader.
    """
    loader = next(root.glob("usr/lib/*/ld-linux*"), None)
    if loader is None:
        raise StoreError(f"the base has no program loader in {root}/usr/lib", hint="Build with --refresh.")
    return [
        # Sets are written in the order of their hashes: the same at each build.
        *("env", "-i", "PYTHONHASHSEED=0"),
        *(str(loader), "--library-path", str(loader.parent)),
        *(str(root / f"usr/bin/python{python_version}"), "-S"),
    ]


def _words(sources: Path, place: str) -> list[str]:
    return [
        *("-m", "compileall", "-q"),
        # Files of a squashfs do not change, so nobody needs to look whether the source is still the same.
        *("--invalidation-mode", "unchecked-hash"),
        # The paths in error messages.
        *("-s", str(sources), "-p", f"/{place}", str(sources)),
    ]
