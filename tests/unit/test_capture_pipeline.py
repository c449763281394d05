# SPDX-License-Identifier: GPL-3.0-or-later
import threading
import time

import pytest

from imager.capture.pipeline import InOrder


def slow_first(number):
    time.sleep(0.02 if number % 3 == 0 else 0)
    return number


def run(jobs, worker, threads=3, window=6):
    with InOrder(jobs, lambda: worker, threads=threads, window=window) as results:
        return list(results)


def test_results_come_in_the_order_of_their_jobs():
    assert run(range(40), slow_first) == list(range(40))


def test_no_jobs_end_at_once():
    assert run([], slow_first) == []


def test_none_is_a_result_like_any_other():
    assert run(range(5), lambda number: None) == [None] * 5


def fail_at(place):
    def worker(number):
        if number == place:
            raise ValueError(f"job {number}")
        return slow_first(number)

    return worker


def test_an_error_comes_after_all_results_before_it():
    seen = []
    with (
        pytest.raises(ValueError, match="job 7"),
        InOrder(range(1000), lambda: fail_at(7), threads=3, window=6) as results,
    ):
        seen.extend(results)
    assert seen == list(range(7))


def test_the_first_of_two_errors_in_the_order_of_jobs_is_raised():
    def worker(number):
        time.sleep(0.05 if number == 0 else 0)
        raise ValueError(f"job {number}")

    with pytest.raises(ValueError, match="job 0"):
        run(range(2), worker, threads=2)


def test_an_error_of_the_jobs_themselves_is_raised_in_its_place():
    def jobs():
        yield from range(4)
        raise KeyError("no more")

    seen = []
    with pytest.raises(KeyError), InOrder(jobs(), lambda: slow_first, threads=2, window=4) as results:
        seen.extend(results)
    assert seen == [0, 1, 2, 3]


def test_a_worker_that_cannot_be_made_is_an_error_and_no_hang():
    def make():
        raise MemoryError("no buffer")

    with pytest.raises(MemoryError), InOrder(range(100), make, threads=2, window=4) as results:
        list(results)


def test_at_most_a_window_of_jobs_is_taken_ahead():
    taken = []

    def jobs():
        for number in range(100):
            taken.append(number)
            yield number

    with InOrder(jobs(), lambda: slow_first, threads=2, window=5) as results:
        first = iter(results)
        assert next(first) == 0
        time.sleep(0.2)
        assert len(taken) <= 6


def test_leaving_early_ends_the_threads():
    before = threading.active_count()
    with InOrder(range(10**9), lambda: slow_first, threads=4, window=8) as results:
        assert next(iter(results)) == 0
    assert threading.active_count() == before


def test_a_worker_that_hangs_does_not_hold_up_the_end():
    forever = threading.Event()
    began = time.monotonic()

    def interrupted():
        with InOrder(range(10), lambda: lambda number: forever.wait(30), threads=2, window=4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 5
    forever.set()
