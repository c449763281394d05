# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard on terminals of several kinds, as a program; pyte shows what stands there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness.terminals import BACK, CLEAR, END, ENTER, ERASE, ESCAPE, LEFT, Terminal, in_a_terminal

WIZARD = [sys.executable, "-m", "bootmedia.wizard.cli"]
NO_COLOUR = {("default", "default")}


def environment(**others: str) -> dict[str, str]:
    known = {name: os.environ[name] for name in ("HOME", "PATH", "LANG") if name in os.environ}
    return {**known, "PYTHONUTF8": "1", **others}


def ended(terminal: Terminal, program: subprocess.Popen[bytes]) -> int:
    terminal.types("q")
    return program.wait(300)


@pytest.mark.parametrize(
    ("name", "has_colour"), [("vt100", False), ("vt220", False), ("linux", True), ("xterm-256color", True)]
)
def test_the_first_screen_fits_every_terminal_and_q_leaves_it(name, has_colour) -> None:
    with in_a_terminal(WIZARD, environment(TERM=name)) as (terminal, program):
        lines = terminal.sees("Nothing has been written to any disk.", "Power off", "q shell")
        assert lines[0].startswith(" Recovery")
        assert "q shell" in lines[23]
        assert (terminal.colours() <= NO_COLOUR) is not has_colour
        assert has_colour or terminal.text.isascii()
        assert has_colour or terminal.marked()[0].strip().startswith("Restore")
        assert ended(terminal, program) == 0
        terminal_is_as_before(terminal, "recovery-wizard: left. Type recovery-wizard to come back.")


def test_the_next_console_may_begin_when_the_first_screen_is_there(tmp_path) -> None:
    """As bootmedia-console does it, whose shell keeps the lock's file open; flock(1) says whether it is free."""
    lock = tmp_path / "turn"
    console = ["bash", "-c", 'exec 9>"$1"; flock 9; BOOTMEDIA_TURN=9 "${@:2}"; exit $?', "bash", str(lock), *WIZARD]
    with in_a_terminal(console, environment(TERM="linux")) as (terminal, program):
        terminal.sees("one moment")
        assert subprocess.run(["flock", "--nonblock", lock, "true"], check=False).returncode == 1
        terminal.sees("Power off")
        subprocess.run(["flock", lock, "true"], check=True, timeout=300)
        assert ended(terminal, program) == 0


def terminal_is_as_before(terminal: Terminal, *words: str) -> None:
    deadline = time.monotonic() + 600
    while not all(word in terminal.text for word in words) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert all(word in terminal.text for word in words), terminal.text


def test_colours_are_not_used_where_nobody_wants_them() -> None:
    with in_a_terminal(WIZARD, environment(TERM="xterm-256color", NO_COLOR="1")) as (terminal, program):
        terminal.sees("Power off")
        assert terminal.colours() <= NO_COLOUR
        terminal.chooses("Restore")
        terminal.sees("which", "A path") if "which" in terminal.text else terminal.sees("A path")
        terminal.types(ESCAPE)
        terminal.sees("Power off")
        assert ended(terminal, program) == 0


def test_a_serial_line_without_a_size_gets_one() -> None:
    with in_a_terminal(WIZARD, environment(TERM="vt220"), size=None) as (terminal, program):
        lines = terminal.sees("Power off", "q shell")
        assert "q shell" in lines[23]
        assert ended(terminal, program) == 0


def test_a_terminal_that_cannot_show_it_is_told_so() -> None:
    with in_a_terminal(WIZARD, environment(TERM="dumb")) as (terminal, program):
        assert program.wait(300) == 2
        terminal_is_as_before(terminal, "this terminal cannot show a full screen")


def test_a_defect_ends_in_a_sentence_and_a_log_and_not_in_a_trace(tmp_path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "from bootmedia.wizard import app, cli\n"
        "def begin(self, task): raise RuntimeError('something odd')\n"
        "app.Wizard.begin = begin\n"
        "cli.main()\n"
    )
    words = [sys.executable, str(broken)]
    with in_a_terminal(words, environment(TERM="vt100", PYTHONPATH=os.getcwd())) as (terminal, program):
        terminal.sees("Power off")
        terminal.chooses("Restore")
        assert program.wait(300) == 1
        terminal_is_as_before(terminal, "recovery-wizard: it ended with a defect; its log is")
        text = "".join(terminal.lines)
        assert "Traceback" not in text
        log = text.partition("its log is ")[2].split(".log")[0] + ".log"
        assert "RuntimeError: something odd" in Path(log).read_text()


def test_the_linux_console_gets_the_backgrounds_that_it_has() -> None:
    """console_codes(4): 100 to 107 are shown as 40 to 47, so what is marked in bright black would not be seen."""
    with in_a_terminal(WIZARD, environment(TERM="linux")) as (terminal, program):
        terminal.sees("Power off")
        deadline = time.monotonic() + 600
        while terminal.background(3) != "blue" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert [terminal.background(row) for row in (3, 4)] == ["blue", "black"]
        assert not [background for _, background in terminal.colours() if background.startswith("bright")]
        assert ended(terminal, program) == 0


def test_keys_that_come_all_at_once_are_done_in_their_order() -> None:
    """As pasted into a serial console, or typed faster than a slow machine reads: corrections are keys like others."""
    with in_a_terminal(WIZARD, environment(TERM="vt220")) as (terminal, program):
        terminal.sees("Power off")
        for choice in ("Restore", "Windows share (SMB)"):
            terminal.sees(choice)
            terminal.chooses(choice)
        terminal.sees("Password")
        keys = ["192.0.2.9", ERASE, "1", ENTER, "mistake", CLEAR, "baup", LEFT, LEFT, "ck", ENTER, "someone", ERASE * 3]
        keys += ["body", ENTER, "DOMAIN", BACK, BACK, END, "/new", ENTER, ENTER, CLEAR, "OFFICE"]
        terminal.types("".join(keys))
        terminal.sees("OFFICE")
        assert {line.strip() for line in terminal.lines} >= {"192.0.2.1", "backup/new", "somebody", "OFFICE"}
        terminal.types(ESCAPE)
        terminal.sees("A path")
        assert ended(terminal, program) == 0
