# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `recovery-wizard`. However it ends, a person is left with a shell and a sentence."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from imager.reports.log import Log

_HELP: Final = """usage: recovery-wizard

The full-screen wizard of the recovery medium: restore an image, capture this machine, verify an image, look at disks
and network. It carries out commands, and shows them. q leaves for a shell; recovery-wizard comes back.

Exit status:
  0    it was left
  1    a defect: where the log is was said
  2    this terminal cannot show it"""


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> None:
    """Entry point of the program."""
    if len(sys.argv) > 1:
        _say(_HELP)
        sys.exit(0 if sys.argv[1] in ("-h", "--help") else 2)
    _say("recovery-wizard: one moment ...")  # what follows takes seconds on a slow machine
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    os.environ.setdefault("ESCDELAY", "300")  # a serial line delivers the characters of one key in pieces
    sys.exit(_start())


def _start() -> int:
    from bootmedia.wizard.terminal import ability, set_size

    shows = ability(os.environ, sys.stdout.encoding or "")
    if not shows.full_screen or not sys.stdin.isatty() or not sys.stdout.isatty():
        _say("recovery-wizard: this terminal cannot show a full screen; set TERM, or use the commands")
        return 2
    set_size(sys.stdout.fileno())
    journal = None
    try:
        journal = _journal()
        from bootmedia.wizard.app import Wizard

        wizard = Wizard(shows, journal)
        try:
            wizard.run(mouse=False)
        finally:
            for sentence in wizard.attached.close():
                _say(f"recovery-wizard: {sentence}")
        return _ended(wizard.return_code or 0, journal)
    except ImportError as error:
        _say(f"recovery-wizard: {error}: this medium was made without the wizard; the commands are all there")
        return 2
    except Exception:  # the one place for what nobody foresaw: a sentence and a shell
        return _crashed(traceback.format_exc(), journal)
    finally:
        if journal is not None:
            journal.close()


def _journal() -> Log:
    """A log in memory and in a file below /run, which every console has."""
    from imager.errors import StoreError
    from imager.reports.log import Log

    journal = Log()
    try:
        journal.keep(log_folder(), time.strftime("wizard-%Y%m%d-%H%M%S-", time.gmtime()) + str(os.getpid()))
    except StoreError as error:
        _say(f"recovery-wizard: {error.message}")
    return journal


def log_folder() -> Path:
    """Where logs are kept until they are saved."""
    run = Path("/run")
    return (run if os.access(run, os.W_OK) else Path(tempfile.gettempdir())) / "recovery-wizard-logs"


def _ended(code: int, journal: Log) -> int:
    if code:
        _say(f"recovery-wizard: it ended with a defect; its log is {journal.path}")
    else:
        _say("recovery-wizard: left. Type recovery-wizard to come back.")
    return 1 if code else 0


def _crashed(trace: str, journal: Log | None) -> int:
    where = ""
    if journal is not None:
        for line in trace.splitlines():
            journal.add(line)
        where = f"; its log is {journal.path}" if journal.path else ""
    last = trace.strip().splitlines()[-1]
    _say(f"recovery-wizard: a defect: {last}{where}\nNothing that was running goes on. The commands work all the same.")
    return 1


if __name__ == "__main__":
    main()
