# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks into the containers of an image: what was locked when the image was made, and can be opened now.

The plan of what comes after a restore is made from a layout. For a container that was locked, the image's layout ends
there; with a passphrase it goes on. Nothing is written, and no root is needed: the image is read and decrypted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from imager.blocks import BlockReader, Slice
from imager.layout import Layout
from imager.volumes import luks


def looked_into(disks: Sequence[tuple[Layout, BlockReader]], keys: Sequence[luks.VolumeKey]) -> list[Layout]:
    """The layouts of images, with what lies in the containers that the keys open.

    Args:
        disks: The layout of each image, and its bytes; all together, because a volume may lie on several.
        keys: Of the containers.

    Raises:
        ImageError: An image cannot be read.
    """
    from imager.survey import Disk, survey  # not on top: all parsers, which a restore without keys does not need
    from imager.volumes.registry import managers

    opened = {key.uuid for key in keys}
    places = [(index, number) for index, (layout, _) in enumerate(disks) for number in _places(layout, opened)]
    readers = [_part(*disks[index], number) for index, number in places]
    found = survey([Disk(reader) for reader in readers], volume_managers=managers(keys)) if readers else ()
    layouts = [layout for layout, _ in disks]
    for (index, number), each in zip(places, found, strict=True):
        layouts[index] = _with_content(layouts[index], number, each.layout)
    return layouts


def _places(layout: Layout, uuids: set[str]) -> list[int]:
    """Partitions in which one of the containers lies, at any depth; 0 for a disk without a table."""
    found = {
        entry.number if entry else 0
        for entry, content in layout.contents()
        if content.type in luks.TYPES and content.uuid in uuids
    }
    return sorted(found)


def _part(layout: Layout, reader: BlockReader, number: int) -> BlockReader:
    entry = layout.partition(number)
    return Slice(reader, entry.start, entry.size_bytes) if entry else reader


def _with_content(layout: Layout, number: int, found: Layout) -> Layout:
    """The layout with what was found in one of its partitions, where that is more than was known."""
    if found.content is None:
        return layout
    if not number:
        return replace(layout, content=found.content)
    entries = (
        replace(entry, content=found.content) if entry.number == number else entry for entry in layout.partitions
    )
    return replace(layout, partitions=tuple(entries))
