# SPDX-License-Identifier: GPL-3.0-or-later
"""For all tests: none of them is about time, which on a busy machine tells nothing."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
