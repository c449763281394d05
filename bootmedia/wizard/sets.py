# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of a machine with several disks: which of them lie beside one, and which are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bootmedia.wizard.images import ImageFacts, entries
from bootmedia.wizard.pair import Pair
from bootmedia.wizard.source import Source
from imager.errors import ImagerError
from imager.image.description import Description, SetMember
from imager.image.reader import StreamedImage
from imager.layout import Identity
from imager.stores import open_input
from imager.stores.base import store_error

Key = tuple[Identity, int]
"""What tells the disks of a set apart: which disk it was, and its size."""


@dataclass(frozen=True)
class Member:
    """A disk of a set.

    Attributes:
        about: As every image of the set names it.
        pair: Its image; None when that was not found.
        trouble: Why it was not, as a verb and what follows; "" when it was.
    """

    about: SetMember
    pair: Pair | None = None
    trouble: str = ""


def find_members(own: Pair, look: Callable[[Source], ImageFacts]) -> tuple[Member, ...]:
    """The disks that were captured together with an image, in their order, each with its image where that lies beside.

    Args:
        own: The image that was chosen.
        look: Tells what is in another one.

    Raises:
        StoreError: The folder cannot be read.
    """
    if own.image is None:
        return ()
    found = {_key(own.image): own}
    if not own.source.path:
        return _members(own.image, found, {}, "cannot be reached: a stream is read once, and alone")
    folder, troubles = Path(own.source.path).parent, dict[str, str]()
    wanted = {(each.identity, each.size_bytes): each for each in own.image.set_members}
    for path, header in _beside(folder, {each.image for each in own.image.set_members}, troubles):
        key = (header.layout.identity, header.disk_size)
        if str(header.set_id) != own.image.set_id or key in found or key not in wanted:
            continue
        source = Source(path=str(path))
        try:
            found[key] = Pair(source, look(source))
        except ImagerError as error:
            troubles[wanted[key].image] = f"cannot be restored: {error.message}"
        if found.keys() >= wanted.keys():
            break
    return _members(own.image, found, troubles, f"is not in {folder}")


def _key(image: ImageFacts) -> Key:
    return image.layout.identity, image.layout.size_bytes


def _members(
    image: ImageFacts, found: Mapping[Key, Pair], troubles: Mapping[str, str], otherwise: str
) -> tuple[Member, ...]:
    pairs = [(about, found.get((about.identity, about.size_bytes))) for about in image.set_members]
    return tuple(Member(about, pair, "" if pair else troubles.get(about.image, otherwise)) for about, pair in pairs)


def _beside(folder: Path, names: set[str], troubles: dict[str, str]) -> Iterator[tuple[Path, Description]]:
    """The images of a folder with their headers: first those that have a name of the set, then others: renamed ones."""
    try:
        listed = entries(folder)
    except OSError as error:
        raise store_error(error, str(folder), "cannot read") from error
    for entry in sorted(listed, key=lambda entry: entry.path.name not in names):
        if entry.trouble:
            troubles[entry.path.name] = f"cannot be read: {entry.trouble}"
        elif entry.is_image:
            try:
                with StreamedImage(open_input(str(entry.path))) as image:  # the header only
                    yield entry.path, image.description
            except ImagerError as error:
                troubles[entry.path.name] = f"cannot be read: {error.message}"
