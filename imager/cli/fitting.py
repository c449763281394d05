# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of commands that fit an image to another disk, and what they come to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from imager.errors import UsageError

if TYPE_CHECKING:  # imported late at run time, so that --help is fast
    from imager.cli.restore import Wanted
    from imager.fitting.model import Rule

ToGptOption = Annotated[
    bool,
    typer.Option("--to-gpt", help="Make a GPT of an MBR, as for a disk of more than 2 TiB; a BIOS loader must follow."),
]


def rule_of(wanted: Wanted, image_id: UUID) -> Rule | None:
    """What the options say of partitions; None when they stay as they are.

    Raises:
        UsageError: The rule or the plan is not understood.
    """
    from imager.fitting.model import Rule

    rule = _rule(wanted, image_id)
    if not wanted.to_gpt:
        return rule
    return replace(rule, to_gpt=True) if rule else Rule.only_to_gpt()


def _rule(wanted: Wanted, image_id: UUID) -> Rule | None:
    from imager.fitting.model import Rule
    from imager.fitting.plan_file import MOST_BYTES, read_plan

    if wanted.fit:
        return Rule("fit")
    if wanted.plan is None:
        return Rule.parse(wanted.grow) if wanted.grow is not None else None
    try:
        with Path(wanted.plan).open("rb") as file:
            content = file.read(MOST_BYTES + 1)  # a device may have no end
    except OSError as error:
        raise UsageError(
            f"{wanted.plan} cannot be read: {error.strerror}",
            hint="imager plan --write makes a plan.",
            path=wanted.plan,
        ) from error
    found = read_plan(content, wanted.plan)
    found.check_image(image_id)
    return found.rule
