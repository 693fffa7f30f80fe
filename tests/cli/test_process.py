"""The command line as processes: start-up time, streams, pipes and Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CROSSLMM = (sys.executable, "-m", "crosslmm_cli")
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`start(*command)`: a process with both streams piped, ended with the test."""
    started = []

    def call(*command: object, **options: Any) -> subprocess.Popen[bytes]:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([*map(str, command)], **{**streams, **options})
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "numpy", "av", "huggingface_hub")
    code = (
        "import sys; from crosslmm_cli.main import execute; import crosslmm\n"
        "assert execute(['--help']) == 0\n"
        f"loaded = [name for name in {heavy} if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "ask" in finished.stdout


def test_completion() -> None:
    environment = {
        **os.environ,
        "_CROSSLMM_COMPLETE": "complete_bash",
        "COMP_WORDS": "crosslmm models p",
        "COMP_CWORD": "2",
    }
    code = "import sys; sys.argv = ['crosslmm']; from crosslmm_cli.__main__ import main; main()"
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert finished.stdout.split() == ["pull"]


def test_plain_text_in_a_pipe_even_where_colour_is_forced(
    start: Start, checkpoint: Path, clip: Path
) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    del environment["NO_COLOR"]
    process = start(
        *(*CROSSLMM, "ask", clip, "q", "--model", checkpoint, "--max-new-tokens", 3),
        env=environment,
    )
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert b"\x1b" not in out + err


def test_a_terminal_sees_progress_and_its_cursor_again(
    start: Start, checkpoint: Path, clip: Path
) -> None:
    pty = pytest.importorskip("pty")
    shown_to, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    del environment["NO_COLOR"]
    process = start(
        *(*CROSSLMM, "ask", clip, "one", "two", "--model", checkpoint, "--max-new-tokens", 3),
        "--no-cache",  # another test may have encoded these frames
        stdout=terminal,
        stderr=terminal,
        env=environment,
    )
    os.close(terminal)
    seen = b""
    while True:
        try:
            data = os.read(shown_to, 65536)
        except OSError:  # what Linux says when the other side has closed
            break
        if not data:
            break
        seen += data
    os.close(shown_to)
    assert process.wait(timeout=240) == 0
    assert b"loading the model" in seen
    assert b"encoding frames" in seen
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")
    assert b"> one" in seen
    assert seen.index(b"> two") > seen.index(b"> one")


def test_the_answer_streams_and_a_closed_pipe_ends_it_quietly(
    start: Start, endless: Path, clip: Path
) -> None:
    process = start(*CROSSLMM, "ask", clip, "q", "--model", endless, "--max-new-tokens", 100_000)
    assert process.stdout is not None
    assert process.stderr is not None
    assert len(process.stdout.read(8)) == 8  # long before the end
    process.stdout.close()
    assert process.wait(timeout=30) == 141
    assert process.stderr.read().count(b"\n") == 1  # the line about the frames


class TestInterrupt:
    """Ctrl-C ends each stage at once, with 130 and one line."""

    @pytest.mark.parametrize("stage", ["importing", "decoding", "generating"])
    def test_ask(self, start: Start, endless: Path, clip: Path, tmp_path: Path, stage: str) -> None:
        video, sampling = clip, ("--frames", 4)
        if stage == "decoding":
            from tests.support.clips import write_clip

            video, sampling = tmp_path / "long.mp4", ("--frames", 4000)
            write_clip(video, frames=4000, fps=50, gop=250)
        process = start(
            *(*CROSSLMM, "ask", video, "q", "--model", endless, "--max-new-tokens", 100_000),
            *sampling,
        )
        assert process.stdout is not None
        if stage == "generating":
            process.stdout.read(8)
        else:
            wait_for_library(process.pid, "torch" if stage == "importing" else "libav")
        pressed = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert time.monotonic() - pressed < 3
        assert err.endswith(b"crosslmm: interrupted\n")
        assert b"Traceback" not in err
        if stage != "generating":
            assert out == b""

    @pytest.mark.parametrize(
        "busy",
        [
            "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",  # no handler runs meanwhile
            "threading.Thread(target=time.sleep, args=(60,)).start(); time.sleep(60)",
            "[swallow() for _ in range(60)]",
        ],
        ids=["in C", "a thread that stays", "swallowed"],
    )
    def test_what_does_not_unwind_is_ended(self, start: Start, busy: str) -> None:
        code = (
            "import hashlib, sys, threading, time\n"
            "from crosslmm_cli import interrupt\n"
            "def swallow():\n"
            "    try: time.sleep(1)\n"
            "    except KeyboardInterrupt: pass\n"
            "interrupt.install()\n"
            "print('ready', flush=True)\n"
            f"{busy}\n"
        )
        process = start(sys.executable, "-c", code)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)
        pressed = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert time.monotonic() - pressed < 5


def wait_for_library(pid: int, name: str, *, seconds: float = 240) -> None:
    """Until a shared library of that name is mapped into the process."""
    maps = Path(f"/proc/{pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc here to see how far the process is")
    until = time.monotonic() + seconds
    while name not in maps.read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
