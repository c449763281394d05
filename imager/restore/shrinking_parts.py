# SPDX-License-Identifier: GPL-3.0-or-later
"""From a partition that becomes smaller to the volumes in it: itself, what is in its container, or logical volumes."""

from __future__ import annotations

from dataclasses import dataclass

from imager.blocks import BlockReader, Slice
from imager.errors import UsageError, VolumeFailed
from imager.fitting.model import Fitted
from imager.image.blocks import ImageReader
from imager.image.reader import Image
from imager.layout import Content
from imager.restore.placement import Move, Moves
from imager.restore.plan import Plan
from imager.restore.scope import wanted_partition
from imager.restore.shrinking_group import Group, Where
from imager.restore.shrinking_units import Done, Shop, Unit, Vault, carry_out, in_image, unit_of_partition
from imager.restore.smaller import Smaller
from imager.volumes import luks
from imager.volumes.base import Member


@dataclass(frozen=True)
class Parts:
    """What lies in a partition.

    Attributes:
        unit: One volume: the partition itself, or what is in its container.
        group: A volume group, in the partition or in its container.
        vault: The container.
    """

    unit: Unit | None = None
    group: Group | None = None
    vault: Vault | None = None

    @property
    def units(self) -> list[Unit]:
        """All that is made smaller or anew."""
        return [self.unit] if self.unit else self.group.units if self.group else []


def parts_of(plan: Plan, image: Image, smaller: Smaller) -> Parts:
    """Look into a partition; before anybody agrees to the plan, and when it is carried out.

    Raises:
        UsageError: There is no key for a container.
        VolumeFailed: It is not what the plan takes it for.
        TargetTooSmall: Not all of a group fits.
    """
    place = smaller.place
    if smaller.way.kind not in ("group", "container"):
        return Parts(unit_of_partition(plan, smaller))
    size_there = place.size_inside(plan.sector_there)
    reader: BlockReader = Slice(ImageReader(image), place.image_start, place.old_size)
    if smaller.inner is None:
        return Parts(group=Group(reader, Where(place.image_start, place.start, size_there), smaller))
    vault, new_size = _opened(plan, smaller, reader, size_there)
    if smaller.inner.kind == "group":
        where = Where(vault.image_start, vault.target_start, new_size, vault)
        return Parts(group=Group(vault.plain, where, smaller), vault=vault)
    size = vault.plain.size
    unit = Unit(
        name=f"partition {place.number}",
        number=place.number,
        content=_content(plan, place).inside[0],
        way=smaller.inner,
        old=Moves((Move(0, size, vault.image_start),)),
        new=Moves((Move(0, new_size, vault.target_start),)),
        old_size=size,
        new_size=new_size,
        vault=vault,
    )
    return Parts(unit, vault=vault)


def make_parts(shop: Shop, smaller: Smaller) -> list[Done]:
    """Make everything in a partition smaller.

    Raises:
        VolumeFailed: It cannot be done.
    """
    parts = parts_of(shop.plan, shop.source, smaller)
    done = [_header(shop, smaller.place, parts.vault)] if parts.vault else []
    done += parts.group.carry_out(shop) if parts.group else []
    return [*done, *([carry_out(shop, parts.unit)] if parts.unit else [])]


def _content(plan: Plan, place: Fitted) -> Content:
    return wanted_partition(plan.layout, place.number).content or Content("unknown", "unknown")


def _opened(plan: Plan, smaller: Smaller, reader: BlockReader, size_there: int) -> tuple[Vault, int]:
    """The container, and the size that its payload will have: whole sectors of the disk and of its own."""
    place = smaller.place
    uuid = _content(plan, place).uuid
    key = next((key for key in plan.options.keys if key.uuid == uuid), None)
    if key is None:
        raise UsageError(
            f"what is in partition {place.number} is encrypted, and cannot be made {smaller.becomes} without its "
            "passphrase",
            hint=f"Add --unlock {place.number}.",
        )
    opened = luks.opened(Member(0, reader), key)
    payload = opened.place
    is_fixed = payload.end <= reader.size - payload.sector_bytes
    if is_fixed and place.is_smaller:
        raise VolumeFailed(
            f"the container in partition {place.number} has a fixed size, and cannot be made smaller",
            hint="Choose a larger disk.",
            number=place.number,
        )
    offset, sector = payload.offset, max(payload.sector_bytes, plan.sector_there)
    vault = Vault(
        key=key,
        place=(place.image_start, place.old_size),
        plain=opened.readers[0],
        payload=payload,
        sealer=luks.Sealer(payload, key),
        image_start=place.image_start + offset,
        target_start=place.start + offset,
    )
    return vault, (payload.size if is_fixed else size_there - offset) // sector * sector


def _header(shop: Shop, place: Fitted, vault: Vault) -> Done:
    """What lies in front of the payload comes as it is."""
    size = vault.image_start - place.image_start
    old = Moves((Move(0, size, place.image_start),))
    move = Move(place.image_start, vault.image_start, place.distance)
    return Done((), old.to_target(in_image(shop, old)), (move,))
