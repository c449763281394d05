# SPDX-License-Identifier: GPL-3.0-or-later
"""What a disk says of its own health, from smartctl's JSON, in one line and in a verdict.

References: smartctl(8) --json; NVM Express base specification 2.0, figure 207 (health log); ATA attributes 5, 197, 198,
as all vendors number them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from bootmedia.wizard.pipeline import Pipeline

Verdict = Literal["good", "worn", "failing", "unknown"]
_COUNTED: Final = {5: "reallocated", 197: "pending", 198: "uncorrectable"}
_WORN_AT_PERCENT: Final = 100
_CRITICAL: Final = ("spare used up", "temperature", "unreliable", "read-only", "its backup power failed")
"""The bits of an NVMe disk's Critical Warning, from the lowest."""


@dataclass(frozen=True)
class Health:
    """One disk.

    Attributes:
        facts: Name and value, in words for people.
        text: All that smartctl says.
        problem: Why nothing is known; "" when something is.
    """

    verdict: Verdict
    facts: tuple[tuple[str, str], ...] = ()
    text: tuple[str, ...] = ()
    problem: str = ""

    def summary(self) -> str:
        """One line."""
        if self.problem:
            return self.problem
        return ", ".join(f"{name} {value}" for name, value in self.facts) or "it says nothing of its health"


def command(path: str) -> Pipeline:
    """What asks a disk."""
    return Pipeline.of("smartctl", "--json=o", "--all", path)


def health_of(said: Mapping[str, Any]) -> Health:
    """From smartctl's JSON. Its exit status is a set of flags, and not used here."""
    about = _part(said, "smartctl")
    text = tuple(map(str, about.get("output") or ()))
    messages = [str(each.get("string", "")) for each in about.get("messages") or () if isinstance(each, dict)]
    passed = _part(said, "smart_status").get("passed")
    if passed is None and not _part(said, "nvme_smart_health_information_log"):
        return Health("unknown", text=text, problem=" ".join(messages) or "it does not tell (no SMART)")
    worries = dict(_worries(said))
    return Health(_verdict(passed, worries, said), tuple(_facts(said, passed, worries)), text)


def _verdict(passed: object, worries: Mapping[str, int], said: Mapping[str, Any]) -> Verdict:
    log = _part(said, "nvme_smart_health_information_log")
    if passed is False or log.get("critical_warning"):
        return "failing"
    worn = _number(log.get("percentage_used"))
    return "worn" if any(worries.values()) or (worn is not None and worn >= _WORN_AT_PERCENT) else "good"


def _worries(said: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Counts that are 0 on a disk without faults."""
    for row in _part(said, "ata_smart_attributes").get("table") or ():
        if isinstance(row, dict) and row.get("id") in _COUNTED:
            yield _COUNTED[row["id"]], _number(_part(row, "raw").get("value")) or 0
    log = _part(said, "nvme_smart_health_information_log")
    if "media_errors" in log:
        yield "media errors", _number(log["media_errors"]) or 0
    grown = _number(said.get("scsi_grown_defect_list"))
    if grown is not None:
        yield "grown defects", grown


def _facts(said: Mapping[str, Any], passed: object, worries: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    yield "self-test", {True: "passed", False: "FAILING"}.get(passed is True, "") if passed is not None else "no answer"
    warned = _number(_part(said, "nvme_smart_health_information_log").get("critical_warning")) or 0
    yield from (("WARNING:", name) for bit, name in enumerate(_CRITICAL) if warned >> bit & 1)
    yield from ((name, str(count)) for name, count in worries.items())
    degrees = _number(_part(said, "temperature").get("current"))
    if degrees is not None:
        yield "temperature", f"{degrees} C"
    hours = _number(_part(said, "power_on_time").get("hours"))
    if hours is not None:
        yield "hours", str(hours)
    worn = _number(_part(said, "nvme_smart_health_information_log").get("percentage_used"))
    if worn is not None:
        yield "worn", f"{worn} %"


def _part(said: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = said.get(name)
    return found if isinstance(found, dict) else {}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
