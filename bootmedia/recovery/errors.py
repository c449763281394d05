# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong with an unattended recovery, as kinds of imager's errors, and so with its exit statuses."""

from __future__ import annotations

from imager.errors import StoreError, UsageError


class AnswersWrong(UsageError):
    """recovery.toml cannot be read, or says what cannot be carried out."""


class NotThisMachine(UsageError):
    """recovery.toml is for other machines than this one."""


class RestoredBefore(UsageError):
    """The stick has restored this machine already, and nobody asks for it again."""


class NoAnswers(StoreError):
    """There is no recovery.toml in any of its places."""


class Unreachable(StoreError):
    """The network or the other end does not answer now; a later attempt may succeed."""
