# SPDX-License-Identifier: GPL-3.0-or-later
"""Ctrl-C before a command has begun: half a second of imports, in which there is nothing to undo and to tell."""

from __future__ import annotations

import signal


def end_at_once() -> None:
    """Let Ctrl-C end this process as it ends most programs, where Python would show where it was.

    It stays ignored where whoever started us wants it to be: a shell does so for what runs in the background.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_from_now_on() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again, so that what was begun is undone and told."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
