# SPDX-License-Identifier: GPL-3.0-or-later
"""A clone: a disk is read once and written to several targets, each by its own plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imager.capture.clone import clone
from imager.capture.options import CaptureOptions
from imager.devices.opening import DiskReader
from imager.devices.target import TargetDisk
from imager.errors import ImagerError, Interrupted
from imager.extents import Extents
from imager.image.description import FinalFacts
from imager.progress import Progress
from imager.restore.plan import Plan
from imager.restore.receiving import Receiver, RestoreResult
from imager.survey import Survey


@dataclass(frozen=True)
class Cloned:
    """What a clone did.

    Attributes:
        outcomes: For each target, what was written, or what went wrong with it.
        unreadable: Used ranges of the source that could not be read; zeros were written there.
    """

    outcomes: tuple[RestoreResult | ImagerError, ...]
    unreadable: Extents


def clone_onto(
    plans: Sequence[Plan],
    targets: Sequence[TargetDisk],
    source: DiskReader,
    survey: Survey,
    options: CaptureOptions,
    progress: Progress,
) -> Cloned:
    """Write a disk onto targets; one that fails is left out, the others go on.

    Args:
        plans: One for each target, made from the source's survey.
        targets: Open for writing; they stay open.
        source: The disk, open for reading.
        survey: Its survey.
        options: How it is read.
        progress: Told of every byte read, and of every byte read back.

    Raises:
        SourceError: The source could not be read to its end: every target is incomplete.
        TargetError: No target is left.
        Interrupted: The user ended it.
    """
    receivers = [
        Receiver(plan, target, threads=options.threads, reading_back=progress)
        for plan, target in zip(plans, targets, strict=True)
    ]
    failures: list[ImagerError | None] = [_begin(receiver) for receiver in receivers]
    started = [index for index, failure in enumerate(failures) if failure is None]
    if not started:
        raise failures[0] or Interrupted("there is no target")
    try:
        read = clone(source, survey, [receivers[index] for index in started], options, progress)
    except KeyboardInterrupt as error:
        raise receivers[started[0]].with_state(Interrupted("interrupted")) from error
    except ImagerError as error:
        raise receivers[started[0]].with_state(error) from error
    for index, failure in zip(started, read.failures, strict=True):
        failures[index] = failure and receivers[index].with_state(failure)
    final = FinalFacts(unreadable=read.unreadable)
    outcomes = [failure or _finish(each, final) for each, failure in zip(receivers, failures, strict=True)]
    return Cloned(tuple(outcomes), read.unreadable)


def _begin(receiver: Receiver) -> ImagerError | None:
    try:
        receiver.begin()
    except ImagerError as error:
        return receiver.with_state(error)
    return None


def _finish(receiver: Receiver, final: FinalFacts) -> RestoreResult | ImagerError:
    try:
        return receiver.finish(final)
    except ImagerError as error:
        return receiver.with_state(error)
