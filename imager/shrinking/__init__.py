# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes what lies in a partition smaller, in a file that is as large; `imager.fitting.ways` says which way is taken.

A maker gets a `Work` and leaves the new content in `Work.volume`. It raises `ProgramFailed` or `VolumeFailed` when that
cannot be done; nobody has lost anything then. Whoever calls it cares for scratch room, and for what is written where.
"""

from imager.shrinking.makers import MAKERS, refusal
from imager.shrinking.work import Maker, Work

__all__ = ("MAKERS", "Maker", "Work", "refusal")
