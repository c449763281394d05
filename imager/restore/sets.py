# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that were taken together: whether those that are restored belong together, and what is missing of them.

Pure: it judges what the images say of themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from imager.errors import UsageError
from imager.image.description import NIL, Description
from imager.layout import Content, part_of, parts_present
from imager.pictures.sizes import size_text

_MIXED_HINT = "Disks of different moments do not fit together in an array; --mixed restores them all the same."


@dataclass(frozen=True)
class SetImage:
    """One of the images that are restored together.

    Attributes:
        name: As the user calls it.
        about: Its header.
    """

    name: str
    about: Description


def check_together(images: Sequence[SetImage], *, mixed: bool) -> None:
    """Refuse images that were not taken together.

    Args:
        images: Those that are restored in one go.
        mixed: The user wants that.

    Raises:
        UsageError: They are of different sets, or one is named twice.
    """
    if mixed or len(images) < 2:
        return
    first = images[0]
    for earlier, image in enumerate(images[1:], 1):
        twin = next((other for other in images[:earlier] if other.about.image_id == image.about.image_id), None)
        if twin is not None:
            raise UsageError(
                f"{twin.name} and {image.name} are the same image, and its disks could not be told apart",
                hint="--mixed restores it onto both; then let only one of them be used at a time.",
            )
        if image.about.set_id != first.about.set_id or image.about.set_id == NIL:
            raise UsageError(
                f"{first.name} and {image.name} were not captured together: {_set_text(first)}, {_set_text(image)}",
                hint=_MIXED_HINT,
            )


def _set_text(image: SetImage) -> str:
    about = image.about
    return f"{image.name} is of set {about.set_id}" if about.set_id != NIL else f"{image.name} is of no set"


def missing_sentences(images: Sequence[SetImage]) -> tuple[str, ...]:
    """Which disks of a set are not restored, and what that means for what lies across them."""
    missing = [sentence for image in _one_of_each_set(images) for sentence in _not_here(image, images)]
    return (*missing, *_incomplete_volumes(images)) if missing else ()


def _one_of_each_set(images: Sequence[SetImage]) -> Iterable[SetImage]:
    return {image.about.set_id: image for image in images if image.about.set_id != NIL}.values()


def _not_here(image: SetImage, images: Sequence[SetImage]) -> Iterator[str]:
    here = [_key(each.about) for each in images if each.about.set_id == image.about.set_id]
    members = image.about.set_members
    for member in members:
        if (member.identity, member.size_bytes) not in here:
            yield (
                f"{member.image} is not restored: the image of {member.identity.short_name()}, "
                f"{size_text(member.size_bytes)}, which was captured together with {image.name}"
            )


def _key(about: Description) -> tuple[object, int]:
    return about.layout.identity, about.disk_size


# --- What lies across several disks -------------------------------------------------------------------------------


def _incomplete_volumes(images: Sequence[SetImage]) -> Iterator[str]:
    """What cannot be whole without the missing disks, as far as the images that are here tell."""
    contents = [content for image in images for _, content in image.about.layout.contents()]
    present = parts_present(contents)
    told: set[tuple[str, str]] = set()
    for content in contents:
        part = part_of(content)
        if part is not None and part.whole not in told and present[part.whole] < part.count:
            told.add(part.whole)
            yield _sentence(content, present[part.whole], part.count)


def _sentence(content: Content, present: int, count: int) -> str:
    facts = content.facts
    if content.type == "linux_raid_member":
        level = facts.get("level", "")
        return (
            f"array {facts.get('array') or content.label or content.uuid} ({level}) comes back with {present} of "
            f"its {count} members: {_array_meaning(level, count - present)}"
        )
    if content.type == "btrfs":
        return (
            f"Btrfs {content.label or content.uuid} comes back with {present} of its {count} devices: it is "
            "not mounted unless with -o degraded, and only if its profile keeps a second copy"
        )
    return (
        f"volume group {facts.get('volume_group', '')} comes back with {present} of its {count} "
        "physical volumes: logical volumes that reach onto a missing one cannot be activated"
    )


_BEARABLE = {"raid1": None, "raid10": 1, "raid4": 1, "raid5": 1, "raid6": 2}
"""How many members an array can do without; None for all but one (md(4))."""


def _array_meaning(level: str, lost: int) -> str:
    most = _BEARABLE.get(level, 0)
    if most is None or lost <= most:
        return "it runs degraded until others are added"
    return "it cannot be started"
