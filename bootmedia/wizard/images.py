# SPDX-License-Identifier: GPL-3.0-or-later
"""Images as the wizard knows them: which files of a folder are some, and what one of them holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from imager.cli.show import layout_lines
from imager.errors import ImageDamaged
from imager.image import beginning
from imager.image.description import SetMember, SetMembers
from imager.layout import Layout
from imager.partitions.adapt import missing_bytes
from imager.pictures.bar import Style
from imager.pictures.sizes import size_text
from imager.stores.parts import base_of


@dataclass(frozen=True)
class Entry:
    """Something in a folder.

    Attributes:
        path: Of a split image, without the number.
        size_bytes: Of a split image, of all parts.
        trouble: Why nobody can tell what it is; "" when it could be read.
    """

    path: Path
    is_folder: bool
    is_image: bool
    size_bytes: int = 0
    modified: float = 0
    trouble: str = ""


def is_image(path: Path) -> bool:
    """Whether a file begins as our images do; not when it cannot be read."""
    try:
        return beginning.is_image(path)
    except OSError:
        return False


def entries(folder: Path) -> list[Entry]:
    """Folders and images in a folder, and then the other files; hidden ones are left out.

    Raises:
        OSError: It cannot be read.
    """
    found: dict[Path, Entry] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        entry = _entry(path)
        before = found.get(entry.path)
        if before and not before.is_folder:  # a further part of a split image
            size = before.size_bytes + entry.size_bytes
            entry = Entry(entry.path, False, before.is_image or entry.is_image, size, before.modified)
        found[entry.path] = entry
    return sorted(found.values(), key=lambda entry: (not entry.is_folder, not entry.is_image, entry.path.name))


def _entry(path: Path) -> Entry:
    if path.is_dir():
        return Entry(path, True, False)
    whole = base_of(path)
    try:
        status = path.stat()
    except OSError:  # a link that leads nowhere, or a file that is gone
        return Entry(path, False, False)
    try:
        recognised = beginning.is_image(path)
    except OSError as error:  # an NFS server gives root no more leave than anybody (root_squash in exports(5))
        return Entry(path, False, False, status.st_size, status.st_mtime, error.strerror or "cannot be read")
    # Only the first part of a split image has the magic; others belong to it by their name.
    name = whole if whole and (recognised or is_image(path.with_name(f"{whole.name}.000"))) else path
    return Entry(name, False, recognised, status.st_size, status.st_mtime)


@dataclass(frozen=True)
class ImageFacts:
    """What `imager info --json` says of an image.

    Attributes:
        used_bytes: What a restore writes at most.
        damaged_bytes: What is missing in it, or was unreadable.
        warnings: What lowers trust in it.
        set_id: Shared by all images that were captured together.
        set_members: Their disks, this one too; empty when it was captured alone.
    """

    image_id: str
    created: str
    tool: str
    comment: str
    layout: Layout
    used_bytes: int
    damaged_bytes: int = 0
    warnings: tuple[str, ...] = ()
    set_id: str = ""
    set_members: tuple[SetMember, ...] = ()

    @classmethod
    def read(cls, facts: dict[str, Any]) -> ImageFacts:
        """From the command's JSON.

        Raises:
            ImageDamaged: It is not what the command prints.
        """
        try:
            layout = Layout.from_json(msgspec.json.encode(facts["layout"]))
            lacking = [*facts.get("missing", ()), *facts.get("unreadable", ())]
            return cls(
                image_id=str(facts["image_id"]),
                created=str(facts["created"]),
                tool=str(facts["tool"]),
                comment=str(facts["comment"]),
                layout=layout,
                used_bytes=int(facts["used_bytes"]),
                damaged_bytes=sum(end - start for start, end in lacking),
                warnings=tuple(map(str, facts.get("final_warnings", ()))),
                set_id=str(facts["set_id"]),
                set_members=msgspec.convert(facts["set_members"], SetMembers),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ImageDamaged(f"what imager info says of the image is not understood: {error}") from error

    @property
    def machine(self) -> str:
        """Whose disk it is of."""
        return self.layout.identity.short_name()

    @property
    def is_of_set(self) -> bool:
        """Whether other disks were captured together with it."""
        return len(self.set_members) > 1

    @property
    def least_bytes(self) -> int:
        """The smallest disk that holds all of its partitions."""
        return missing_bytes(self.layout, 0)

    def lines(self, style: Style) -> Iterator[str]:
        """All of it for people."""
        used = f"{size_text(self.used_bytes)} used of {size_text(self.layout.size_bytes)}"
        yield f"made      {self.created or 'at an unknown time'}, by {self.tool}"
        yield f"content   {used}"
        if self.comment:
            yield f"comment   {self.comment}"
        if self.is_of_set:
            yield f"set       one of {len(self.set_members)} disks of a machine: the next step asks which are wanted"
        yield ""
        yield from layout_lines(self.layout, style)
        if self.damaged_bytes:
            yield f"DAMAGED: {size_text(self.damaged_bytes)} of the content are missing or were unreadable"
        yield from (f"warning: {text}" for text in self.warnings)
