"""Work in a process that can be killed: the one protocol for it, both sides.

A decoder can loop for ever inside C, where neither a signal nor a thread's timeout reaches it; only
killing its process does. The process is an interpreter of its own, never a fork and never a re-run
of the user's `__main__`, and it gets the parent's `sys.path`.

- Parent to worker, on stdin: one line of JSON per job. The end of stdin ends the worker.
- Worker to parent, on stdout: messages, each a line of JSON with a `kind`, in the order of the jobs.
  - `reply`: `head` (any JSON) and `size`, the number of bytes of raw payload that follow the line.
    A job has any number of replies.
  - `end`: the job is done. `error`: the job failed; `error` says why. Either way the next job follows.
  - `heartbeat`: the interpreter is alive. It says nothing about the progress of the job.

What libraries print on stdout goes to stderr, which nobody reads. A worker dies with its parent,
whichever way that dies: stdin ends, and on Linux the kernel kills it when the *thread* that started
it ends. Shared memory would be a little faster than pipes, and would outlive a kill.

    worker = WorkerProcess("package.module:handler", timeout=65.0)
    worker.start()
    for reply in worker.run({"path": path}):      # raises JobFailed, WorkerTimeout, WorkerDied
        pixels = reply.payload.reshape(reply.head["shape"])
    worker.close()

    def handler(job: dict[str, Any]) -> Iterator[tuple[Any, Payload]]:       # in package/module.py
        yield {"shape": pixels.shape}, pixels.data

A worker is used until it dies or until its owner has had enough of it (`jobs` counts); then the owner
makes another one.
"""

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import IO, Any, TypeVar

import numpy as np

from crosslmm.errors import CrossLMMError
from crosslmm.video.memory_limit import OUT_OF_MEMORY, limit_memory

# Seconds between heartbeats of a worker whose parent keeps a timeout.
HEARTBEAT = 1.0
# Seconds for a process to start in, on a machine or a file system that is busy.
START_TIMEOUT = 120.0

# -P keeps the working directory off the path until the parent's own path is put in place.
_BOOT = (
    "import json, sys; settings = json.loads(sys.argv[1]); sys.path[:] = settings.pop('path'); "
    "from crosslmm.video.worker import main; main(**settings)"
)
# A timekeeper that wakes so many seconds late did not run, as after Ctrl-Z; no silence is counted then.
STOPPED = 2.0
_PR_SET_PDEATHSIG = 1

Payload = bytes | bytearray | memoryview
Handler = Callable[[dict[str, Any]], Iterator[tuple[Any, Payload]]]
Result = TypeVar("Result")


class JobFailed(Exception):
    """A job failed, in the words of its handler; the worker takes the next one."""


class WorkerDied(Exception):
    """The process has ended before its job; `cause` is `signal 9` or `exit code 1`."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"the process died ({cause})")
        self.cause = cause


class WorkerTimeout(WorkerDied):
    """The process gave no sign of life for `seconds` and was killed."""

    def __init__(self, cause: str, seconds: float) -> None:
        super().__init__(cause)
        self.seconds = seconds


@dataclass(frozen=True, eq=False)
class Reply:
    """One reply to a job: `head`, and `payload` (N,) uint8, writable."""

    head: Any
    payload: np.ndarray


class WorkerProcess:
    """A process that does one job after another with `handler`, given as `module:function`.

    - `timeout`: seconds without a message, while one is waited for, after which the process is
      killed; None where somebody else watches it. `start_timeout` replaces a shorter one until the
      first message.
    - `heartbeats`: False where `timeout` is the time of a job, and not of silence.
    - `memory`: bytes that the process may hold, None for no limit; see `limit_memory`.
    - `jobs`: how many it was given.

    `run` and `start` belong to one thread, which must live as long as the process; `kill` and `close`
    may come from any.
    """

    def __init__(
        self,
        handler: str,
        *,
        timeout: float | None,
        start_timeout: float = START_TIMEOUT,
        memory: int | None = None,
        heartbeats: bool = True,
    ) -> None:
        self.handler, self.timeout, self.start_timeout = handler, timeout, start_timeout
        self.memory, self.heartbeats = memory, heartbeats
        self.jobs = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._closing = threading.Event()
        self._waiting_since: float | None = None
        self._heard = self._timed_out = False

    @property
    def pid(self) -> int | None:
        """The process's id, once started."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process. Raises WorkerDied when it has been closed already."""
        settings = {
            "path": sys.path,
            "handler": self.handler,
            "heartbeat": None if self.timeout is None else self._interval(),
            "parent": os.getpid(),
            "memory": self.memory,
        }
        with self._starting:
            if self._closing.is_set():
                raise WorkerDied("closed")
            # This interpreter and this module's own program; no shell, nothing of a user's but data.
            self._process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, "-P", "-c", _BOOT, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        if self.timeout is not None:
            threading.Thread(target=self._keep_time, name="crosslmm-timeout", daemon=True).start()

    def run(self, job: dict[str, Any]) -> Iterator[Reply]:
        """Do a job and give its replies as they come; to stop early closes the worker.

        Raises JobFailed, after which the worker goes on, and WorkerDied or its WorkerTimeout.
        """
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        self.jobs += 1
        with contextlib.suppress(OSError):  # where it has died, reading from it will tell
            stdin.write(json.dumps(job).encode() + b"\n")
            stdin.flush()
        try:
            while True:
                line = self._wait(stdout.readline)
                if not line.endswith(b"\n"):
                    raise self._death()
                self._heard = True
                message = json.loads(line)
                match message["kind"]:
                    case "reply":
                        yield Reply(message["head"], self._payload(stdout, message["size"]))
                    case "error":
                        raise JobFailed(message["error"])
                    case "end":
                        return
        except JobFailed:
            raise
        except BaseException:
            self.close()  # it is in the middle of a job that nobody waits for any more
            raise

    def kill(self) -> None:
        """Kill the process, from any thread; a `run` under way then raises WorkerDied."""
        self._closing.set()
        with self._starting:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def close(self) -> None:
        """Kill the process and let go of its pipes; harmless when it never started."""
        self.kill()
        if self._process is None:
            return
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()

    def _interval(self) -> float:
        """Seconds between heartbeats; the first one always comes, when the process has started."""
        return HEARTBEAT if self.heartbeats else threading.TIMEOUT_MAX

    def _payload(self, stdout: IO[bytes], size: int) -> np.ndarray:
        """Read a payload a piece at a time, so that a slow pipe is not taken for a silent process."""
        payload = np.empty(size, dtype=np.uint8)
        left = payload.data
        while left:
            got = self._wait(partial(stdout.readinto1, left))  # type: ignore[attr-defined]
            if not got:
                raise self._death()
            left = left[got:]
        return payload

    def _wait(self, read: Callable[[], Result]) -> Result:
        self._waiting_since = time.monotonic()
        try:
            return read()
        finally:
            self._waiting_since = None

    def _keep_time(self) -> None:
        assert self.timeout is not None
        woken = time.monotonic()
        while not self._closing.wait(min(HEARTBEAT, self.timeout) / 2):
            slept, woken = time.monotonic() - woken, time.monotonic()
            if slept > STOPPED and self._waiting_since is not None:
                self._waiting_since = woken
            since = self._waiting_since
            limit = self.timeout if self._heard else max(self.timeout, self.start_timeout)
            if since is not None and time.monotonic() - since > limit:
                self._timed_out = True
                self.kill()

    def _death(self) -> WorkerDied:
        """The error for a process whose output has ended."""
        assert self._process is not None
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        cause = f"signal {-code}" if code < 0 else f"exit code {code}"
        cause = "out of memory" if code == OUT_OF_MEMORY else cause
        if self._timed_out and self.timeout is not None:
            return WorkerTimeout(cause, self.timeout)
        return WorkerDied(cause)


class Channel:
    """The worker's way to its parent: the real stdout, taken from whatever else prints there."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._sending = threading.Lock()

    @classmethod
    def take_stdout(cls) -> "Channel":
        """The channel, after which file descriptor 1 is stderr's."""
        out = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        return cls(out)

    def send(self, kind: str, payload: Payload = b"", **fields: Any) -> None:
        """Send one message; the process ends where nobody listens any more."""
        with self._sending:
            try:
                self._out.write(json.dumps({"kind": kind, **fields}).encode() + b"\n")
                self._out.write(payload)
                self._out.flush()
            except OSError:
                os._exit(0)


def serve(handler: Handler, channel: Channel, *, heartbeat: float | None) -> None:
    """Do the jobs that come on stdin, until it ends; `heartbeat` is the interval in seconds.

    A handler should raise CrossLMMError; of other errors only the kind and the first line are said.
    """
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            jobs.put(line)
        os._exit(0)

    def beat(interval: float) -> None:
        while True:
            channel.send("heartbeat")
            time.sleep(interval)

    threading.Thread(target=listen, daemon=True).start()
    if heartbeat is not None:
        threading.Thread(target=beat, args=(heartbeat,), daemon=True).start()
    while True:
        job = json.loads(jobs.get())
        try:
            for head, payload in handler(job):
                channel.send("reply", payload, head=head, size=memoryview(payload).nbytes)
        except CrossLMMError as error:
            channel.send("error", error=str(error))
        except Exception as error:
            first, *_ = str(error).strip().splitlines() or ["no reason was given"]
            channel.send("error", error=f"{type(error).__name__}: {first}")
        else:
            channel.send("end")


def main(handler: str, heartbeat: float | None, parent: int, memory: int | None) -> None:
    """The process of a `WorkerProcess`, whose id is `parent`."""
    channel = Channel.take_stdout()  # before the handler's module prints anything
    die_with_parent(parent)
    module, _, function = handler.partition(":")
    work = getattr(import_module(module), function)
    if memory is not None:
        limit_memory(memory)
    serve(work, channel, heartbeat=heartbeat)


def die_with_parent(parent: int) -> None:
    """Leave Ctrl-C to the process `parent`, and end when it does (on Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
