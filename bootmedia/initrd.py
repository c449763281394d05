# SPDX-License-Identifier: GPL-3.0-or-later
"""The initrd: busybox, one script, and the kernel modules that a medium can be found or fetched with.

Debian's own initrd has 47 MB and takes most of a boot; this one has what is needed to find one file system.
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import lzma
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import zstandard

from bootmedia.errors import RecipeError
from bootmedia.tree import Tree

_LEVEL = 15


def make_initrd(init: str, busybox: Path, modules: Path, patterns: Sequence[str]) -> Tree:
    """What is in the initrd.

    Args:
        init: The first program's text.
        busybox: A busybox that needs no libraries.
        modules: The kernel's folder of modules, lib/modules/VERSION.
        patterns: Which of them it has; see recipe/initrd/modules.txt.

    Raises:
        RecipeError: A pattern finds no module.
    """
    tree = Tree()
    tree.add_file("init", init.encode(), mode=0o755)
    tree.add_file("bin/busybox", busybox.read_bytes(), mode=0o755)
    # The kernel opens it for the first program, before /dev is mounted there.
    tree.add_folder("dev")
    needs = read_dependencies((modules / "modules.dep").read_text())
    chosen = with_dependencies(choose(patterns, needs), needs)
    place = f"lib/modules/{modules.name}"
    for path in chosen:
        tree.add_file(f"{place}/{plain(path)}", _module(modules / path))
    for name, text in _tables(modules, chosen, needs):
        tree.add_file(f"{place}/{name}", text.encode())
    return tree


def packed(tree: Tree, *, time: int) -> bytes:
    """An initrd as the kernel takes it."""
    content = io.BytesIO()
    tree.write_cpio(content, time=time)
    return zstandard.ZstdCompressor(level=_LEVEL).compress(content.getvalue())


def plain(path: str) -> str:
    """A module's path without the ending of its compression."""
    return re.sub(r"\.(xz|zst|gz)$", "", path)


def read_dependencies(modules_dep: str) -> dict[str, list[str]]:
    """The modules that each module needs, by path, from a modules.dep (depmod(8))."""
    pairs = (line.partition(":") for line in modules_dep.splitlines())
    return {module: needed.split() for module, _, needed in pairs}


def choose(patterns: Sequence[str], known: Iterable[str]) -> set[str]:
    """The modules that patterns stand for; see recipe/initrd/modules.txt.

    Raises:
        RecipeError: A pattern finds none.
    """
    paths = list(known)
    chosen: set[str] = set()
    for pattern in patterns:
        below = f"kernel/{pattern.removeprefix('!')}"
        found = {path for path in paths if fnmatch.fnmatchcase(plain(path), below)}
        if pattern.startswith("!"):
            chosen -= found
        elif found:
            chosen |= found
        else:
            raise RecipeError(f"recipe/initrd: the kernel has no module {pattern}")
    return chosen


def with_dependencies(chosen: Iterable[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The modules and all that they need; modules.dep names what is needed indirectly, too."""
    return sorted({each for path in chosen for each in (path, *needs[path])})


def _module(path: Path) -> bytes:
    """A module as insmod takes it: busybox does not ask the kernel to uncompress."""
    content = path.read_bytes()
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    uncompress = {".xz": lzma.decompress, ".gz": gzip.decompress}.get(path.suffix, bytes)
    return uncompress(content)


def _tables(folder: Path, chosen: Sequence[str], needs: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """The tables that modprobe reads, with nothing but the modules that are there: it reads them at each call."""
    lines = (f"{plain(path)}: {' '.join(map(plain, needs[path]))}".rstrip() for path in chosen)
    yield "modules.dep", "".join(f"{line}\n" for line in lines)
    names = {Path(plain(path)).stem.replace("-", "_") for path in chosen}
    for table in ("modules.alias", "modules.symbols", "modules.softdep"):
        kept = (line for line in (folder / table).read_text().splitlines() if names_module(line, names))
        yield table, "".join(f"{line}\n" for line in kept)
    yield "modules.builtin", (folder / "modules.builtin").read_text()


def names_module(line: str, names: set[str]) -> bool:
    """Whether a line of a table is about one of these modules: "alias PATTERN MODULE", "softdep MODULE ..."."""
    words = line.split()
    if not words or words[0].startswith("#"):
        return False
    module = words[1] if words[0] == "softdep" else words[-1]
    return module.replace("-", "_") in names
