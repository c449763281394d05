# SPDX-License-Identifier: GPL-3.0-or-later
"""For all tests: none of them is about time, which on a busy machine tells nothing.

Property tests and those that change fields at random draw the same in every run, so that a change is judged by what it
changed; with IMAGER_RANDOM=1 they draw others each time, which is how new faults are looked for.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "untimed",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=not os.environ.get("IMAGER_RANDOM"),
    print_blob=True,
)
settings.load_profile("untimed")
