# SPDX-License-Identifier: GPL-3.0-or-later
"""Key files for encrypted partitions: what is in them is grown and repaired when all is written.

An image that is a file is looked into beforehand, so the plan is complete, and a wrong key stops it. Of an image that
comes over the network only what it says of itself is known, and the key is tried when the disk is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bootmedia.recovery.answers import Restore
from bootmedia.recovery.errors import AnswersWrong
from bootmedia.recovery.places import Found, ImageSource, Surroundings, file_beside
from imager.blocks import Slice
from imager.image.blocks import ImageReader
from imager.image.description import Description
from imager.image.reader import Image
from imager.layout import Content, Layout
from imager.restore.inside import looked_into
from imager.volumes import luks

_MOST_KEY_BYTES: Final = 8 * 1024 * 1024

Restored = tuple[Restore, ImageSource, Description]


Unlocked = tuple[list[Layout], dict[str, bytes], list[luks.VolumeKey]]


def unlocked(restores: Sequence[Restored], found: Found, around: Surroundings) -> Unlocked:
    """What each image holds, with what lies in containers that can be opened; passphrases by UUIDs; volume keys.

    Raises:
        AnswersWrong: There is no encrypted partition where the answers say.
        StoreError: A key file is not there.
        UsageError: A key does not open its container.
    """
    layouts = [about.layout for _, _, about in restores]
    secrets: dict[str, bytes] = {}
    if not any(restore.unlock for restore, _, _ in restores):
        return layouts, secrets, []
    luks.forbid_core_files()  # before the first key is in memory
    for restore, _, about in restores:
        for number, name in _wanted(restore):
            secrets[_container(about.layout, number, found).uuid] = _key(file_beside(name, found, around))
    with ExitStack() as stack:
        readers = {index: _reader(stack, source) for index, (_, source, _) in enumerate(restores) if source.path}
        keys = [key for index, reader in readers.items() for key in _keys(reader, layouts[index], secrets)]
        seen = looked_into([(layouts[index], reader) for index, reader in readers.items()], keys)
        for index, layout in zip(readers, seen, strict=True):
            layouts[index] = layout
    return layouts, secrets, keys


def _wanted(restore: Restore) -> Iterator[tuple[int, str]]:
    for text in restore.unlock:
        place, _, name = text.partition(":")
        yield (0 if place == "disk" else int(place)), name


def _container(layout: Layout, number: int, found: Found) -> Content:
    entry = layout.partition(number)
    content = entry.content if entry else layout.content
    if (number and entry is None) or content is None or content.type not in luks.TYPES:
        where = f"partition {number}" if number else "the disk itself"
        raise AnswersWrong(f"{found.name}: unlock: {where} of the image is no LUKS container", path=found.name)
    return content


def _key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_KEY_BYTES)
    except OSError as error:
        raise AnswersWrong(f"the key file {path} cannot be read: {error.strerror}", path=str(path)) from error


def _reader(stack: ExitStack, source: ImageSource) -> ImageReader:
    image = stack.enter_context(source.open())
    if not isinstance(image, Image):
        raise AnswersWrong(f"{source.name} is a stream: nobody can look into it", path=source.name)
    return ImageReader(image)


def _keys(reader: ImageReader, layout: Layout, secrets: dict[str, bytes]) -> Iterator[luks.VolumeKey]:
    for entry in layout.partitions:
        if entry.content is not None and entry.content.uuid in secrets:
            part = Slice(reader, entry.start, entry.size_bytes)
            yield luks.unlock(part, secrets[entry.content.uuid])
    if layout.content is not None and layout.content.uuid in secrets:
        yield luks.unlock(reader, secrets[layout.content.uuid])
