# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the medium takes to start, beside a Debian with the same kernel and nothing but systemd and udev.

Both are started in QEMU by the same initrd from a CD, without a boot loader, in turns. Time runs from the kernel's
first line to what a person waits for: the wizard's first screen, and here a line that a unit after all others prints.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.measure import BenchError, remove
from bootmedia.base import Base, find_or_make_base
from bootmedia.build import Wishes, apt_files, build
from bootmedia.cache import Cache, default_folder
from bootmedia.errors import BootFailed
from bootmedia.guest import Guest, switched_on
from bootmedia.layer import Settings
from bootmedia.machine import DirectBoot, Firmware, Machine
from bootmedia.opened import Opened, open_medium
from bootmedia.programs import follow, require_programs
from bootmedia.recipes import Recipe, read_recipe
from bootmedia.sources import sources_text
from bootmedia.squashfs import COMPRESSIONS
from imager.errors import ImagerError
from imager.progress import NullProgress

OURS = "the medium, until the wizard's first screen"
EMPTY = "an otherwise empty systemd, until all has started"
_SUITE = "trixie"
_PACKAGES = ("busybox-static", "kmod", "linux-image-amd64", "systemd-sysv", "udev")
_PATIENCE_SECONDS = 900.0
_KERNEL = "Linux version"
_INITRD = (("initrd", "bootmedia: looking for the medium"), ("systemd", "bootmedia: starting the system"))
STAGES = {
    OURS: (*_INITRD, ("console", "bootmedia: ready"), ("end", "Capture this machine")),
    EMPTY: (*_INITRD, ("end", "bench: ready")),
}
"""What each says on the serial line when a stage begins."""


@dataclass
class Boots:
    """Seconds from the kernel's start to each stage, by system and stage, one for each round."""

    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def ratios(self) -> list[float]:
        """How many times as long the medium takes, for each round."""
        pairs = zip(self.seconds[OURS]["end"], self.seconds[EMPTY]["end"], strict=True)
        return [ours / empty for ours, empty in pairs]

    def ratio(self) -> float:
        """The ratio of the medians."""
        return statistics.median(self.seconds[OURS]["end"]) / statistics.median(self.seconds[EMPTY]["end"])


def boots(data: Path, rounds: int, note: Callable[[str], None]) -> Boots:
    """Make both and start them in turns.

    Raises:
        BenchError: A program is missing, packages cannot be fetched, or one did not start.
    """
    try:
        require_programs("qemu-system-x86_64", "mmdebstrap", "mksquashfs", "xorriso")
        machines = _machines(data, note)
        found = Boots({name: {stage: [] for stage, _ in stages} for name, stages in STAGES.items()})
        for number in range(rounds):
            for name, machine in machines.items():
                reached = _start(machine, STAGES[name])
                for stage, seconds in reached.items():
                    found.seconds[name][stage].append(seconds)
                note(f"round {number + 1}: {name}: {', '.join(f'{s} {t:.1f} s' for s, t in reached.items())}")
    except ImagerError as error:
        raise BenchError(f"{error.message} {error.hint}") from error
    return found


def _start(machine: Machine, stages: tuple[tuple[str, str], ...]) -> dict[str, float]:
    """Start it once; the seconds to each stage."""
    with switched_on(machine) as guest:
        begun = _moment(guest, _KERNEL)
        return {name: _moment(guest, words) - begun for name, words in stages}


def _moment(guest: Guest, words: str) -> float:
    guest.wait_for(re.escape(words), timeout_seconds=_PATIENCE_SECONDS)
    return time.monotonic()


def _machines(data: Path, note: Callable[[str], None]) -> dict[str, Machine]:
    """Both machines; what takes minutes to make is kept in bootmedia's cache."""
    cache, folder = Cache(default_folder()), data / "boot"
    remove(folder)
    folder.mkdir()
    recipe = read_recipe("rescue")
    note("building the medium")
    medium = folder / "medium.iso"
    wishes = Wishes(recipe, Settings("imager recovery"), _SUITE, None, COMPRESSIONS["fast"], included=())
    build(wishes, medium, cache, NullProgress())
    opened = open_medium(medium, folder / "opened")
    note("building the empty system")
    empty = _empty_medium(_empty_base(recipe, cache, opened.kernel_version), opened, folder)
    boot = DirectBoot(opened.kernel, folder / "opened/live/initrd", opened.kernel_options)
    machine = Machine(Firmware.BIOS, direct_boot=boot)
    return {OURS: replace(machine, medium=medium), EMPTY: replace(machine, medium=empty)}


def _empty_base(recipe: Recipe, cache: Cache, kernel_version: str) -> Base:
    """Debian with systemd, udev and the kernel's modules, and what they depend on."""
    empty = Recipe(
        folder=Path(__file__).parent / "empty",
        profile="empty",
        packages=_PACKAGES,
        left_out=recipe.left_out,
        unit_changes=(),
        initrd_modules=(),
        kernel_options=(),
    )
    sources = sources_text(_SUITE, mirror=None, files=apt_files(Path("/etc/apt")))
    for anew in (False, True):  # a kept one may be older than the medium
        base = find_or_make_base(
            cache,
            empty,
            suite=_SUITE,
            sources=sources,
            compression=COMPRESSIONS["fast"],
            progress=NullProgress(),
            anew=anew,
        )
        if base.modules.name == kernel_version:
            return base
    raise BenchError(f"Debian has a newer kernel than the medium, {kernel_version}: bootmedia build --refresh")


def _empty_medium(base: Base, opened: Opened, folder: Path) -> Path:
    """A CD that the medium's own initrd takes for its medium."""
    match = re.search(r"bootmedia\.id=(\S+)", opened.kernel_options)
    if match is None:
        raise BootFailed("the medium's boot menu names no medium")
    mark = folder / "id"
    mark.write_text(match[1])
    iso = folder / "empty.iso"
    placed = [f"/live/10-empty.squashfs={base.squashfs}", f"/bootmedia/id-{match[1]}={mark}"]
    follow(["xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", str(iso), "-graft-points", *placed])
    return iso
