# SPDX-License-Identifier: GPL-3.0-or-later
"""What all programs of this project have in common, whatever their commands are."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAMS = ("imager.cli.app", "bootmedia.cli.app", "bootmedia.recovery.cli")


def command(module, *words):
    return [sys.executable, "-c", f"from {module} import main; main()", *words]


@pytest.mark.parametrize("module", PROGRAMS)
def test_wrong_words_are_json_for_scripts(module):
    done = subprocess.run(command(module, "--json", "--nope"), capture_output=True, check=False)
    assert done.returncode == 2
    assert json.loads(done.stderr)["exit_status"] == 2


@pytest.mark.parametrize("module", PROGRAMS)
def test_help_that_cannot_be_written_is_a_sentence(module):
    with open("/dev/full", "w") as full:  # noqa: PTH123  a device
        done = subprocess.run(command(module, "--help"), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 5
    assert b"cannot be written" in done.stderr


@pytest.mark.parametrize("module", PROGRAMS)
def test_closed_streams_are_taken_before_anything_is_opened(module):
    taken = f"import os; from {module} import main; os.closerange(0, 3)\ntry: main()\nfinally: os.dup2(9, 1); "
    taken += "os.write(1, repr([os.readlink(f'/proc/self/fd/{n}') for n in (0, 2)]).encode())"
    shell = ["bash", "-c", 'exec 9>&1; exec "$0" -c "$1" --version', sys.executable, taken]
    done = subprocess.run(shell, capture_output=True, check=False)
    assert done.stdout == b"['/dev/null', '/dev/null']"
