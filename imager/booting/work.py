# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out the steps of a repair, and says of each what it did, what its program printed, or why it failed.

A step that fails stops neither the others nor the restore. What remains to be done is told as commands to copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from imager.booting.drivers import missing_names
from imager.booting.inside import Inside
from imager.booting.steps import RepairPlan, Step, TemporaryFile, by_hand
from imager.booting.tree import Tree
from imager.errors import ImagerError, Interrupted, VolumeFailed
from imager.process import Finished

Say = Callable[[str], None]
_MOST_SHOWN_LINES = 200


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        step: The step.
        failure: Why it failed; empty when it did not.
    """

    step: Step
    failure: str = ""


def carry_out_steps(plan: RepairPlan, inside: Inside, say: Say) -> tuple[Outcome, ...]:
    """Do all steps in order.

    Args:
        plan: What is done.
        inside: The system, mounted for writing.
        say: Takes each step as it begins, and what programs print.
    """
    outcomes = []
    for step in plan.steps:
        say(step.text)
        outcomes.append(_carry_out(step, inside, say))
        if outcomes[-1].failure:
            say(f"FAILED: {outcomes[-1].failure}")
    return tuple(outcomes)


def _carry_out(step: Step, inside: Inside, say: Say) -> Outcome:
    try:
        if step.kind == "rewrite":
            inside.tree.rewrite(step.path, step.new_text)
        elif step.kind == "put-aside":
            inside.tree.put_aside(step.path)
        else:
            _run(step, inside, say)
    except Interrupted:
        raise
    except ImagerError as error:
        return Outcome(step, error.message)
    except OSError as error:
        return Outcome(step, f"{step.path or step.command[0]}: {error.strerror}")
    return Outcome(step)


def _run(step: Step, inside: Inside, say: Say) -> None:
    with _changed(inside.tree, step.during):
        run = inside.run_here if step.kind == "run-here" else inside.run
        done = run(step.command, step.environment)
    if step.kind == "check-initramfs" and not done.exit_code:
        lacking = missing_names(done.output.decode(errors="replace"), step.wanted)
        if lacking:
            raise VolumeFailed(f"{step.path} does not hold {', '.join(lacking)}")
        return
    lines = [*_printed(done)]
    for line in lines:
        say(f"  {line}")
    if done.exit_code:
        last = lines[-1] if lines else "it said nothing"
        raise VolumeFailed(f"{step.command[0]} ended with status {done.exit_code}: {last}")


def _printed(done: Finished) -> Iterator[str]:
    """What a program said, its last lines if there are very many."""
    lines = [line for raw in (done.output, done.errors) for line in raw.decode(errors="replace").splitlines()]
    return (line.rstrip() for line in lines[-_MOST_SHOWN_LINES:] if line.strip())


@contextmanager
def _changed(tree: Tree, files: Sequence[TemporaryFile]) -> Iterator[None]:
    """Give files another content for a while."""
    with ExitStack() as stack:
        for file in files:
            place = tree.place(file.path)
            if place.exists():
                stack.callback(place.write_bytes, place.read_bytes())
            else:
                stack.callback(place.unlink, missing_ok=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(file.text, encoding="utf-8", errors="surrogateescape")
        yield


def remaining(plan: RepairPlan, outcomes: Sequence[Outcome]) -> str:
    """What a person has to do by hand, as commands; "" when nothing failed."""
    failed = [outcome.step for outcome in outcomes if outcome.failure]
    commands = by_hand(failed)
    return f"inside of {plan.name} (mount it, then chroot): {commands}" if commands else ""
