# SPDX-License-Identifier: GPL-3.0-or-later
"""From a rule and the disks of a machine to the one disk that is written, or to a refusal.

Pure. Never one of two that fit, never what holds the medium, the image or the running system. A rule by size
considers only disks that are built in: a backup disk that somebody left plugged in is larger than the machine's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bootmedia.recovery.naming import Rule
from imager.errors import TargetRefused, TargetTooSmall
from imager.pictures.sizes import size_text

_NOT_BUILT_IN: Final = frozenset(
    ("usb", "firewire", "loop", "nbd", "rbd", "iscsi", "fc", "file", "md", "dm", "multipath", "bcache")
)
"""Transports of disks that are plugged in, reached over a network, or made of other disks: taken only by name."""
HOLDS_SYSTEM: Final = "holds the running system"
"""As the reason why a disk is kept."""


@dataclass(frozen=True)
class Candidate:
    """A disk, as far as the choice depends on it.

    Attributes:
        path: The device.
        names: Every path and link that leads to it.
        partitions: Their sizes, by number.
        kept: Why it must never be written, as a verb and its object; "" when it may.
        obstacle: Why it cannot be written now; "" when it can.
    """

    path: str
    names: frozenset[str] = frozenset()
    model: str = ""
    serial: str = ""
    wwn: str = ""
    transport: str = ""
    size_bytes: int = 0
    sector_bytes: int = 512
    is_removable: bool = False
    partitions: dict[int, int] = field(default_factory=dict)
    kept: str = ""
    obstacle: str = ""

    @property
    def is_built_in(self) -> bool:
        """Whether a rule that does not name it may take it."""
        return not self.is_removable and not self.transport.startswith("nvme-") and self.transport not in _NOT_BUILT_IN

    def __str__(self) -> str:
        about = (self.model, f"serial {self.serial}" if self.serial else "", self.transport, size_text(self.size_bytes))
        return f"{self.path} ({', '.join(part for part in about if part)})"

    def as_dict(self) -> dict[str, Any]:
        """What a report says of it."""
        facts = ("path", "model", "serial", "wwn", "transport", "size_bytes", "sector_bytes", "kept", "obstacle")
        return {name: getattr(self, name) for name in facts}


@dataclass(frozen=True)
class Need:
    """What an image needs of a disk.

    Attributes:
        sector_bytes: The logical sector size that it must have.
        full_bytes: Size of the disk that the image is of.
        least_bytes: The smallest disk that holds all of its partitions; of a partition, its size.
        onto: The partition of the target that is written; None for the whole disk.
        is_fitted: Partitions are fitted to the disk, so it may have other sectors.
    """

    sector_bytes: int
    full_bytes: int
    least_bytes: int
    onto: int | None = None
    is_fitted: bool = False

    def shortfall(self, disk: Candidate) -> str:
        """Why the image does not fit onto a disk, as the rest of a sentence about it; "" when it does."""
        if disk.sector_bytes != self.sector_bytes and not self.is_fitted:
            return f"has sectors of {disk.sector_bytes} bytes, and the image needs {self.sector_bytes}"
        if self.onto is not None:
            return self._partition_shortfall(disk.partitions)
        usable = disk.size_bytes // disk.sector_bytes * disk.sector_bytes
        if disk.size_bytes >= self.full_bytes or usable >= self.least_bytes:
            return ""
        return f"has {size_text(disk.size_bytes)}, and the image needs {size_text(self.least_bytes)}"

    def _partition_shortfall(self, partitions: dict[int, int]) -> str:
        size = partitions.get(self.onto or 0)
        if size is None:
            return f"has no partition {self.onto}"
        if size < self.least_bytes:
            return f"has a partition {self.onto} of {size_text(size)}, and {size_text(self.least_bytes)} are needed"
        return ""


@dataclass(frozen=True)
class Choice:
    """The disk that is written, and why this one."""

    disk: Candidate
    why: str


def choose(rule: Rule, need: Need, disks: Sequence[Candidate]) -> Choice:
    """The one disk that a rule means.

    Raises:
        TargetRefused: No disk fits the rule, or more than one, or the one must not or cannot be written.
        TargetTooSmall: The one that fits the rule is too small.
    """
    named = {"serial": _by_serial, "wwn": _by_wwn, "path": _by_path}
    if rule.kind in named:
        fitting = [disk for disk in disks if named[rule.kind](disk, rule.value)]
        found = _the_one(rule, fitting, disks)
        why = f"its {'name' if rule.kind == 'path' else rule.kind} is {rule.value}"
    else:
        eligible = [disk for disk in disks if not disk.kept and disk.is_built_in]
        found = _the_one(rule, _by_size(rule, need, eligible), disks)
        why = _why(rule, len(eligible))
    _check(found, need)
    return Choice(found, why)


def _by_serial(disk: Candidate, value: str) -> bool:
    return disk.serial.casefold() == value.casefold()


def _by_wwn(disk: Candidate, value: str) -> bool:
    return bool(disk.wwn) and _bare(disk.wwn) == _bare(value)


def _bare(wwn: str) -> str:
    """A WWN without the prefix that some tools write and others do not."""
    return wwn.casefold().removeprefix("0x").removeprefix("naa.").removeprefix("eui.")


def _by_path(disk: Candidate, value: str) -> bool:
    return value == disk.path or value in disk.names


def _by_size(rule: Rule, need: Need, eligible: Sequence[Candidate]) -> list[Candidate]:
    """All that fit the rule equally well."""
    if rule.kind == "only":
        return list(eligible)
    if rule.kind == "largest":
        most = max((disk.size_bytes for disk in eligible), default=0)
        return [disk for disk in eligible if disk.size_bytes == most]
    fitting = [disk for disk in eligible if not need.shortfall(disk)]
    least = min((disk.size_bytes for disk in fitting), default=0)
    return [disk for disk in fitting if disk.size_bytes == least]


def _why(rule: Rule, count: int) -> str:
    if rule.kind == "only" or count == 1:
        return "it is the only disk that is built in and may be written"
    which = "the largest" if rule.kind == "largest" else "the smallest that the image fits onto"
    return f"it is {which} of the {count} disks that are built in and may be written"


def _the_one(rule: Rule, fitting: Sequence[Candidate], disks: Sequence[Candidate]) -> Candidate:
    if len(fitting) == 1:
        return fitting[0]
    facts = {"rule": str(rule), "disks": [disk.path for disk in fitting]}
    if fitting:
        raise TargetRefused(
            f"{len(fitting)} disks fit the rule {rule}, and nobody is asked which is meant: "
            f"{', '.join(map(str, fitting))}",
            hint=f"Name one of them in recovery.toml{_example(fitting)}.",
            **facts,
        )
    raise TargetRefused(
        f"no disk fits the rule {rule}", hint=f"This machine has {_listed(disks) or 'no disks'}.", **facts
    )


def _example(fitting: Iterable[Candidate]) -> str:
    serials = [disk.serial for disk in fitting]
    first = serials[0]
    return f', as in target = "serial={first}"' if first and serials.count(first) == 1 else " by wwn= or path="


def _listed(disks: Sequence[Candidate]) -> str:
    return "; ".join(f"{disk}{_passed_over(disk)}" for disk in disks)


def _passed_over(disk: Candidate) -> str:
    if disk.kept:
        return f" which {disk.kept}"
    return "" if disk.is_built_in else " which is taken only by serial=, wwn= or path="


def _check(disk: Candidate, need: Need) -> None:
    if disk.kept:
        raise TargetRefused(
            f"{disk} {disk.kept}: it would be overwritten while it is needed",
            hint="Name another disk, or move the image to another place.",
            path=disk.path,
        )
    short = need.shortfall(disk)
    if short:
        kind = TargetRefused if "sectors" in short or "no partition" in short else TargetTooSmall
        raise kind(f"{disk} {short}", hint="Put in a disk that fits, or name another one.", path=disk.path)
    if disk.obstacle:
        raise TargetRefused(
            f"{disk} cannot be written now: {disk.obstacle}", hint="Set it free, then start again.", path=disk.path
        )


def refuse_shared(choices: Sequence[tuple[Choice, int | None]]) -> None:
    """Refuse when two restores would write to the same place; partitions of one disk are different places.

    Raises:
        TargetRefused: They do.
    """
    for later, (choice, onto) in enumerate(choices):
        for earlier, (other, other_onto) in enumerate(choices[:later]):
            overlaps = onto is None or other_onto is None or onto == other_onto
            if choice.disk.path == other.disk.path and overlaps:
                raise TargetRefused(
                    f"restore {earlier + 1} and restore {later + 1} would both be written to {choice.disk}",
                    hint="Give each a target of its own, by serial=, wwn= or path=.",
                    path=choice.disk.path,
                )
