# SPDX-License-Identifier: GPL-3.0-or-later
"""A stick that was left in does not restore the same machine again by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bootmedia.recovery.errors import RestoredBefore
from imager.errors import ImagerError
from tests.integration.test_recovery_run import FACTS, bench

__all__ = ["bench"]


def once(bench):
    recovery = bench.recovery()
    recovery.once = True
    return recovery


def test_the_second_time_nothing_is_written(bench):
    (bench.data / "recovery.toml").write_text(bench.answers())
    once(bench).run(None)
    assert bench.is_restored()
    bench.target.write_bytes(b"a month of work".ljust(len(bench.content), b"."))
    with pytest.raises(RestoredBefore, match="not again by itself") as error:
        once(bench).run(None)
    assert "recovery run" in error.value.hint
    assert bench.target.read_bytes().startswith(b"a month")
    assert any("NOT" in path.read_text() or "FAILED" in path.read_text() for path in bench.data.glob("logs/*.log"))


def test_by_hand_it_is_done_again(bench):
    bench.run(bench.answers())
    bench.target.write_bytes(bytes(len(bench.content)))
    bench.recovery().run(None)
    assert bench.is_restored()


def test_other_answers_and_other_machines_are_another_matter(bench):
    (bench.data / "recovery.toml").write_text(bench.answers())
    once(bench).run(None)
    bench.facts = replace(FACTS, serials=("SN2",))
    once(bench).run(None)
    (bench.data / "recovery.toml").write_text(bench.answers(more="verify = true"))
    once(bench).run(None)
    assert len(list(bench.data.glob("logs/restored-*.txt"))) == 3


def test_what_failed_is_tried_again(bench):
    (bench.data / "recovery.toml").write_text(bench.answers())
    image = bench.data / "images/a.zst"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImagerError):
        once(bench).run(None)
    image.write_bytes(whole)
    once(bench).run(None)
    assert bench.is_restored()


def test_a_medium_that_cannot_remember_says_so(bench):
    bench.medium.mkdir(parents=True)
    (bench.medium / "recovery.toml").write_text(bench.answers(image=str(bench.data / "images/a.zst")))
    bench.volumes = []
    once(bench).run(None)
    assert any("take the medium out before the machine starts again" in line for line in bench.said)
