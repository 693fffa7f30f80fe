"""Ctrl-Z for longer than a deadline: no reader is given up for the time in which nothing ran."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crosslmm.video.file import VideoFile
from crosslmm.video.prefetch import Heartbeat

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no Ctrl-Z")

PREFETCH = """
import time
from crosslmm.video.prefetch import Prefetch
def produce(heartbeat):
    for _ in range(40):
        time.sleep(0.05)
    yield "frame"
reading = Prefetch(produce, depth=1, deadline=4.0)
reading.start()
print("started", flush=True)
print(reading.take())
"""
WORKER = f"""
from crosslmm.video.worker import WorkerProcess
worker = WorkerProcess("{__name__}:wait", timeout=5.5, heartbeats=False)
worker.start()
running = worker.run({{}})
print(next(running).head, flush=True)
print(next(running).head)
worker.close()
"""


def wait(job: dict[str, Any]) -> Iterator[tuple[Any, bytes]]:
    """What a worker does here; it is not stopped with the process that started it."""
    yield "started", b""
    time.sleep(8.0)
    yield "frame", b""


@pytest.mark.parametrize("code", [PREFETCH, WORKER], ids=["thread", "process"])
def test_a_reader_goes_on_after_its_process_was_stopped(code: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGSTOP)
    time.sleep(6.0)
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == ("frame\n", 0)


def test_a_file_is_read_on_after_its_process_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(bytes(1000))
    with VideoFile(str(tmp_path / "a"), deadline=60.0) as file:
        assert file.read(10)
        now = time.monotonic()
        for step in range(1, 100):
            monkeypatch.setattr("time.monotonic", lambda now=now, step=step: now + 3600 * step)
            assert bool(file.read(10)) == (step < 30)


def test_the_time_for_a_file_does_not_run_out_while_it_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heartbeat = Heartbeat(allowed=3600.0, deadline=60.0)
    heartbeat.start()
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 100_000)
    heartbeat()
    heartbeat.pause()
    assert heartbeat.seconds == 60.0
