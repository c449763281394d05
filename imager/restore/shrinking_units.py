# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes one volume smaller, a partition or a logical volume, and says what of it comes from where.

A volume is known by two maps of its offsets: to the image, and to the target. What the tool did not touch is taken from
the image by the same pipeline as all else; what it wrote, and what is in use but not in the image, comes from the view.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from imager.blocks import BlockReader, Segment, Segments
from imager.devices.target import TargetDisk
from imager.errors import ImageDamaged, ImagerError, StoreError, VolumeFailed
from imager.extents import Extents
from imager.fitting.boot_sectors import mended
from imager.fitting.ways import Way
from imager.image.blocks import ImageReader
from imager.image.reader import Image
from imager.layout import Content, Partition
from imager.overlay import Base, Overlay, Place, Seal, Shown, Store, View, shown
from imager.overlay.store import scratch_file
from imager.process import ProgramFailed
from imager.progress import NullProgress, Progress
from imager.remaking.making import check_remake
from imager.restore.placement import Move, Moves
from imager.restore.plan import Plan
from imager.restore.scope import HEAD_BYTES, wanted_partition
from imager.restore.smaller import Smaller
from imager.restore.write import Extra
from imager.shrinking import MAKERS, Work
from imager.shrinking.anew import make_anew
from imager.volumes import luks

_VOLUME, _OLD = "volume", "old"
_NOT_IN_ORDER: Final = "Choose a larger disk, or repair the file system before it is imaged again."
_KINDS: Final[dict[str, tuple[type[ImagerError], str]]] = {
    "image": (
        ImageDamaged,
        "imager verify shows what is damaged: take another copy of the image, or restore what is whole with "
        "--accept-damage, to a disk that is as large as the one in the image.",
    ),
    "room": (StoreError, "Name a folder with more room: --scratch FOLDER."),
}
"""How it is told when what a program worked on could not be read or written."""


@dataclass(frozen=True)
class Shop:
    """What all volumes of a restore are made smaller with.

    Attributes:
        plan: Of the restore.
        source: The image.
        target: The target, when what changes is written there at once; else None.
        stack: Holds what is needed until the restore is done.
        folder: Where scratch files lie.
        progress: Is told how far it is.
        told: What makers have to tell, as sentences.
    """

    plan: Plan
    source: Image
    target: TargetDisk | None
    stack: ExitStack
    folder: str
    progress: Progress = NullProgress()  # noqa: RUF009  stateless
    told: list[str] = field(default_factory=list)

    @cached_property
    def disk(self) -> BlockReader:
        """The disk in the image, opened once: its index takes memory."""
        return ImageReader(self.source)

    @property
    def sector_bytes(self) -> int:
        """Logical sector of the disk in the image."""
        return self.plan.layout.logical_sector_bytes


@dataclass(frozen=True)
class Vault:
    """An unlocked container.

    Attributes:
        key: Its volume key.
        place: Where it lies in the image: start and size.
        plain: Its plain text, as it is in the image.
        payload: How it is encrypted.
        sealer: Encrypts what is written.
        image_start: Where its payload begins in the image.
        target_start: Where its payload begins on the target.
    """

    key: luks.VolumeKey
    place: tuple[int, int]
    plain: BlockReader
    payload: luks.Payload
    sealer: luks.Sealer
    image_start: int
    target_start: int

    def base(self, path: str, pieces: Sequence[tuple[int, int]]) -> Base:
        """Ranges of the image, as plain text."""
        inside = tuple((start - self.image_start, size) for start, size in pieces)
        return Base("image", path, inside, self.place, self.key.uuid, bytes(self.key.content))

    def seal(self, offset: int, content: bytes) -> bytes:
        """The ciphertext for an offset of the target."""
        return self.sealer.sealed(offset - self.target_start, content)

    @property
    def target_seal(self) -> Seal:
        """The same for a view that writes to the target at once."""
        place = self.payload
        return Seal(self.target_start, place.cipher, place.sector_bytes, place.iv_tweak, bytes(self.key.content))

    def staying(self, moves: Sequence[Move]) -> list[Move]:
        """Those whose ciphertext is the same afterwards: it depends on the place in the payload."""
        return [move for move in moves if move.distance == self.target_start - self.image_start]


@dataclass(frozen=True)
class Unit:
    """A volume that becomes smaller.

    Attributes:
        name: What people call it.
        number: Of the partition that it lies in.
        content: What lies in it.
        way: How.
        old: From its offsets to the image.
        new: From its offsets to the target.
        old_size: Its size in the image.
        new_size: Its size on the target.
        entry: The partition that it is; None for a logical volume.
        vault: The container that it lies in; None for one that is not encrypted.
    """

    name: str
    number: int
    content: Content
    way: Way
    old: Moves
    new: Moves
    old_size: int
    new_size: int
    entry: Partition | None = None
    vault: Vault | None = None


@dataclass(frozen=True)
class Done:
    """What comes of a volume.

    Attributes:
        extra: What does not come from the image.
        take: What does; image offsets.
        moves: Where that goes.
    """

    extra: tuple[Extra, ...] = ()
    take: Extents = field(default_factory=Extents)
    moves: tuple[Move, ...] = ()


def unit_of_partition(plan: Plan, smaller: Smaller) -> Unit:
    """A partition whose content is made smaller."""
    place, entry = smaller.place, wanted_partition(plan.layout, smaller.place.number)
    return Unit(
        name=f"partition {place.number}",
        number=place.number,
        content=entry.content or Content("unknown", "unknown"),
        way=smaller.way,
        old=Moves((Move(0, place.old_size, place.image_start),)),
        new=Moves((Move(0, place.new_size, place.start),)),
        old_size=place.old_size,
        new_size=place.new_size,
        entry=entry,
    )


def carry_out(shop: Shop, unit: Unit) -> Done:
    """Make a volume smaller, and say what is to be written.

    Raises:
        VolumeFailed: It cannot be done.
    """
    store = Store(_places(shop, unit))
    with shown(_views(shop, unit, store)) as there:
        try:
            _make(shop, unit, there)
        except (ProgramFailed, VolumeFailed) as error:
            raise _failed(unit, there, error) from error
        except OSError as error:
            raise _failed(unit, there, VolumeFailed(error.strerror or str(error))) from error
        after = there.after(_VOLUME, shop.stack, _base(shop, unit))
        used = _used(unit, there, after)
    if unit.entry is not None:
        _mend(shop, unit, unit.entry, after)
    return _divided(shop, unit, after, used)


def look_at(shop: Shop, unit: Unit) -> None:
    """See that what is made anew is in order and fits, before anything is written to the target.

    Raises:
        VolumeFailed: It is not, or does not.
    """
    store = Store(_places(replace(shop, target=None), unit))
    with shown(_views(shop, unit, store)) as there:
        try:
            check_remake(unit.content, there.path(_OLD), unit.new_size, shop.plan.sector_there)
        except (ProgramFailed, VolumeFailed) as error:
            raise _failed(unit, there, error) from error


def _places(shop: Shop, unit: Unit) -> list[Place]:
    """Where what is written is kept: all of it in a scratch file, or what is behind the first MiB on the target."""
    scratch, size = scratch_file(shop.stack, shop.folder), max(unit.old_size, unit.new_size)
    if shop.target is None or unit.new_size <= HEAD_BYTES:
        return [Place(0, size, scratch, 0)]
    seal = unit.vault.target_seal if unit.vault else None
    direct = [
        Place(start, end, shop.target.fd, start + distance, seal)
        for start, end, distance in unit.new.split(HEAD_BYTES, unit.new_size)
    ]
    return [Place(0, HEAD_BYTES, scratch, 0), *direct, Place(unit.new_size, size, scratch, unit.new_size)]


def _views(shop: Shop, unit: Unit, store: Store) -> list[View]:
    pieces = [(move.start + move.distance, move.end - move.start) for move in unit.old.moves]
    path = shop.source.name
    image = unit.vault.base(path, pieces) if unit.vault else Base.of_image(path, pieces)
    if unit.way.kind == "tool":
        return [View(_VOLUME, image, store)]
    journal = Store.in_scratch(shop.stack, unit.old_size, shop.folder)
    return [View(_VOLUME, Base.of_zeros(unit.new_size), store), View(_OLD, image, journal)]


def _make(shop: Shop, unit: Unit, there: Shown) -> None:
    old = there.path(_OLD) if unit.way.kind == "anew" else ""
    sizes = unit.old_size, unit.new_size, shop.plan.sector_there
    work = Work(unit.content, there.path(_VOLUME), old, *sizes, progress=shop.progress)
    shop.progress.start(None, f"make {unit.name} smaller" if unit.new_size < unit.old_size else f"make {unit.name}")
    make = make_anew if unit.way.kind == "anew" else MAKERS[unit.content.type]
    try:
        make(work)
    finally:
        shop.progress.done()
    shop.told.extend(f"{unit.name}: {text}" for text in work.told)
    if there.size(_VOLUME) > unit.new_size:
        os.truncate(there.path(_VOLUME), unit.new_size)


def _failed(unit: Unit, there: Shown, error: ImagerError) -> ImagerError:
    """The error, with what is behind it: a program sees only that something could not be read or written."""
    names = [_VOLUME, *([_OLD] if unit.way.kind == "anew" else [])]
    behind = next((name for name in names if there.problem(name)), "")
    reason = f"{there.problem(behind)} ({error.message})" if behind else error.message
    kind, hint = _KINDS.get(there.cause(behind) if behind else "", (VolumeFailed, error.hint or _NOT_IN_ORDER))
    return kind(
        f"{unit.name} could not be made {'smaller' if unit.new_size < unit.old_size else 'anew'}: {reason}",
        hint=hint,
        number=unit.number,
    )


def _base(shop: Shop, unit: Unit) -> BlockReader:
    """What lies under the view."""
    if unit.way.kind == "anew":
        return Base.of_zeros(unit.new_size).opened(shop.stack)
    disk, start = (unit.vault.plain, unit.vault.image_start) if unit.vault else (shop.disk, 0)
    moves = unit.old.moves
    return Segments([Segment(disk, move.start + move.distance - start, move.end - move.start) for move in moves])


def _used(unit: Unit, there: Shown, after: Overlay) -> Extents:
    """What is in use now. That is more than what was written: a tool may leave zeros out that count."""
    from imager.examine import Volume, examine  # not on top: all parsers, which most restores do not need

    kind = unit.entry.type if unit.entry else ""
    return examine(Volume(after, there.path(_VOLUME), partition_type=kind)).used


def _mend(shop: Shop, unit: Unit, entry: Partition, after: Overlay) -> None:
    """Boot sectors that say where the volume starts."""
    smaller = replace(entry, end=entry.start + unit.new_size)
    start, there = unit.new.moves[0].distance, shop.plan.sector_there
    for offset, content in mended(smaller, _Shifted(after, entry.start), shop.sector_bytes, start, there):
        after.write(offset - entry.start, content)


def _divided(shop: Shop, unit: Unit, after: Overlay, used: Extents) -> Done:
    """What comes from the image, what from the view, and what is on the target already."""
    dirty, take, there = after.dirty, Extents(), Extents()
    moves = list(joined(unit.old, unit.new))
    if unit.way.kind == "tool":
        take = in_image(shop, unit.old).clip(0, unit.new_size) - dirty
    if shop.target is not None and unit.new_size > HEAD_BYTES:
        there = dirty.clip(HEAD_BYTES, unit.new_size)
    if unit.vault is not None:
        return _sealed(unit, unit.vault, Extra(after, used, unit.new, there, unit.vault.seal), take & used, moves)
    extra = Extra(after, used - take - there, unit.new, there)
    return Done((extra,), unit.old.to_target(take), tuple(moves))


def _sealed(unit: Unit, vault: Vault, extra: Extra, take: Extents, moves: list[Move]) -> Done:
    """The same in a container: only what stays in its place has its ciphertext in the image."""
    staying = vault.staying(moves)
    taken = unit.old.to_target(take) & Extents.of((move.start, move.end) for move in staying)
    from_image = Extents.union_of(
        taken.clip(move.start + move.distance, move.end + move.distance).shift(-move.distance)
        for move in unit.old.moves
    )
    rest = (extra.used - from_image - extra.there).align_outward(vault.sealer.sector_bytes, unit.new_size)
    return Done((replace(extra, used=rest),), taken, tuple(staying))


def in_image(shop: Shop, old: Moves) -> Extents:
    """What of a volume the image has in its chunks; offsets in the volume."""
    chunks = shop.source.used.align_outward(shop.plan.chunk_size, shop.plan.disk_size)
    return Extents.union_of(
        chunks.clip(move.start + move.distance, move.end + move.distance).shift(-move.distance) for move in old.moves
    )


def joined(old: Moves, new: Moves) -> Iterator[Move]:
    """From the image to the target, for what a volume has in both."""
    for move in new.moves:
        for start, end, distance in old.split(move.start, move.end):
            yield Move(start + distance, end + distance, move.distance - distance)


class _Shifted(BlockReader):
    """A volume at the offsets that it has on its disk."""

    def __init__(self, volume: BlockReader, start: int) -> None:
        self.size = start + volume.size
        self.sector_size = volume.sector_size
        self._volume = volume
        self._start = start

    def _read(self, offset: int, length: int) -> bytes:
        return self._volume.read(offset - self._start, length)
