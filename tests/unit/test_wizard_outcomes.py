# SPDX-License-Identifier: GPL-3.0-or-later
"""How the wizard tells what became of a command."""

from __future__ import annotations

import json
from dataclasses import replace

from bootmedia.wizard.outcomes import result_lines, what_next
from bootmedia.wizard.running import Outcome


def test_a_cancelled_restore_is_never_called_done() -> None:
    said = what_next(Outcome(143, cancelled=True), wrote=True)
    assert said == "Cancelled. The disk is half written and will not start: restore again."


def test_a_disk_that_is_restored_is_not_called_lost_for_what_failed_afterwards() -> None:
    outcome = Outcome(10, message="all of the image is restored, but afterwards this failed: new-ids: x", hint="y")
    assert what_next(outcome, wrote=True) == "The disk is restored, but not all that comes after it: read why below."
    assert next(result_lines(outcome, [])).startswith("Exit status 10: restored, but")


def test_what_was_done_after_the_last_byte_is_told() -> None:
    stages = [{"sentences": ["partition 2 has grown"], "warnings": ["w"], "failures": ["no boot loader"]}]
    result = {"target": "/dev/sdb", "written_bytes": 1, "seconds": 1.0, "verified": True, "afterwards": stages}
    facts = {"result": result, "report": "/run/x.html"}
    lines = list(result_lines(Outcome(0, json.dumps(facts).encode()), []))
    wanted = ["  partition 2 has grown", "warning: w", "DID NOT WORK: no boot loader", "report: /run/x.html"]
    assert [line for line in lines if line in wanted] == wanted
    assert "read back" in lines[2]


def test_a_failure_shows_message_and_hint() -> None:
    lines = list(result_lines(Outcome(6, message="it is in use", hint="unmount it"), ["last words"]))
    assert lines[:3] == [
        "Exit status 6: the disk that is written: refused, too small, or a write failed.",
        "it is in use",
        "unmount it",
    ]
    assert lines[-1] == "last words"


def test_each_disk_of_a_set_is_told_of() -> None:
    written = {"target": "/dev/sdb", "written_bytes": 1, "seconds": 1.0, "verified": True}
    lost = {"target": "/dev/sdc", "error": "the image is damaged", "seconds": 0.1}
    later = [{"sentences": ["vg0 has grown"], "warnings": [], "failures": []}]
    facts = {"results": [written, lost], "afterwards_results": later, "set_warnings": ["c.img.zst is not restored"]}
    outcome = Outcome(4, json.dumps(facts).encode(), "damaged")
    lines = list(result_lines(outcome, []))
    wanted = [
        "1 B written to /dev/sdb, and read back: it is the same",
        "/dev/sdc: NOT RESTORED: the image is damaged",
        "  vg0 has grown",
        "warning: c.img.zst is not restored",
    ]
    assert [line for line in lines if line in wanted] == wanted
    assert what_next(outcome, wrote=True, disks=2).startswith("Not every disk is restored.")
    assert what_next(replace(outcome, cancelled=True), wrote=True, disks=2).startswith("Cancelled. Not every disk")
    assert what_next(Outcome(0), wrote=True, disks=2).startswith("All 2 disks are restored.")
