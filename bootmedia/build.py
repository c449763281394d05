# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds a medium: base, layer, initrd, menu, and the ISO file that holds them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootmedia.base import Base, find_or_make_base
from bootmedia.bytecode import add_bytecode
from bootmedia.cache import Cache, key_of, require_room
from bootmedia.errors import RecipeError
from bootmedia.initrd import make_initrd, packed
from bootmedia.iso import Parts, make_iso
from bootmedia.kernels import Kernel, kernel_of
from bootmedia.layer import PYTHON_PLACE, Settings, find_or_make_packages, layer_tree
from bootmedia.menu import make_menu
from bootmedia.programs import require_programs
from bootmedia.recipes import Recipe
from bootmedia.sources import sources_text
from bootmedia.squashfs import Compression, make_squashfs
from bootmedia.tree import Tree
from imager import __version__
from imager.errors import StoreError, UsageError
from imager.progress import Progress

PROGRAMS = ("mmdebstrap", "mksquashfs", "unsquashfs", "xorriso", "mformat", "mmd", "mcopy")
_APT = Path("/etc/apt")
_TIMEOUT_SECONDS = 3
_ROOM_BESIDE_LAYERS = 64 << 20


@dataclass(frozen=True)
class Wishes:
    """What a build was asked for."""

    recipe: Recipe
    settings: Settings
    suite: str
    mirror: str | None
    compression: Compression
    included: tuple[Path, ...]
    firmware: bool = False
    """With packages of non-free firmware, so that their component is needed."""
    kernel: Kernel | None = None
    """A given one; None for that of the recipe's packages."""
    answers: Path | None = None
    """A recovery.toml, already read and found right, for the top of the medium."""
    overwrite: bool = False
    refresh: bool = False


@dataclass(frozen=True)
class Built:
    """A medium that was made."""

    path: Path
    medium_id: str
    kernel: str
    size_bytes: int
    contents: Mapping[str, int]
    """What its bytes are, by name: the largest first."""
    base_made: str
    seconds: float


def build(wishes: Wishes, output: Path, cache: Cache, progress: Progress) -> Built:
    """Make the ISO file; it has its name only when it is complete.

    Raises:
        ToolMissing: A program is not installed.
        PackagesUnavailable: Packages could not be fetched.
        StoreError: There is no room or no permission, or the output is there already.
    """
    started = time.monotonic()
    require_programs(*PROGRAMS)
    _check_output(output, overwrite=wishes.overwrite)
    images = included_files(wishes.included)
    base = find_or_make_base(
        cache,
        wishes.recipe,
        suite=wishes.suite,
        sources=sources_text(wishes.suite, mirror=wishes.mirror, files=apt_files(_APT), firmware=wishes.firmware),
        compression=wishes.compression,
        progress=progress,
        anew=wishes.refresh,
    )
    packages = find_or_make_packages(cache, wishes.recipe, base, progress)
    with cache.scratch() as scratch:
        parts = _make_parts(wishes, base, packages, images, scratch, progress)
        _require_room_for(parts, output)
        _write(parts, base, scratch, output, progress)
        contents = _contents(parts, output)
    return Built(
        path=output,
        medium_id=parts.medium_id,
        kernel=(wishes.kernel or kernel_of(base)).version,
        size_bytes=output.stat().st_size,
        contents=contents,
        base_made=base.about["made"],
        seconds=time.monotonic() - started,
    )


def _contents(parts: Parts, output: Path) -> dict[str, int]:
    files = {"kernel": [parts.kernel], "initrd": [parts.initrd], "images": [*parts.images.values()]}
    files |= {name.removesuffix(".squashfs"): [path] for name, path in parts.layers.items()}
    sizes = {name: sum(path.stat().st_size for path in paths) for name, paths in files.items()}
    sizes["boot loaders and menu"] = output.stat().st_size - sum(sizes.values())
    return {name: size for name, size in sorted(sizes.items(), key=lambda each: -each[1]) if size}


def creation_time() -> int:
    """The time that all files of a medium get: SOURCE_DATE_EPOCH, or now.

    Raises:
        UsageError: SOURCE_DATE_EPOCH is not a time.
    """
    told = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not told:
        return int(time.time())
    if not told.isdecimal() or int(told) >= 1 << 32:
        raise UsageError(f"SOURCE_DATE_EPOCH is {told!r}, not seconds since 1970")
    return int(told)


def apt_files(folder: Path) -> dict[str, str]:
    """The machine's apt sources, by file name; nothing on a machine without apt."""
    paths = [folder / "sources.list", *folder.glob("sources.list.d/*.list"), *folder.glob("sources.list.d/*.sources")]
    return {path.name: path.read_text(errors="replace") for path in sorted(paths) if path.is_file()}


def included_files(included: Sequence[Path]) -> dict[str, Path]:
    """Files to put on the medium, by their path below /images: a file itself, and all files of a folder.

    Raises:
        RecipeError: One is missing, or two would have the same path.
    """
    found: dict[str, Path] = {}
    for path in included:
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        if not files or not all(each.is_file() for each in files):
            raise RecipeError(f"--include: {path} is no file and no folder with files")
        for each in files:
            name = str(each.relative_to(path)) if path.is_dir() else each.name
            if name in found:
                raise RecipeError(f"--include: {each} and {found[name]} would both be images/{name}")
            found[name] = each.absolute()
    return found


def _check_output(output: Path, *, overwrite: bool) -> None:
    if output.exists() and not output.is_file():
        raise StoreError(f"{output} is not a file", hint="Give a file's name; a file is written to a stick afterwards.")
    if output.exists() and not overwrite:
        raise StoreError(f"{output} is there already", hint="Give another name, or --overwrite.", path=str(output))
    if not output.absolute().parent.is_dir():
        raise StoreError(
            f"there is no folder {output.absolute().parent}", hint="Make it, or name another one.", path=str(output)
        )


def _make_parts(
    wishes: Wishes, base: Base, packages: Path, images: Mapping[str, Path], scratch: Path, progress: Progress
) -> Parts:
    moment = creation_time()
    kernel = wishes.kernel or kernel_of(base)
    layer = scratch / "layer.squashfs"
    archive = scratch / "layer.tar"
    given_modules = wishes.kernel.modules if wishes.kernel else None
    tree = layer_tree(wishes.recipe, base, wishes.settings, packages, given_modules)
    add_bytecode(tree, PYTHON_PLACE, base, scratch)
    with archive.open("w+b") as content:
        tree.write_tar(content, time=moment)
        content.seek(0)
        make_squashfs(content, layer, wishes.compression, time=moment, progress=progress)
    initrd = scratch / "initrd"
    initrd.write_bytes(packed(_initrd(wishes.recipe, base, kernel), time=moment))
    menu_texts = "".join(wishes.recipe.text(f"boot/{name}") for name in ("grub.cfg", "efi.cfg"))
    medium_id = key_of(
        base.about["digest"],
        layer.read_bytes().hex(),
        initrd.read_bytes().hex(),
        menu_texts + " ".join(wishes.recipe.kernel_options),
        *sorted(images),
        *([wishes.answers.read_bytes().hex()] if wishes.answers else []),
    )
    return Parts(
        medium_id=medium_id,
        kernel=kernel.image,
        initrd=initrd,
        layers={"10-base.squashfs": base.squashfs, "20-imager.squashfs": layer},
        menu=make_menu(
            wishes.recipe, medium_id=medium_id, title=wishes.settings.title, timeout_seconds=_TIMEOUT_SECONDS
        ),
        about=about_text(wishes, base, kernel, medium_id),
        images=images,
        answers=wishes.answers,
        memory_tests=base.parts("boot/memtest86+x64.*"),
    )


def _initrd(recipe: Recipe, base: Base, kernel: Kernel) -> Tree:
    return make_initrd(
        recipe.text("initrd/init"), base.part("usr/bin/busybox"), kernel.modules, patterns=recipe.initrd_modules
    )


def about_text(wishes: Wishes, base: Base, kernel: Kernel, medium_id: str) -> str:
    """What the medium says of itself, for people and scripts that find it years later."""
    facts = {
        "id": medium_id,
        "title": wishes.settings.title,
        "imager": __version__,
        "suite": wishes.suite,
        "profile": wishes.recipe.profile,
        "kernel": kernel.version,
        "packages": dict(sorted(base.packages())),
    }
    return json.dumps(facts, indent=1) + "\n"


def _require_room_for(parts: Parts, output: Path) -> None:
    files = [parts.kernel, parts.initrd, *parts.layers.values(), *parts.images.values()]
    needed = sum(path.stat().st_size for path in files) + _ROOM_BESIDE_LAYERS
    require_room(output.absolute().parent, needed, f"for {output.name}")


def _write(parts: Parts, base: Base, scratch: Path, output: Path, progress: Progress) -> None:
    """Write under another name, and give the file its own when it is on stable storage."""
    partial = output.with_name(f"{output.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        make_iso(parts, base, scratch, partial, time=creation_time(), progress=progress)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(output)
    except OSError as error:
        raise StoreError(f"{output} cannot be written: {error.strerror}", path=str(output)) from error
    finally:
        partial.unlink(missing_ok=True)
