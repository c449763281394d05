# SPDX-License-Identifier: GPL-3.0-or-later
"""What a login over SSH sees: the wizard in a session that outlives the connection. As bootmedia-session starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bootmedia.recipes import RECIPE
from tests.harness.programs import missing_tools
from tests.harness.terminals import DOWN, ENTER, in_a_terminal

SESSION = RECIPE / "overlay/usr/local/bin/bootmedia-session"
NO_COLOUR = {("default", "default")}

pytestmark = pytest.mark.skipif(bool(missing_tools("tmux", "infocmp")), reason="tmux or ncurses-bin is missing")


@pytest.fixture
def login(tmp_path):
    """Logs in: a terminal with the session on it. What is left of the session at the end is ended."""
    programs = tmp_path / "programs"
    programs.mkdir()
    wizard = programs / "recovery-wizard"
    wizard.write_text(f"#!/bin/sh\nexec {sys.executable} -m bootmedia.wizard.cli\n")
    wizard.chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="tmux-") as sockets:  # the path of a socket has at most 107 bytes
        known = {
            "HOME": str(tmp_path),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path.cwd()),
            "PYTHONUTF8": "1",
            "TMUX_TMPDIR": sockets,
        }

        def log_in(name="xterm-256color", **others):
            return in_a_terminal([str(SESSION)], {**known, "TERM": name, **others})

        yield log_in
        subprocess.run(["tmux", "-L", "recovery", "kill-server"], env=known, check=False, capture_output=True)


@pytest.mark.parametrize(
    ("name", "others", "has_colour", "has_blocks"),
    [
        ("xterm-256color", {}, True, True),
        ("xterm-256color", {"LANG": "de_DE.UTF-8"}, True, True),
        ("xterm-256color", {"LANG": "de_DE.ISO-8859-1"}, True, False),
        ("xterm-256color", {"NO_COLOR": "1"}, False, True),
        ("xterm-that-nobody-knows", {}, True, True),
        ("linux", {}, True, True),
        ("vt100", {}, False, False),
        ("xterm-mono", {"LC_ALL": "C"}, False, False),
    ],
)
def test_every_terminal_gets_what_it_can_show(login, name, others, has_colour, has_blocks) -> None:
    with login(name, **others) as (terminal, _):
        lines = terminal.sees("Nothing has been written to any disk.", "Power off", "q shell")
        assert lines[0].startswith(" Recovery")
        assert "q shell" in lines[23], terminal.text
        assert (terminal.colours() <= NO_COLOUR) is not has_colour
        assert has_colour or terminal.marked()[0].strip().startswith("Restore")
        terminal.types("q")
        terminal.sees("recovery-wizard: left")
        terminal.types("printf '<\\342\\226\\210> ascii-%s.\\n' $RECOVERY_ASCII" + ENTER)
        terminal.sees("> ascii-." if has_blocks else "> ascii-1.")
        assert ("\N{FULL BLOCK}" in terminal.text) is has_blocks, terminal.text


def test_a_lost_connection_ends_nothing_and_the_next_login_comes_back_to_it(login) -> None:
    with login("vt220") as (terminal, program):
        terminal.sees("Power off")
        terminal.chooses("Verify an image")
        terminal.sees("Verify: where the image is", "A path")
        program.kill()
    with login("vt100") as (terminal, _):
        terminal.sees("Verify: where the image is", "A path")
        assert "q shell" in terminal.lines[23]


def test_a_second_login_is_told_that_there_is_a_first(login) -> None:
    with login("vt220") as (first, _):
        first.sees("Power off")
        with login("vt220") as (second, _):
            second.sees("Logged in 2 times")
            second.types(DOWN)
            second.sees("Power off", "q shell")
            second.chooses("Network")
            first.sees("DHCP again", "Static address")


def test_the_shell_after_the_wizard_is_kept_too_and_its_end_is_the_end(login) -> None:
    with login() as (terminal, program):
        terminal.sees("Power off")
        terminal.types("q")
        terminal.sees("recovery-wizard: left")
        terminal.types("gone \x02d\x15")  # Ctrl-B d is tmux's own way out: here it is two keys of the shell
        terminal.types("kept=me; echo set-$kept" + ENTER)
        terminal.sees("set-me")
        program.kill()
    with login() as (terminal, program):
        terminal.types("echo still-$kept-${TMUX-no}" + ENTER)
        terminal.sees("still-me-no")
        terminal.types("exit" + ENTER)
        assert program.wait(300) == 0
    with login() as (terminal, _):
        terminal.sees("Nothing has been written to any disk.")


def test_without_a_terminal_for_it_the_login_goes_on_to_a_shell(login) -> None:
    with login("dumb") as (terminal, program):
        terminal.sees("this terminal cannot show a full screen")
        assert program.wait(300) == 1
