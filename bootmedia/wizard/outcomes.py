# SPDX-License-Identifier: GPL-3.0-or-later
"""How a command ended, in words for people, and what comes next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bootmedia.wizard.running import Outcome
from imager.pictures.sizes import duration_text, size_text

_MEANINGS: Final = {
    1: "a program failed",
    2: "the command cannot be carried out as it was given",
    3: "the disk that is read",
    4: "the image is damaged, incomplete, or made by a newer version",
    5: "the place of the image: missing, full, not permitted, or it does not answer",
    6: "the disk that is written: refused, too small, or a write failed",
    7: "done, but some content is missing",
    8: "differences were found",
    9: "nobody agreed to the plan",
    10: "restored, but what comes after the last byte did not all work",
    130: "cancelled",
    143: "cancelled",
}
LACKING: Final = 7
_AFTERWARDS: Final = 10


def result_lines(outcome: Outcome, said: Sequence[str]) -> Iterator[str]:
    """What was done, with the numbers that the command gave."""
    if outcome.is_well:
        yield "All that was asked for is done."
    else:
        yield f"Exit status {outcome.status}: {_MEANINGS.get(outcome.status, 'it failed')}."
        if outcome.message:
            yield outcome.message
        if outcome.hint:
            yield outcome.hint
        if outcome.state:
            yield f"The disk: {outcome.state}."
    yield ""
    facts = outcome.facts()
    for result in facts.get("results") or (facts.get("result"),):
        yield from _restored(result)
    yield from _afterwards(facts.get("afterwards_results"))
    for image in facts.get("images") or ():
        yield from _captured(image)
    yield from (f"warning: {text}" for text in (*(facts.get("warnings") or ()), *(facts.get("set_warnings") or ())))
    if facts.get("report"):
        yield f"report: {facts['report']}"
    if not outcome.is_well:
        yield from said[-5:]


def _restored(result: object) -> Iterator[str]:
    """One disk."""
    if not isinstance(result, dict):
        return
    if "written_bytes" not in result:
        if result.get("error"):
            yield f"{result.get('target', 'the disk')}: NOT RESTORED: {result['error']}"
        return
    written, seconds = int(result["written_bytes"]), float(result.get("seconds") or 0)
    rate = size_text(round(written / max(seconds, 1e-9)))
    verified = ", and read back: it is the same" if result.get("verified") else ""
    yield f"{size_text(written)} written to {result.get('target', 'the disk')}{verified}"
    yield f"in {duration_text(seconds)} ({rate}/s)"
    yield from (f"  {text}" for text in result.get("changes") or ())
    yield from (f"warning: {text}" for text in result.get("result_warnings") or ())
    yield from _afterwards(result.get("afterwards"))


def _afterwards(stages: object) -> Iterator[str]:
    """What was done in restored systems: grown, repaired, entered into the firmware."""
    for stage in stages if isinstance(stages, list) else ():
        if isinstance(stage, dict):
            yield from (f"  {text}" for text in stage.get("sentences") or ())
            yield from (f"warning: {text}" for text in stage.get("warnings") or ())
            yield from (f"DID NOT WORK: {text}" for text in stage.get("failures") or ())


def _captured(image: object) -> Iterator[str]:
    if isinstance(image, dict) and "image" in image:
        yield f"{image.get('source', '')} -> {image['image']}"


def what_next(outcome: Outcome, *, wrote: bool, disks: int = 1) -> str:
    """One sentence for a tired person.

    Args:
        outcome: How the command ended.
        wrote: It writes to disks.
        disks: To how many.
    """
    several = disks > 1
    if outcome.is_well:
        done = f"All {disks} disks are restored." if several else "The disk is restored."
        return f"{done} Take the medium out and reboot." if wrote else "All is well."
    if outcome.status == LACKING:
        return "Done, but content is missing: check the file systems before the machine is used."
    if outcome.status == _AFTERWARDS:
        done = f"All {disks} disks are" if several else "The disk is"
        return f"{done} restored, but not all that comes after it: read why below."
    if outcome.cancelled and wrote:
        what = "Not every disk is written, and the machine" if several else "The disk is half written and"
        return f"Cancelled. {what} will not start: restore again."
    if wrote:
        what = "Not every disk is restored." if several else "The disk is not restored."
        return f"{what} Read why below, then restore again."
    return "This did not work. Read why below; no disk was written."
