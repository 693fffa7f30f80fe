"""Running ahead of a consumer: how far, how long a producer may be silent, and what travels."""

import threading
import time
from collections.abc import Iterator

import pytest

from crosslmm.video.prefetch import Heartbeat, Prefetch, Stalled
from tests.support.threads import no_thread_within, reading_threads


def test_nothing_runs_before_it_is_started() -> None:
    def produce(heartbeat: Heartbeat) -> Iterator[int]:
        yield 1

    ahead = Prefetch(produce, depth=1, deadline=5)
    assert reading_threads() == 0
    ahead.close()
    ahead = Prefetch(produce, depth=1, deadline=5)
    ahead.start()
    assert ahead.take() == 1
    ahead.close()
    assert no_thread_within(5)


def test_reading_runs_ahead_but_not_far() -> None:
    made = []

    def produce(heartbeat: Heartbeat) -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    ahead = Prefetch(produce, depth=3, deadline=5)
    ahead.start()
    try:
        assert ahead.take() == 0
        time.sleep(0.3)
        assert 4 <= len(made) <= 5
    finally:
        ahead.close()
    assert no_thread_within(5)


def test_a_slow_consumer_is_no_hang() -> None:
    def produce(heartbeat: Heartbeat) -> Iterator[int]:
        yield from range(6)

    ahead = Prefetch(produce, depth=1, deadline=0.2)
    ahead.start()
    for number in range(6):
        assert ahead.take() == number
        time.sleep(0.3)
    with pytest.raises(StopIteration):
        ahead.take()
    assert ahead.seconds < 0.2


def test_progress_is_no_hang() -> None:
    def produce(heartbeat: Heartbeat) -> Iterator[int]:
        for _ in range(10):
            time.sleep(0.05)
            heartbeat()
        yield 1
        stuck.wait(30)

    stuck = threading.Event()
    ahead = Prefetch(produce, depth=1, deadline=0.3)
    ahead.start()
    assert ahead.take() == 1
    assert ahead.seconds > 0.4
    with pytest.raises(Stalled):
        ahead.take()
    stuck.set()
    assert no_thread_within(5)


def test_errors_travel_to_the_consumer() -> None:
    def produce(heartbeat: Heartbeat) -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("mine")

    ahead = Prefetch(produce, depth=1, deadline=5)
    ahead.start()
    assert ahead.take() == 1
    with pytest.raises(ZeroDivisionError, match="mine"):
        ahead.take()
    assert no_thread_within(5)
