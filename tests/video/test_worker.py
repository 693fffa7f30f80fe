"""The worker protocol: jobs, replies, failures, timeouts, and death in words.

The functions `count`, `huge`, ... are handlers; each is imported by a worker process of its own.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosslmm.errors import VideoError
from crosslmm.video.worker import JobFailed, WorkerDied, WorkerProcess, WorkerTimeout

Make = Callable[..., WorkerProcess]


def count(job: dict[str, Any]) -> Iterator[tuple[Any, bytes]]:
    print("a library's chatter")
    os.write(1, b'{"kind": "end"}\n')
    for number in range(job["replies"]):
        yield {"number": number, "name": job.get("name")}, bytes([number]) * number


def huge(job: dict[str, Any]) -> Iterator[tuple[Any, memoryview]]:
    pixels = np.arange(job["size"], dtype=np.uint64).astype(np.uint8)
    yield {"shape": [2, job["size"] // 2]}, pixels.reshape(2, -1).data


def fail(job: dict[str, Any]) -> Iterator[tuple[Any, bytes]]:
    yield None, b""
    if job["error"] == "video":
        raise VideoError("a.mp4: not a video")
    if job["error"] == "pipe":
        raise BrokenPipeError("the handler's own")
    raise ZeroDivisionError("a long\nstory")


def wait(job: dict[str, Any]) -> Iterator[tuple[Any, bytes]]:
    yield os.getpid(), b""
    time.sleep(job["seconds"])
    yield "done", b""


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[WorkerProcess] = []

    def worker(handler: str, timeout: float | None = 60.0, **options: Any) -> WorkerProcess:
        made.append(WorkerProcess(f"{__name__}:{handler}", timeout=timeout, **options))
        return made[-1]

    yield worker
    for each in made:
        each.close()
        assert not each.alive


OTHERS: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def know_others() -> None:
    """Timekeepers of workers that other tests left running, such as that of chat templates."""
    OTHERS.clear()
    OTHERS.update(threading.enumerate())


def no_timekeeper_within(seconds: float) -> bool:
    until = time.monotonic() + seconds
    while any(t.name == "crosslmm-timeout" for t in set(threading.enumerate()) - OTHERS):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_one_worker_does_many_jobs_with_several_replies_each(make: Make) -> None:
    worker = make("count")
    assert (worker.pid, worker.alive, worker.jobs) == (None, False, 0)  # no work in the constructor
    worker.start()
    pids = set()
    for replies in (3, 0, 1):
        got = list(worker.run({"replies": replies, "name": "caf\udce9.mp4"}))
        assert [reply.head["number"] for reply in got] == list(range(replies))
        assert [reply.payload.tolist() for reply in got] == [[n] * n for n in range(replies)]
        assert all(reply.head["name"] == "caf\udce9.mp4" for reply in got)
        pids.add(worker.pid)
    assert len(pids) == 1
    assert worker.jobs == 3


def test_a_large_payload_arrives_complete_and_writable(make: Make) -> None:
    worker = make("huge")
    worker.start()
    (reply,) = worker.run({"size": 50_000_000})
    assert reply.payload.flags.writeable
    pixels = reply.payload.reshape(reply.head["shape"])
    assert np.array_equal(pixels.ravel()[::999_983], np.arange(0, 50_000_000, 999_983) % 256)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("video", "a.mp4: not a video"),
        ("pipe", "BrokenPipeError: the handler's own"),
        ("other", "ZeroDivisionError: a long"),
    ],
)
def test_a_failed_job_is_said_and_the_next_one_done(error: str, words: str, make: Make) -> None:
    worker = make("fail")
    worker.start()
    for _ in range(2):
        with pytest.raises(JobFailed) as caught:
            list(worker.run({"error": error}))
        assert str(caught.value) == words


@pytest.mark.skipif(os.name == "nt", reason="signals are another thing there")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_death_is_told_in_words(number: int, make: Make) -> None:
    worker = make("wait")
    worker.start()
    running = worker.run({"seconds": 60})
    os.kill(next(running).head, number)
    with pytest.raises(WorkerDied, match=rf"the process died \(signal {int(number)}\)"):
        next(running)
    assert not worker.alive


@pytest.mark.skipif(os.name == "nt", reason="signals are another thing there")
def test_a_silent_process_is_killed_after_the_timeout(make: Make) -> None:
    worker = make("wait", timeout=1.5)
    worker.start()
    assert [reply.head for reply in worker.run({"seconds": 0})][1] == "done"
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(WorkerTimeout) as caught:
        list(worker.run({"seconds": 0}))
    assert 1.4 < time.monotonic() - began < 8
    assert caught.value.seconds == 1.5
    assert no_timekeeper_within(5)


def test_a_long_job_and_a_slow_consumer_are_no_silence(make: Make) -> None:
    worker = make("wait", timeout=1.5)
    worker.start()
    running = worker.run({"seconds": 3})
    next(running)
    assert next(running).head == "done"  # heartbeats came in between
    assert list(running) == []
    running = worker.run({"seconds": 0})
    next(running)
    time.sleep(2.5)
    assert [reply.head for reply in running] == ["done"]


def test_the_start_has_a_time_of_its_own(make: Make) -> None:
    worker = make("count", timeout=0.001, start_timeout=60.0)
    worker.start()
    assert next(worker.run({"replies": 1})).head["number"] == 0
    hasty = make("count", timeout=0.001, start_timeout=0.001)
    hasty.start()
    with pytest.raises(WorkerTimeout):
        list(hasty.run({"replies": 1}))


def test_killed_from_another_thread(make: Make) -> None:
    worker = make("wait")
    worker.start()
    running = worker.run({"seconds": 60})
    next(running)
    timer = threading.Timer(0.3, worker.kill)
    timer.start()
    began = time.monotonic()
    with pytest.raises(WorkerDied):
        next(running)
    assert time.monotonic() - began < 5
    timer.join()
    assert no_timekeeper_within(5)


def test_who_stops_early_closes_the_worker(make: Make) -> None:
    worker = make("wait")
    worker.start()
    running = worker.run({"seconds": 60})
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert not worker.alive


def test_closed_before_it_started(make: Make) -> None:
    worker = make("count")
    worker.close()
    with pytest.raises(WorkerDied, match="closed"):
        worker.start()


def test_a_handler_that_cannot_be_imported_ends_the_process(make: Make) -> None:
    worker = make("none_of_this_name")
    worker.start()
    with pytest.raises(WorkerDied, match="exit code 1"):
        list(worker.run({}))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_worker_dies_with_its_parent() -> None:
    script = (
        "from crosslmm.video.worker import WorkerProcess\n"
        f"worker = WorkerProcess('{__name__}:wait', timeout=60.0)\n"
        "worker.start()\n"
        "running = worker.run({'seconds': 60})\n"
        "print(next(running).head, flush=True)\n"
        "next(running)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 5
    stat = Path(f"/proc/{pid}/stat")
    while time.monotonic() < until:
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.02)
    pytest.fail("the worker outlived its parent")
