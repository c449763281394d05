# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes docs/pictures/wizard-*.svg: the real wizard restores a small disk, and its screens are kept. Needs root.

python scripts/wizard_pictures.py [FOLDER]
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

import imager.process
from bootmedia.recovery.choose import Candidate
from bootmedia.recovery.places import Surroundings
from bootmedia.wizard.app import Wizard
from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.running import Outcome
from bootmedia.wizard.screens.frame import Frame
from bootmedia.wizard.terminal import Ability
from imager.process import run
from imager.reports.log import Log

MIB = 1 << 20
MEDIUM = Path("/run/medium")
PICTURES = Path(__file__).resolve().parent.parent / "docs/pictures"
_FONTS = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


def picture(wizard: Wizard) -> str:
    """The screen as SVG, with the fonts of whoever looks at it: a page of ours fetches nothing from elsewhere."""
    svg = wizard.export_screenshot(title="recovery-wizard")
    svg = _FONTS.sub("", svg).replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")
    svg = svg.replace("<text ", '<text xml:space="preserve" ')  # some programs drop spaces at the start of a text
    return re.sub(r"terminal-\d+-", "terminal-", svg)  # the same screen is the same file


@contextmanager
def disk(path: Path, size_bytes: int, table: bytes = b"") -> Iterator[Path]:
    """An empty disk, or one with a table."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    loop = run(["losetup", "--find", "--show", str(path)]).output.decode().strip()
    try:
        if table:
            run(["sfdisk", "--quiet", "--no-reread", loop], input_bytes=table)
        yield Path(loop)
    finally:
        run(["losetup", "--detach", loop])


def make_server(path: Path, files: Path) -> None:
    """A disk as a small server has it."""
    with path.open("wb") as file:
        file.truncate(900 * MIB)
    table = b"label: gpt\nsize=64M, type=U, name=EFI\nsize=128M, name=boot\nsize=700M, name=root\n"
    run(["sfdisk", "--quiet", str(path)], input_bytes=table)
    files.mkdir()
    for number in range(60):
        (files / f"page{number}").write_bytes(os.urandom(5 * MIB))
    run(["mformat", "-i", f"{path}@@{MIB}", "-T", str(64 * MIB // 512), "-h", "16", "-s", "63", "-v", "EFI", "::"])
    run(["mke2fs", "-q", "-t", "ext4", "-L", "boot", "-E", f"offset={65 * MIB}", str(path), "128m"])
    run(["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(files), "-E", f"offset={193 * MIB}", str(path), "700m"])


@contextmanager
def machine(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """A stick with the image of a server, a disk to restore it to, and one that is too small."""
    server, medium = Path("/run/web-server"), MEDIUM  # short names, as they stand in the pictures
    with ExitStack() as stack:
        stack.callback(server.unlink)
        make_server(server, folder / "files")
        stick = stack.enter_context(disk(folder / "stick", 800 * MIB))
        target = stack.enter_context(disk(folder / "new", 1400 * MIB, b"label: gpt\nsize=800M, name=data\n"))
        small = stack.enter_context(disk(folder / "small", 256 * MIB))
        run(["mke2fs", "-q", "-t", "ext4", "-L", "data", "-E", f"offset={MIB}", str(target), "800m"])
        run(["mke2fs", "-q", "-t", "ext4", "-L", "STICK", str(stick)])
        run(["mount", "--mkdir", str(stick), str(medium)])
        stack.callback(medium.rmdir)
        stack.callback(run, ["umount", str(medium)])
        image = medium / "images/web-server.img.zst"
        image.parent.mkdir()
        run(["imager", "capture", "--quiet", "--comment", "web server, rack 4", str(server), str(image)])
        yield image, [target, small, stick]


class Shown(Wizard):
    """The wizard, which sees the disks of this script only: a picture must not depend on who else works here."""

    disks: ClassVar[list[Path]] = []

    def candidates(self, images: Iterable[str] = ()) -> Sequence[Candidate]:
        """Ours of them."""
        return [each for each in super().candidates(images) if Path(each.path) in self.disks]


class Aged(Wizard):
    """The wizard on a machine with disks as one meets them: loop devices say nothing of their health."""

    def candidates(self, images: Iterable[str] = ()) -> Sequence[Candidate]:
        """Those of which smartctl's answers are below."""
        return [candidate for candidate, _ in AGED]

    def carry_out(self, command: Pipeline, given: bytes = b"", environment: Mapping[str, str] | None = None) -> Outcome:
        """What smartctl says of one of them."""
        (answer,) = [answer for candidate, answer in AGED if candidate.path == command.stages[0][-1]]
        return Outcome(0, json.dumps(answer).encode())


def _ata(*counts: int, hours: int) -> dict[str, object]:
    rows = [{"id": number, "raw": {"value": count}} for number, count in zip((5, 197, 198), counts, strict=True)]
    age = {"temperature": {"current": 36}, "power_on_time": {"hours": hours}}
    return {"smart_status": {"passed": True}, "ata_smart_attributes": {"table": rows}, **age}


_NVME = {"critical_warning": 0b100, "percentage_used": 104, "media_errors": 31}
AGED = (
    (
        Candidate("/dev/sda", model="ST4000VN008", serial="ZGY0A1B2", size_bytes=4000787030016),
        _ata(0, 0, 0, hours=9102),
    ),
    (
        Candidate("/dev/sdb", model="ST4000VN008", serial="ZGY0A1C7", size_bytes=4000787030016),
        _ata(16, 8, 0, hours=39544),
    ),
    (
        Candidate("/dev/nvme0n1", model="Samsung SSD 970 EVO", serial="S466NX0K", size_bytes=500107862016),
        {"smart_status": {"passed": False}, "nvme_smart_health_information_log": _NVME, "temperature": {"current": 61}},
    ),
    (
        Candidate("/dev/sdc", model="Ultra Fit", serial="4C530001", size_bytes=30752636928),
        {"smartctl": {"messages": [{"string": "/dev/sdc: Unknown USB bridge [0x0781:0x5583 (0x100)]"}]}},
    ),
)


class Tour:
    """Goes through the wizard and keeps pictures."""

    def __init__(self, wizard: Wizard, folder: Path) -> None:
        self._wizard, self._folder = wizard, folder

    async def keep(self, name: str, *words: str) -> None:
        """Wait for words, and keep the screen."""
        await self.sees(*words)
        (self._folder / f"wizard-{name}.svg").write_text(picture(self._wizard))

    async def sees(self, *words: str) -> None:
        """Wait for words on the screen."""
        async with asyncio.timeout(600):
            while not all(word in self._screen() for word in words):
                await asyncio.sleep(0.02)

    def _screen(self) -> str:
        strips = self._wizard.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip) for strip in strips)

    def choose(self, name: str) -> None:
        """Choose a line by its id."""
        screen = self._wizard.screen
        if isinstance(screen, Frame):
            screen.menu.highlighted = screen.menu.get_option_index(name)
            screen.menu.action_select()


async def _tour(folder: Path, kept: Path) -> None:
    with machine(folder) as (image, disks):
        target = disks[0]
        Shown.disks = disks
        wizard = Shown(Ability(), Log(), Surroundings(medium=MEDIUM, mounts=folder / "mounts", volumes=list))
        async with wizard.run_test(size=(80, 24)) as pilot:
            tour = Tour(wizard, kept)
            await tour.keep("welcome", "there is none")
            tour.choose("restore")
            await tour.sees("Images on this medium")
            tour.choose(f"folder:{image.parent}")
            await tour.sees(image.name)
            await pilot.press("enter")
            await tour.keep("image", "rack 4")
            await pilot.press("enter")
            await tour.keep("target", str(target))
            tour.choose(str(target))
            await tour.sees("Grow the last partition")
            tour.choose("grow:last")
            await pilot.pause(0.3)
            await tour.sees("(*) Grow the last")
            tour.choose("go")
            await tour.keep("before-after", "now on it, and lost")
            await pilot.press("enter")
            await tour.sees("type the name")
            await pilot.press(*target.name)
            await tour.sees(target.name)
            await pilot.press("enter")
            await tour.keep("progress", " %", "time left", "MiB/s")
            await tour.keep("result", "All that was asked for is done.")


@contextmanager
def two_disks(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """The images of a machine with two disks on a stick, and two disks to restore them to."""
    with ExitStack() as stack:
        stick, *targets = (stack.enter_context(disk(folder / name, 300 * MIB)) for name in ("pair", "first", "second"))
        run(["mke2fs", "-q", "-t", "ext4", str(stick)])
        run(["mount", "--mkdir", str(stick), str(MEDIUM)])
        stack.callback(MEDIUM.rmdir)
        stack.callback(run, ["umount", str(MEDIUM)])
        sources = [Path("/run/system"), Path("/run/data")]
        for source in sources:
            stack.callback(source.unlink)
            with source.open("wb") as file:
                file.truncate(256 * MIB)
            run(["sfdisk", "--quiet", str(source)], input_bytes=b"label: gpt\nsize=200M\n")
            run(["mke2fs", "-q", "-t", "ext4", "-L", source.name, "-E", f"offset={MIB}", str(source), "200m"])
        run(["imager", "capture", "--quiet", *map(str, sources), str(MEDIUM / "images")])
        yield MEDIUM / "images/system.img.zst", targets


async def _set(folder: Path, kept: Path) -> None:
    with two_disks(folder) as (image, disks):
        Shown.disks = disks
        wizard = Shown(Ability(), Log(), Surroundings(medium=MEDIUM, mounts=folder / "mounts", volumes=list))
        async with wizard.run_test(size=(80, 24)) as pilot:
            tour = Tour(wizard, kept)
            await tour.sees("Power off")
            tour.choose("restore")
            await tour.sees("Images on this medium")
            tour.choose(f"folder:{image.parent}")
            await tour.sees(image.name)
            tour.choose(f"entry:{image.name}")
            await tour.sees("one of 2 disks")
            await pilot.press("enter")
            await tour.keep("set", "The whole machine (2 disks)")
            tour.choose("all")
            for number, target in enumerate(disks, 1):
                await tour.sees(f"which disk, {number} of 2", str(target))
                tour.choose(str(target))
            await tour.sees("Go on: show before and after")
            tour.choose("go")
            await tour.sees("now on it, and lost")
            await pilot.press("enter")
            await tour.keep("set-agree", "names of the disks, in this order")


async def _health(kept: Path) -> None:
    wizard = Aged(Ability(), Log(), Surroundings(medium=MEDIUM, volumes=list))
    async with wizard.run_test(size=(80, 24)):
        tour = Tour(wizard, kept)
        await tour.sees("Disk health")
        tour.choose("health")
        await tour.keep("health", "GOOD", "WORN", "FAILING", "unknown")


def main() -> None:
    """Make them all."""
    kept = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    imager.process._PATH = f"{Path(sys.executable).parent}{os.pathsep}{imager.process._PATH}"
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_tour(Path(folder), kept))
        asyncio.run(_set(Path(folder), kept))
    asyncio.run(_health(kept))


if __name__ == "__main__":
    main()
