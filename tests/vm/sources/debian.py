# SPDX-License-Identifier: GPL-3.0-or-later
"""The installed Debian that is on every source machine: made once of the files beside this one, and kept.

It is kept beside the base of the medium, as a tar archive, under a digest of everything that it is made of.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from bootmedia.base import make_root
from bootmedia.build import apt_files
from bootmedia.cache import Cache, default_folder, key_of
from bootmedia.recipes import Recipe, entries
from bootmedia.sources import sources_text
from imager.progress import NullProgress, Progress
from tests.harness.programs import call

HERE = Path(__file__).parent
SUITE = "trixie"
_NEEDED_BYTES = 2 << 30


def installed_system(progress: Progress | None = None) -> Path:
    """The tar archive of the system; the first call takes a minute, and the network."""
    recipe = Recipe(
        folder=HERE,
        profile="installed",
        packages=tuple(entries(HERE / "packages.txt")),
        left_out=tuple(entries(HERE / "leave-out.txt")),
        unit_changes=(),
        initrd_modules=(),
        kernel_options=(),
    )
    sources = sources_text(SUITE, mirror=None, files=apt_files(Path("/etc/apt")))
    key = key_of(SUITE, sources, "\n".join(recipe.packages), "\n".join(recipe.left_out), recipe.text("customize.sh"))

    def make(folder: Path) -> None:
        make_root(recipe, folder / "root.tar", suite=SUITE, sources=sources, progress=progress or NullProgress())

    return Cache(default_folder()).find_or_make("installed", key, make, needed_bytes=_NEEDED_BYTES) / "root.tar"


def unpack(folder: Path, files: dict[str, str]) -> Path:
    """Lay the system into an empty folder, with a machine's own files."""
    # The kernel fills /dev, and in a user namespace nobody makes devices.
    words = ("--exclude=./dev/*", "--numeric-owner", "--xattrs", "--xattrs-include=*")
    call("tar", "-C", folder, *words, "-xpf", installed_system())
    for name, text in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    prove = Path(shutil.copy(HERE / "prove", folder / "usr/local/sbin/prove"))
    prove.chmod(0o755)
    return folder


def kernel_of(folder: Path) -> str:
    """The version of the kernel that an unpacked system has."""
    (modules,) = (folder / "usr/lib/modules").iterdir()
    return modules.name
