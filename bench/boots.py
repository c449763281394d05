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

Times = dict[str, dict[str, list[float]]]


@dataclass
class Boots:
    """What the way from the kernel's start to each stage takes, by system and stage, one for each round."""

    seconds: Times = field(default_factory=dict)
    cpu_seconds: Times = field(default_factory=dict)
    """Of QEMU, which has one thread for the one processor."""


def ratios(times: Times) -> list[float]:
    """How many times as much the medium takes, for each round."""
    return [ours / empty for ours, empty in zip(times[OURS]["end"], times[EMPTY]["end"], strict=True)]


def ratio(times: Times) -> float:
    """The ratio of the medians."""
    return statistics.median(times[OURS]["end"]) / statistics.median(times[EMPTY]["end"])


def boots(data: Path, rounds: int, note: Callable[[str], None]) -> Boots:
    """Make both and start them in turns.

    Raises:
        BenchError: A program is missing, packages cannot be fetched, or one did not start.
    """
    try:
        require_programs("qemu-system-x86_64", "mmdebstrap", "mksquashfs", "xorriso")
        machines = _machines(data, note)
        found = Boots(_no_times(), _no_times())
        for number in range(rounds):
            for name, machine in machines.items():
                reached = _start(machine, STAGES[name])
                for stage, (seconds, cpu_seconds) in reached.items():
                    found.seconds[name][stage].append(seconds)
                    found.cpu_seconds[name][stage].append(cpu_seconds)
                told = (f"{stage} {seconds:.1f} s, CPU {cpu:.1f} s" for stage, (seconds, cpu) in reached.items())
                note(f"round {number + 1}: {name}: {'; '.join(told)}")
    except ImagerError as error:
        raise BenchError(f"{error.message} {error.hint}") from error
    return found


def _no_times() -> Times:
    return {name: {stage: [] for stage, _ in stages} for name, stages in STAGES.items()}


def _start(machine: Machine, stages: tuple[tuple[str, str], ...]) -> dict[str, tuple[float, float]]:
    """Start it once; the seconds to each stage, and the CPU seconds."""
    with switched_on(machine) as guest:
        begun, cpu_begun = _moment(guest, _KERNEL)
        moments = ((name, *_moment(guest, words)) for name, words in stages)
        return {name: (moment - begun, cpu - cpu_begun) for name, moment, cpu in moments}


def _moment(guest: Guest, words: str) -> tuple[float, float]:
    guest.wait_for(re.escape(words), timeout_seconds=_PATIENCE_SECONDS)
    return time.monotonic(), guest.cpu_seconds


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
    # One console: on the medium they take turns, and which is first is not told from outside.
    options = f"{opened.kernel_options} systemd.mask=getty@tty1.service"
    boot = DirectBoot(opened.kernel, folder / "opened/live/initrd", options)
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
