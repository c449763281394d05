# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: the only part that knows typer and the only one that prints."""

from __future__ import annotations

import os

# numpy's linear algebra is not used, and would start a thread for each core that waits by spinning. Said here because
# it must be known before numpy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
