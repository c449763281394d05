# SPDX-License-Identifier: GPL-3.0-or-later
"""imager, held up at a stage of a restore, so that it can be killed there.

    python -m tests.harness.held_up WRITES FILE WORDS...

Runs imager with the words; before that many writes to a target it makes the file, and waits. Or a program that imager
starts is held up, by a stand-in on PATH: see `stand_in`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_SECONDS = 600


def main(writes: str, reached: str, *words: str) -> None:
    """Run imager; it stops before a write."""
    from imager.cli.app import main as run_imager
    from imager.devices.target import TargetDisk

    left, write = int(writes), TargetDisk.write

    def held(self: TargetDisk, offset: int, content: bytes | bytearray | memoryview) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            Path(reached).touch()
            time.sleep(_SECONDS)
        write(self, offset, content)

    TargetDisk.write = held  # type: ignore[method-assign]
    sys.argv[1:] = words
    run_imager()


def stand_in(program: str, reached: Path, word: str = "") -> str:
    """A PATH on which a program makes the file and waits, when it is called with the word; else it does its work."""
    folder = reached.parent / "bin"
    folder.mkdir(exist_ok=True)
    real = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert real, f"{program} is not installed"
    script, hold = folder / program, f"touch {shlex.quote(str(reached))}; exec sleep {_SECONDS}"
    when = f'case " $* " in *" {word} "*) {hold};; esac' if word else hold
    script.write_text(f'#!/bin/sh\n{when}\nexec {real} "$@"\n')
    script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def killed_when_reached(command: Sequence[str | Path], reached: Path, environment: dict[str, str]) -> None:
    """Start a command, wait until it has reached a stage, and kill it and nothing else.

    What it has started is killed afterwards only where it is held up itself: a stand-in waits in vain.
    """
    with subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as running:
        deadline = time.monotonic() + _SECONDS
        while not reached.exists() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert reached.exists(), running.communicate()[1].decode()
        running.kill()
        running.wait()
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
