# SPDX-License-Identifier: GPL-3.0-or-later
"""A physical volume that becomes smaller: logical volumes are made smaller and moved, without device-mapper.

Each logical volume is a volume by itself: its extents in the image are its old place, its extents on the target the new
one, and everything else is as with partitions. What LVM itself needs is made by lvm on a blank file: pvcreate with the
old UUID, and the metadata with new numbers in it, as after the loss of a disk (vgcfgrestore(8), pvcreate(8)).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from imager.blocks import BlockReader, OutOfRange
from imager.errors import TargetTooSmall, VolumeFailed
from imager.extents import Extents
from imager.fitting.volumes import VolumeSize
from imager.opening.lvm import lvm
from imager.overlay import Base, Store, View, device, shown
from imager.process import ProgramFailed
from imager.restore.placement import Move, Moves
from imager.restore.shrinking_units import Done, Shop, Unit, Vault, carry_out, in_image, joined
from imager.restore.smaller import Smaller
from imager.restore.write import Extra
from imager.volumes.lvm.label import BadLabel, dashed, read_label, read_metadata_area
from imager.volumes.lvm.model import VolumeGroup, read_group
from imager.volumes.lvm.smaller import CannotMove, Part, Run, is_linear, plan_smaller, runs_of
from imager.volumes.lvm.text import BadText

_PV = "pv"


@dataclass(frozen=True)
class Where:
    """Where a physical volume lies.

    Attributes:
        image_start: Its first byte in the image.
        target_start: Its first byte on the target.
        new_size: Its size on the target.
        vault: The container that it lies in.
    """

    image_start: int
    target_start: int
    new_size: int
    vault: Vault | None = None


class Group:
    """A physical volume that holds all of its volume group, and where everything in it goes."""

    def __init__(self, reader: BlockReader, where: Where, smaller: Smaller) -> None:
        """Read the group and find a place for everything.

        Args:
            reader: The physical volume, as plain text.
            where: Where it lies.
            smaller: What the plan says.

        Raises:
            VolumeFailed: Its metadata cannot be used.
            TargetTooSmall: Not all of it fits.
        """
        self._where, self._sizes, self._number = where, smaller.volumes, smaller.place.number
        self._reader = reader
        try:
            self._label = read_label(reader)
            texts = [read_metadata_area(reader, area).text for area in self._label.metadata_areas]
            groups = [read_group(text) for text in texts if text]
        except (BadLabel, BadText, OutOfRange) as error:
            raise self._unusable(str(error)) from error
        if not groups:
            raise self._unusable("it holds no metadata of a volume group")
        self._group: VolumeGroup = max(groups, key=lambda group: group.seqno)
        self._extent = self._group.extent_bytes
        pvs = list(self._group.pvs.values())
        if len(pvs) != 1 or pvs[0].id != self._label.pv_uuid:
            raise self._unusable("it does not hold all of its volume group")
        self._pe_start = pvs[0].pe_start
        try:
            self._plan = plan_smaller(self._group, where.new_size, dict(self._counts()))
        except CannotMove as error:
            raise TargetTooSmall(
                f"volume group {self._group.name} in partition {self._number} does not fit into "
                f"{where.new_size} bytes: {error}",
                hint="Choose a larger disk, or give the partition more room with --plan.",
                number=self._number,
            ) from error

    def _unusable(self, reason: str) -> VolumeFailed:
        return VolumeFailed(
            f"the physical volume in partition {self._number} cannot be made smaller: {reason}",
            hint="Choose a larger disk.",
            number=self._number,
        )

    def _counts(self) -> Iterator[tuple[str, int]]:
        """New extents of the volumes that become smaller."""
        for size in self._sizes:
            name = _own(size)
            lv = self._group.lvs.get(name)
            if lv is None or not is_linear(lv):
                raise self._unusable(f"{size.name} is no linear volume")
            yield name, min(lv.extent_count, size.new_size // self._extent) if size.is_smaller else lv.extent_count

    @property
    def units(self) -> list[Unit]:
        """The volumes that are made smaller or anew."""
        return [self._unit(size) for size in self._sizes]

    def carry_out(self, shop: Shop) -> list[Done]:
        """Make the volumes smaller and the group anew.

        Raises:
            VolumeFailed: It cannot be done.
        """
        smaller = {_own(size): size for size in self._sizes}
        done = [carry_out(shop, unit) for unit in self.units]
        done += [
            self._moved(shop, [part]) for name, parts in self._plan.volumes.items() if name not in smaller
            for part in parts
        ]  # fmt: skip
        return [*done, self._metadata(shop)]

    def _unit(self, size: VolumeSize) -> Unit:
        name = _own(size)
        old = self._old(runs_of(self._group.lvs[name]))
        new = self._new(self._plan.volumes[name])
        return Unit(
            name=size.name,
            number=self._number,
            content=size.content,
            way=size.way,
            old=old,
            new=new,
            old_size=old.moves[-1].end,
            new_size=new.moves[-1].end,
            vault=self._where.vault,
        )

    def _old(self, runs: Sequence[Run]) -> Moves:
        """From the offsets of a volume to the image."""
        return Moves(tuple(self._move(run, run.place, self._where.image_start) for run in runs))

    def _new(self, parts: Sequence[Part]) -> Moves:
        """From the offsets of a volume to the target."""
        return Moves(tuple(self._move(part.run, part.place, self._where.target_start) for part in parts))

    def _move(self, run: Run, extent: int, start: int) -> Move:
        first = run.start * self._extent
        place = start + self._pe_start + extent * self._extent
        return Move(first, first + run.count * self._extent, place - first)

    def _moved(self, shop: Shop, parts: Sequence[Part]) -> Done:
        """Extents that come from the image as they are."""
        old, new = self._old([part.run for part in parts]), self._new(parts)
        take, moves = old.to_target(in_image(shop, old)), tuple(joined(old, new))
        vault = self._where.vault
        if vault is None or vault.staying(moves):
            return Done((), take, moves)
        start = vault.image_start  # the reader knows offsets of the plain text
        places = Moves(tuple(Move(each.start - start, each.end - start, each.distance + start) for each in moves))
        plain = take.shift(-start).align_outward(vault.sealer.sector_bytes)
        return Done((Extra(self._reader, plain, places, seal=vault.seal),))

    def _metadata(self, shop: Shop) -> Done:
        """Label and metadata, made by lvm on a blank file."""
        size = self._where.new_size
        store = Store.in_scratch(shop.stack, size, shop.folder)
        with shown([View(_PV, Base.of_zeros(size), store)]) as there:
            with (
                _in_memory(self._plan.text) as file,
                device(there.path(_PV), size, sector_size=shop.plan.sector_there) as node,
            ):
                try:
                    self._restore(file, node)
                except ProgramFailed as error:
                    raise self._unusable(error.message) from error
            after = there.after(_PV, shop.stack)
        end = self._pe_start + max(0, size - self._pe_start) // self._extent * self._extent
        used = Extents.of([(0, self._pe_start), (end, size)])
        seal = self._where.vault.seal if self._where.vault else None
        return Done((Extra(after, used, Moves((Move(0, size, self._where.target_start),)), seal=seal),))

    def _restore(self, file: str, node: str) -> None:
        words = ("--uuid", dashed(self._label.pv_uuid), "--restorefile", file)
        lvm("pvcreate", *words, "--setphysicalvolumesize", f"{self._where.new_size}b", node, devices=[node])
        lvm("vgcfgrestore", "--force", "--file", file, self._group.name, devices=[node])
        lvm("vgck", self._group.name, devices=[node])


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """A text as a file for another program, of which nothing stays when this one is killed (memfd_create(2))."""
    with os.fdopen(os.memfd_create("metadata"), "w") as file:
        file.write(text)
        file.flush()
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}"


def _own(size: VolumeSize) -> str:
    """The name of a logical volume without its group's."""
    return size.name.partition("/")[2]
