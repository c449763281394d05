# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that make, change and judge what is tested."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_ENVIRONMENT = {**os.environ, "MTOOLS_SKIP_CHECK": "1", "PATH": _PATH, "LC_ALL": "C.UTF-8"}


def missing_tools(*names: str) -> str:
    """The names of those programs that are not installed."""
    return " ".join(name for name in names if shutil.which(name, path=_PATH) is None)


def call(*command: object, input_text: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program and give back what it printed; its messages are shown when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        input=input_text,
        capture_output=True,
        text=True,
        errors="replace",
        env={**_ENVIRONMENT, **(env or {})},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: status {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout
