"""Reading with a library that can hang or crash: in a process of its own.

decord can loop for ever inside C, where neither a signal nor a thread's timeout reaches it; only
killing its process does. ``Prefetch`` keeps the deadline and has the process killed.
"""

import contextlib
import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from crosslmm.errors import VideoError
from crosslmm.video.frames import Frame
from crosslmm.video.worker import DecodeJob

if TYPE_CHECKING:
    from crosslmm.video.prefetch import Heartbeat
    from crosslmm.video.probe import Plan

# -P keeps the working directory off the path until the parent's own path is put in place.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from crosslmm.video.worker import main; main()"
)


class ProcessReader:
    """Reads the frames of a plan with the function named ``read`` ("module:function").

    The function takes a ``worker.DecodeJob`` and yields (number, upright (H, W, 3) uint8) pairs.
    """

    def __init__(self, plan: "Plan", read: str, *, heartbeat: "Heartbeat") -> None:
        self.plan, self.function = plan, read
        self.warnings: list[str] = []
        self.bad_packets = 0
        self._heartbeat = heartbeat

    def read(self) -> Iterator[Frame]:
        """The frames of the plan; ``VideoError`` when the process fails, is killed or refuses."""
        process = self._start()
        assert process.stdin is not None
        # Killed at once when the consumer gives up, even while this thread waits for its output.
        killing = threading.Lock()

        def kill() -> None:
            with killing:
                if process.poll() is None:
                    process.kill()

        self._heartbeat.on_cancel = kill
        try:
            self._heartbeat()
            # Where it has died already, reading from it will tell.
            with contextlib.suppress(OSError):
                process.stdin.write(self._job_line())
                process.stdin.flush()
            yield from self._frames(process)
        finally:
            kill()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()
            process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path)]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _job_line(self) -> bytes:
        return json.dumps({**asdict(self._job()), "read": self.function}).encode() + b"\n"

    def _job(self) -> DecodeJob:
        plan, index = self.plan, self.plan.index
        numbers = [target.index for target in plan.targets]
        return DecodeJob(
            path=plan.path,
            numbers=numbers,
            times=[float(index.times[number]) for number in numbers],
            count=len(index),
            hidden=index.hidden,
            leading=index.leading,
            sequential=index.sequential,
            mirrored=plan.mirrored,
            container=plan.source.container,
            display=plan.source.size,
            size=plan.size,
            resample=plan.resample,
        )

    def _frames(self, process: "subprocess.Popen[bytes]") -> Iterator[Frame]:
        out = process.stdout
        assert out is not None
        while True:
            line = out.readline()
            self._heartbeat()
            if not line:
                code = process.wait()
                raise VideoError(
                    f"{self.plan.path}: the decoding process died ({_death(code)}); "
                    "use --reader pyav"
                )
            head = json.loads(line)
            if "error" in head:
                raise VideoError(head["error"])
            if "end" in head:
                return
            shape = tuple(head["shape"])
            data = bytearray(out.read(math.prod(shape)))
            if len(data) == math.prod(shape):
                pixels = np.frombuffer(data, dtype=np.uint8).reshape(shape)
                yield Frame(pixels, head["index"], head["time"])


def _death(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
