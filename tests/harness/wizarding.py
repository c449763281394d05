# SPDX-License-Identifier: GPL-3.0-or-later
"""Drives the wizard as a person does: keys, and what stands on the screen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textual import events
from textual.pilot import Pilot
from textual.widgets import Input

from bootmedia.recovery.places import Surroundings
from bootmedia.wizard.app import Wizard
from bootmedia.wizard.screens.frame import Frame, Menu
from bootmedia.wizard.terminal import Ability
from imager.reports.log import Log

PATIENCE_SECONDS = 300
CAPABLE = Ability()


def squeezed(text: str) -> str:
    """A text without any space: where a line is broken depends on the paths of temporary folders in it."""
    return "".join(text.split())


@dataclass
class Person:
    """Somebody at a terminal of 80 by 24.

    Attributes:
        wizard: The application.
        pilot: Presses keys.
    """

    wizard: Wizard
    pilot: Pilot[None]

    @property
    def screen(self) -> str:
        """What stands on the screen, line by line."""
        strips = self.wizard.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)

    async def sees(self, *words: str, patience_seconds: float = PATIENCE_SECONDS) -> str:
        """Wait for all of some words on the screen."""
        deadline = time.monotonic() + patience_seconds
        while not all(squeezed(word) in squeezed(self.screen) for word in words):
            assert time.monotonic() < deadline, f"{words} not on the screen:\n{self.screen}"
            await self.pilot.pause(0.05)
        return self.screen

    async def is_offered(self, *words: str) -> None:
        """Wait for words in lines to choose from, or for their names.

        With the disks of others on this machine, a list may be longer than the screen.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(any(word in line for line in self._lines) for word in words):
            assert time.monotonic() < deadline, f"{words} are not in {self._lines}:\n{self.screen}"
            await self.pilot.pause(0.05)

    @property
    def _lines(self) -> list[str]:
        menus = self.wizard.screen.query(Menu)
        return [f"{option.id}: {option.prompt}\n" for menu in menus for option in menu.options]

    async def reads(self, sentence: str) -> None:
        """Wait for a sentence, which may be broken into lines anywhere."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "".join(sentence.split()) not in "".join(self.screen.split()):
            assert time.monotonic() < deadline, f"{sentence!r} not on the screen:\n{self.screen}"
            await self.pilot.pause(0.05)

    async def presses(self, *keys: str) -> None:
        """Press keys, one after the other."""
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def types(self, text: str) -> None:
        """Type into the field that has the cursor, and press Enter; long texts are pasted."""
        field = self.wizard.focused
        assert isinstance(field, Input), f"nothing to type into:\n{self.screen}"
        if len(text) > 12:
            self.wizard.post_message(events.Paste(text))
        else:
            await self.pilot.press(*({"/": "slash", " ": "space"}.get(character, character) for character in text))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not field.value.endswith(text):
            assert time.monotonic() < deadline, f"{text} was not typed:\n{self.screen}"
            await self.pilot.pause(0.05)
        await self.presses("enter")

    async def chooses(self, name: str) -> None:
        """Move to a line with the arrow keys, and press Enter."""
        screen = self.wizard.screen
        assert isinstance(screen, Frame)
        menu = screen.menu
        assert not menu.get_option(name).disabled, f"{name} cannot be chosen:\n{self.screen}"
        for _ in range(3 * menu.option_count):  # lists grow while somebody goes through them
            if menu.highlighted_option is not None and menu.highlighted_option.id == name:
                break
            await self.pilot.press("down")
        else:
            raise AssertionError(f"{name} was not reached:\n{self.screen}")
        await self.presses("enter")


@asynccontextmanager
async def a_person(
    around: Surroundings | None = None, shows: Ability = CAPABLE, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[Person]:
    """The wizard, and somebody in front of it."""
    wizard = Wizard(shows, Log(), around)
    async with wizard.run_test(size=size) as pilot:
        try:
            yield Person(wizard, pilot)
        finally:
            wizard.journal.close()


def driven(story: Callable[[], Awaitable[Any]]) -> None:
    """Run a story to its end."""

    async def told() -> None:
        await story()

    asyncio.run(told())


async def goes_to_image(person: Person, image: Path) -> None:
    """From the first screen to what is in an image, by its path."""
    await person.sees("Restore", "Power off")
    await person.chooses("restore")
    await person.sees("where the image is")  # with what others have on this machine's disks, its list may be longer
    await person.chooses("path")
    await person.sees("Path of an image")
    await person.types(str(image))


async def goes_to_options(person: Person, image: Path, content: str, target: Path) -> None:
    """From the first screen to all or a part of an image, which holds some content, onto a disk."""
    await goes_to_image(person, image)
    await person.sees("content", content)
    await person.presses("enter")
    await person.is_offered(str(target))
    await person.chooses(str(target))
