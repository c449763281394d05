# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress as other programs read it: lines of JSON on standard error."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.harness.files import flip
from tests.integration.test_cli import imager

MIB = 1024 * 1024
SIZE = 24 * MIB


def lines_of(stderr: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.decode().splitlines()]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk without a table, which is copied whole: what is done is its size."""
    path = tmp_path_factory.mktemp("disk") / "disk"
    path.write_bytes(bytes(range(1, 251)) * (SIZE // 250) + bytes(SIZE % 250))
    return path


def capture(disk: Path, image: Path, *words: str) -> list[dict[str, Any]]:
    done = imager("capture", "--all-blocks", "--json", "--progress", "lines", *words, disk, image)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"]
    return lines_of(done.stderr)


def test_each_stage_begins_at_nothing_and_ends_with_all(disk: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.zst"
    assert {line["phase"] for line in capture(disk, image)} == {"capture"}
    done = imager("restore", "--yes", "--verify", "--json", "--progress", "lines", image, tmp_path / "copy")
    told = lines_of(done.stderr)
    for phase in ("restore", "read back"):
        stage = [line for line in told if line["phase"] == phase]
        assert (stage[0]["done_bytes"], stage[0]["ended"]) == (0, False)
        assert (stage[-1]["done_bytes"], stage[-1]["eta_seconds"], stage[-1]["ended"]) == (SIZE, 0.0, True)
        assert {line["total_bytes"] for line in stage} == {SIZE}
        numbers = [line["done_bytes"] for line in stage]
        assert numbers == sorted(numbers)


def test_lines_come_at_most_ten_times_a_second_and_tell_rate_and_time_left(disk: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    told = capture(disk, tmp_path / "image.zst", "--rate-limit", "12MiB")
    seconds = time.monotonic() - began
    assert 3 < len(told) <= 10 * seconds + 2
    late = told[-2]
    assert 0 < late["rate_bytes_per_second"] <= 2 * 12 * MIB
    left = (SIZE - late["done_bytes"]) / late["rate_bytes_per_second"]
    assert late["eta_seconds"] == pytest.approx(left, abs=0.06)


def test_lines_are_asked_for_even_where_a_person_wants_quiet(disk: Path, tmp_path: Path) -> None:
    assert capture(disk, tmp_path / "image.zst", "--quiet")[-1]["done_bytes"] == SIZE


def test_a_failure_is_the_last_line(disk: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.zst"
    capture(disk, image)
    flip(image, image.stat().st_size // 2, 64)
    done = imager("restore", "--yes", "--json", "--progress", "lines", image, tmp_path / "copy")
    *progress, error = lines_of(done.stderr)
    assert done.returncode == error["exit_status"] == 4
    assert progress[-1]["ended"]
    assert progress[-1]["done_bytes"] < SIZE


def test_without_a_terminal_there_is_no_bar_unless_it_is_asked_for(disk: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.zst"
    assert not imager("capture", disk, image).stderr
    assert not imager("verify", "--progress", "none", image).stderr
    assert b"verify: 100%" in imager("verify", "--progress", "bar", image).stderr
    wrong = imager("verify", "--progress", "line", image)
    assert wrong.returncode == 2
    assert b"lines, bar, none" in wrong.stderr
