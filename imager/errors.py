# SPDX-License-Identifier: GPL-3.0-or-later
"""Every error that a user can meet, and the exit status that each ends in.

The branches say who has to act::

    ImagerError
    ├── Defect                1  of the program itself
    ├── UsageError            2  the words of the command
    ├── SourceError           3  the disk that is read
    │   ├── SourceBusy           it is mounted or held for writing
    │   ├── SourceUnreadable     a sector cannot be read
    │   └── SourceUnusable       missing, of unknown size, changed while it was read
    ├── ImageError            4  the image
    │   ├── ImageDamaged         its bytes are not those that were written
    │   ├── ImageIncomplete      it ends too early, or lacks content
    │   └── ImageUnsupported     it needs a newer imager
    ├── StoreError            5  the place where the image lies
    ├── TargetError           6  the disk that is written
    │   ├── TargetRefused        writing there would destroy what must not be destroyed
    │   ├── TargetTooSmall       what the image holds does not fit
    │   ├── TargetFailed         a write, or reading it back, went wrong
    │   └── VolumeFailed         a volume on it cannot be opened, mounted or closed
    ├── ContentIncomplete     7  done as asked, but some content is missing (also a plain outcome)
    ├── ContentDiffers        8  the comparison found differences (also a plain outcome)
    ├── NotConfirmed          9  nobody agreed to the plan
    ├── StageFailed          10  the disk is restored, but a stage after it failed
    └── Interrupted         130  Ctrl-C
        └── Terminated      143  SIGTERM

Exit status 1 is kept for defects of the program itself.
"""

from __future__ import annotations


class ImagerError(Exception):
    """Base of all errors: what went wrong, where, and what to do next.

    Args:
        message: One sentence that says what, where, found and expected.
        hint: What the user can do next, as a sentence; empty when nothing helps.
        facts: The same facts as values (path, offset_bytes, expected, found, ...) for JSON output.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts


class Defect(ImagerError):
    """What nobody foresaw: a defect of imager itself."""


class UsageError(ImagerError):
    """The command's words contradict each other or cannot be carried out."""

    exit_code = 2


class SourceError(ImagerError):
    """The disk that is to be read."""

    exit_code = 3


class SourceBusy(SourceError):
    """The source is mounted or held for writing: a copy of it would not be one moment's state."""


class SourceUnreadable(SourceError):
    """Sectors of the source cannot be read."""


class SourceUnusable(SourceError):
    """The source is missing, has no known size, or changed while it was read."""


class ImageError(ImagerError):
    """The image."""

    exit_code = 4


class ImageDamaged(ImageError):
    """Bytes of the image are not those that were written."""


class ImageIncomplete(ImageError):
    """The image ends before its trailer, or lacks content that is wanted."""


class ImageUnsupported(ImageError):
    """The image needs a feature that this version does not know."""


class StoreError(ImagerError):
    """The place where the image lies or should lie: missing, full, not permitted."""

    exit_code = 5


class TargetError(ImagerError):
    """The disk that is to be written."""

    exit_code = 6


class TargetRefused(TargetError):
    """Writing to the target would destroy something that must not be destroyed."""


class TargetTooSmall(TargetError):
    """What the image holds does not fit on the target."""


class TargetFailed(TargetError):
    """A write to the target failed, or it does not hold what was written."""


class VolumeFailed(TargetError):
    """A volume on the target cannot be opened, mounted or closed."""


class ContentIncomplete(ImagerError):
    """The work was done, but content is missing: unreadable, salvaged or accepted as damaged."""

    exit_code = 7


class ContentDiffers(ImagerError):
    """A comparison found differences."""

    exit_code = 8


class NotConfirmed(ImagerError):
    """The plan was shown and nobody agreed to it: nothing was written."""

    exit_code = 9


class StageFailed(ImagerError):
    """The disk is restored as the image has it, but a stage after the last byte failed (also a plain outcome)."""

    exit_code = 10


class Interrupted(ImagerError):
    """The user or the system ended the work."""

    exit_code = 130


class Terminated(Interrupted):
    """SIGTERM ended the work."""

    exit_code = 143
