# SPDX-License-Identifier: GPL-3.0-or-later
import threading
import time
from queue import SimpleQueue

import pytest

from imager.crew import Crew, usable_cores
from imager.errors import ImageDamaged
from tests.harness.threads import new_threads, no_thread_stays


def slow_first(number):
    time.sleep(0.02 if number % 3 == 0 else 0)
    return number


def run(jobs, worker, threads=3, ahead=3):
    with Crew(jobs, lambda: worker, threads=threads, ahead=ahead) as results:
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
        Crew(range(1000), lambda: fail_at(7), threads=3, ahead=3) as results,
    ):
        seen.extend(results)
    assert seen == list(range(7))


def test_a_job_that_was_taken_before_a_later_one_failed_is_done(monkeypatch):
    class SlowForTheFirst(SimpleQueue):
        def get(self):
            task = super().get()
            time.sleep(0.1 if task is not None and task.job == 0 else 0)
            return task

    monkeypatch.setattr("imager.crew.SimpleQueue", SlowForTheFirst)
    seen = []
    with pytest.raises(ValueError, match="job 1"), Crew(range(2), lambda: fail_at(1), threads=2) as results:
        seen.extend(results)
    assert seen == [0]


def test_the_first_of_two_errors_in_the_order_of_jobs_is_raised():
    def worker(number):
        time.sleep(0.05 if number == 0 else 0)
        raise ValueError(f"job {number}")

    with pytest.raises(ValueError, match="job 0"):
        run(range(2), worker, threads=2)


def test_an_error_of_the_jobs_themselves_is_raised_in_its_place():
    def jobs():
        yield from range(4)
        raise ImageDamaged("no more")

    seen = []
    with pytest.raises(ImageDamaged), Crew(jobs(), lambda: slow_first, threads=2, ahead=2) as results:
        seen.extend(results)
    assert seen == [0, 1, 2, 3]


def test_an_interrupt_while_a_job_is_taken_ends_it_at_once():
    def jobs():
        yield from range(4)
        raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt), Crew(jobs(), lambda: slow_first, threads=2, ahead=4) as results:
        seen.extend(results)
    assert not seen


def test_jobs_behind_an_error_are_not_begun():
    begun = []

    def worker(number):
        begun.append(number)
        if number == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"):
        run(range(1000), worker, threads=2, ahead=20)
    assert len(begun) < 30


def test_every_thread_makes_one_worker():
    made = []

    def make():
        made.append(threading.get_ident())
        return slow_first

    with Crew(range(100), make, threads=3) as results:
        assert list(results) == list(range(100))
    assert len(made) == len(set(made)) <= 3


def test_a_worker_that_cannot_be_made_is_an_error_and_no_hang():
    def make():
        raise MemoryError("no buffer")

    with pytest.raises(MemoryError), Crew(range(100), make, threads=2, ahead=2) as results:
        list(results)


def test_no_more_jobs_are_taken_than_may_be():
    taken = []

    def jobs():
        for number in range(100):
            taken.append(number)
            yield number

    with Crew(jobs(), lambda: slow_first, threads=2, ahead=3) as results:
        for result in results:
            assert len(taken) <= result + 5


def test_few_results_are_handed_out_when_more_would_take_long():
    more = threading.Event()

    def worker(number):
        return number if number < 2 else more.wait(30)

    with Crew(range(20), lambda: worker, threads=2, ahead=18) as results:
        first = iter(results)
        assert [next(first), next(first)] == [0, 1]
        more.set()


def test_there_is_a_thread_for_each_core_that_may_be_used():
    before = set(threading.enumerate())
    with Crew([], lambda: slow_first):
        assert len(new_threads(before)) == usable_cores()


def test_leaving_early_ends_the_threads():
    with no_thread_stays(), Crew(range(10**9), lambda: slow_first, threads=4, ahead=4) as results:
        assert next(iter(results)) == 0


def test_a_worker_that_hangs_does_not_hold_up_the_end():
    forever, ended = threading.Event(), []

    def interrupted():
        with Crew(range(10), lambda: lambda number: ended.append(forever.wait(300)), threads=2, ahead=2):
            raise KeyboardInterrupt

    with no_thread_stays():
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert not ended
        forever.set()
