# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns errors into a message, a hint and an exit status; nobody sees a traceback who did not ask for it."""

from __future__ import annotations

import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import ParamSpec

import typer

from imager.cli.output import tell, to_json
from imager.errors import Defect, ImagerError, Interrupted, Terminated, UsageError
from imager.interrupts import raise_from_now_on
from imager.temporary import remove_abandoned
from imager.text import shown

P = ParamSpec("P")

EXIT_STATUSES = (
    (0, "all that was asked for is done"),
    (1, "a defect of imager itself"),
    (2, "the command line is wrong"),
    (3, "the source: busy, unreadable, missing, or it changed"),
    (4, "the image: damaged, incomplete, or of a newer version"),
    (5, "the place of the image: missing, full, or not permitted"),
    (6, "the target: refused, too small, or a write failed"),
    (7, "done, but content is missing: unreadable sectors, or damage that was accepted"),
    (8, "the comparison found differences"),
    (9, "nobody agreed to the plan: nothing was written"),
    (10, "the disk is restored, but what was to be done after the last byte did not all work"),
    (130, "interrupted; 143 by SIGTERM"),
)
"""What each exit status means; the manual is made from this table."""


def exit_meaning(code: int) -> str:
    """What an exit status means, in words."""
    return {**dict(EXIT_STATUSES), 143: "ended by SIGTERM"}.get(code, "")


def _on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated("ended by SIGTERM")


def reports_problems(command: Callable[P, int | None], *, program: str = "imager") -> Callable[P, None]:
    """Wrap a command of a program so that every way it can end is a documented exit status.

    The wrapped function may return an exit status; None stands for 0.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        as_json, debug = bool(kwargs.get("as_json")), bool(kwargs.get("debug"))
        signal.signal(signal.SIGTERM, _on_sigterm)
        try:
            raise_from_now_on()
            remove_abandoned()
            code = command(*args, **kwargs) or 0
        except ImagerError as error:
            code = _tell(program, error, as_json=as_json, debug=debug)
        except KeyboardInterrupt:
            code = _tell(program, Interrupted("interrupted"), as_json=as_json, debug=debug)
        except BrokenPipeError:
            # The reader of our output is gone, as with `imager survey ... | head`: nothing is left to say to it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 141
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:  # the one place for what nobody foresaw: a sentence instead of a traceback
            code = _tell_defect(program, error, as_json=as_json, debug=debug)
        raise typer.Exit(code)

    return wrapped


def tell_wrong_words(message: str) -> int:
    """Tell a script what is wrong with the words of its command; the exit status."""
    return _tell("imager", UsageError(message, hint="Look at --help."), as_json=True, debug=False)


def _tell(program: str, error: ImagerError, *, as_json: bool, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if as_json:
        tell(to_json(_as_facts(error)).decode())
    else:
        tell(f"{program}: {shown(error.message)}")
        if error.hint:
            tell(f"{' ' * len(program)}  {shown(error.hint)}")
    return error.exit_code


def _as_facts(error: ImagerError) -> dict[str, object]:
    return {
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "facts": {key: _plain(value) for key, value in error.facts.items()},
        "exit_status": error.exit_code,
    }


def _plain(value: object) -> object:
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if hasattr(value, "as_dict"):
        return _plain(value.as_dict())
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    return value.hex() if isinstance(value, bytes) else str(value)


def _tell_defect(program: str, error: Exception, *, as_json: bool, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if as_json:
        tell(to_json(_as_facts(Defect(f"unexpected {type(error).__name__}: {error}"))).decode())
    elif not debug:
        tell(f"{program}: unexpected {type(error).__name__}: {shown(str(error))}")
        tell(
            f"{' ' * len(program)}  This is a defect of {program}. Run the command again with --debug to see where.",
        )
    return 1
