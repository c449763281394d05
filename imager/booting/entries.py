# SPDX-License-Identifier: GPL-3.0-or-later
"""Which boot entries the firmware needs for a restored disk: a plan that can be printed and tested.

An entry names a partition by its GUID, its number, and where it lies. After a restore an entry may still fit; it may
name a place where the partition no longer is; or it may name a disk that is gone. For each folder of loaders on the
restored EFI system partitions there is one answer: an entry that fits is kept, what does not fit is made again with
the same name, file and arguments, and where there is none, one is made from what lies in the folder. What belongs to
other disks is left alone, and entries for disks that are not there stay: they may come back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from imager.booting.device_path import HardDrive
from imager.booting.firmware import Firmware
from imager.booting.load_option import LoadOption
from imager.booting.loaders import Loader, folder_of
from imager.booting.system_partition import SystemPartition


@dataclass(frozen=True)
class NewEntry:
    """A boot entry to make.

    Attributes:
        loader: Its name, file and arguments.
        partition: Where the file lies.
        disk: The disk, for efibootmgr.
        replaces: The entry of the same partition that is removed when this one is there.
        like: The entry of a disk that is gone from which name and arguments come.
    """

    loader: Loader
    partition: HardDrive
    disk: str = ""
    replaces: int | None = None
    like: int | None = None

    def fits(self, option: LoadOption) -> bool:
        """Whether an entry of the firmware is this one."""
        return (
            option.is_active
            and option.partition == self.partition
            and option.file.casefold() == self.loader.file.casefold()
            and option.arguments == self.loader.arguments
        )

    def sentence(self) -> str:
        """What is made, for the plan."""
        why = ""
        if self.replaces is not None:
            why = f", in the place of {entry_name(self.replaces)}, whose partition is elsewhere now"
        elif self.like is not None:
            why = f", like {entry_name(self.like)} of a disk that is gone"
        return (
            f'make the boot entry "{self.loader.label}": {self.loader.file} on partition {self.partition.number} '
            f"({self.partition.signature}){why}"
        )


@dataclass(frozen=True)
class EntryPlan:
    """What happens to the firmware's boot entries.

    Attributes:
        first: What is tried first, in order: entries that are there, by number, and those that are made.
        order: The order as it is now.
        notes: What else the user should know.
    """

    first: tuple[int | NewEntry, ...] = ()
    order: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def new(self) -> tuple[NewEntry, ...]:
        """The entries that are made."""
        return tuple(each for each in self.first if isinstance(each, NewEntry))

    @property
    def removed(self) -> tuple[int, ...]:
        """The entries that others take the place of."""
        return tuple(each.replaces for each in self.new if each.replaces is not None)

    def order_with(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """The order afterwards, when the new entries have got these numbers."""
        given = iter(numbers)
        first = [each if isinstance(each, int) else next(given) for each in self.first]
        rest = [number for number in self.order if number not in first and number not in self.removed]
        return (*first, *rest)

    @property
    def is_needed(self) -> bool:
        """Whether the firmware has to be changed at all."""
        return bool(self.new) or self.order[: len(self.first)] != self.first

    def sentences(self) -> Iterator[str]:
        """What is done, for the plan."""
        for entry in self.new:
            yield entry.sentence()
        if self.is_needed:
            names = (entry_name(each) if isinstance(each, int) else f'"{each.loader.label}"' for each in self.first)
            yield f"let the firmware try first: {', '.join(names)}; the other entries come after"


def entry_name(number: int) -> str:
    """How firmware and efibootmgr call an entry."""
    return f"Boot{number:04X}"


@dataclass(frozen=True)
class _Group:
    """The answer for one folder of loaders."""

    entries: tuple[int | NewEntry, ...]
    place: tuple[int, int]
    """To sort by: where the firmware tried it until now, then which loader it is."""


def plan_entries(firmware: Firmware, partitions: Sequence[SystemPartition], present: Collection[str]) -> EntryPlan:
    """Decide which entries are kept, made and tried first.

    Args:
        firmware: The entries as they are.
        partitions: The EFI system partitions of the restored disks.
        present: The signatures of all partitions that any disk of the machine has after the restore.
    """
    groups = [
        group for partition in partitions for group in _groups(firmware, partition, {each.lower() for each in present})
    ]
    groups.sort(key=lambda group: group.place)
    first = tuple(dict.fromkeys(entry for group in groups for entry in group.entries))
    return EntryPlan(first, firmware.order, tuple(_notes(firmware, partitions, first)))


def _groups(firmware: Firmware, system: SystemPartition, present: Collection[str]) -> Iterator[_Group]:
    for rank, folder in enumerate(dict.fromkeys(folder_of(loader.file) for loader in system.loaders)):
        loaders = [loader for loader in system.loaders if folder_of(loader.file) == folder]
        here = {
            number: option
            for number, option in firmware.entries.items()
            if option.is_active and folder_of(option.file) == folder and option.file.casefold() in system.files
        }
        entries, olds = _answer(here, system, loaders, present)
        places = [firmware.order.index(number) for number in olds if number in firmware.order]
        is_windows = any(loader.is_windows for loader in loaders)
        yield _Group(entries, (min(places, default=len(firmware.order) + is_windows), rank))


def _answer(
    here: dict[int, LoadOption], system: SystemPartition, loaders: Sequence[Loader], present: Collection[str]
) -> tuple[tuple[int | NewEntry, ...], list[int]]:
    """The entries for one folder, and the present ones that they are or are made from."""
    of_partition = {number: each for number, each in here.items() if _is_of(each, system.partition)}
    if of_partition:
        kept = [number for number, option in of_partition.items() if option.partition == system.partition]
        moved = _made_again(of_partition, kept, system)
        return (*kept, *moved), list(of_partition)
    gone = {number: option for number, option in here.items() if _signature(option) not in ("", *present)}
    if gone:
        made: dict[LoadOption, NewEntry] = {}
        for number, option in gone.items():
            entry = NewEntry(_loader_of(option), system.partition, system.disk, like=number)
            made.setdefault(LoadOption(option.description, (), 0, option.arguments), entry)
        return tuple(made.values()), list(gone)
    return tuple(NewEntry(loader, system.partition, system.disk) for loader in loaders), []


def _made_again(options: dict[int, LoadOption], kept: Sequence[int], system: SystemPartition) -> list[NewEntry]:
    """New entries for those that name another place of the same partition."""
    return [
        NewEntry(_loader_of(option), system.partition, system.disk, replaces=number)
        for number, option in options.items()
        if number not in kept
    ]


def _is_of(option: LoadOption, partition: HardDrive) -> bool:
    """Whether an entry means a partition, wherever it says that it lies; in an MBR all have the disk's signature."""
    is_it = _signature(option) == partition.signature
    return is_it and (
        partition.is_gpt or (option.partition is not None and option.partition.number == partition.number)
    )


def _signature(option: LoadOption) -> str:
    return option.partition.signature if option.partition else ""


def _loader_of(option: LoadOption) -> Loader:
    return Loader(option.description, option.file, option.arguments)


def _notes(firmware: Firmware, partitions: Sequence[SystemPartition], first: Sequence[int | NewEntry]) -> Iterator[str]:
    for system in partitions:
        where = f"EFI system partition {system.partition.number}"
        if system.problem:
            yield f"{where} cannot be read: {system.problem}"
        elif not system.loaders:
            yield f"{where} holds no boot loader that is known"
    for each in first:
        if isinstance(each, NewEntry) and each.like is not None:
            yield (
                f"{entry_name(each.like)} points to a disk that is not there; it stays, and "
                f"`efibootmgr --bootnum {each.like:04X} --delete-bootnum` removes it"
            )
    if partitions and not firmware.can_write:
        yield "the firmware's variables cannot be written on this machine: choose the disk in the firmware's menu"
