# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import threading
import time

import pytest

from imager.restore.pipeline import in_threads


def test_results_come_in_order():
    def task(number):
        time.sleep(0.001 * (number % 3))
        return number * number

    assert list(in_threads(task, range(50), 4)) == [number * number for number in range(50)]


def test_no_more_items_are_taken_than_may_wait():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    for result in in_threads(lambda number: number, items(), 2, waiting=5):
        assert len(taken) <= result + 5


def test_first_failure_ends_the_work():
    done = []

    def task(number):
        if number == 3:
            raise ValueError("three")
        done.append(number)

    with pytest.raises(ValueError, match="three"):
        list(in_threads(task, range(1000), 2))
    assert len(done) < 100


def test_failure_of_the_items_comes_through():
    def items():
        yield 1
        raise KeyError("no more")

    with pytest.raises(KeyError):
        list(in_threads(lambda number: number, items(), 2))


def test_task_that_hangs_does_not_hold_up_the_end():
    never = threading.Event()

    def task(number):
        if number:
            raise ValueError("the other one")
        never.wait(30)

    def items():
        yield 0
        yield 1
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(in_threads(task, items(), 2))
    assert time.monotonic() - began < 1
    never.set()
