"""Reading ahead of the model: processes that can be killed, and a bounded store of what they read.

Each process has a thread here that hands it videos and takes its clips. When the store is full the
thread stops taking, the pipe fills up, and the process waits: memory is bounded from end to end.
"""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import IO, Any, Generic, Protocol, TypeVar

import numpy as np

from crosslmm.captioning.reading import HEARTBEAT, Clip, ReadRequest, explain, read_clips, unpack
from crosslmm.errors import CrossLMMError, VideoError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Bytes of frames read ahead, beyond the clip that is wanted next.
AHEAD_BYTES = 512 << 20
# A process is replaced after so many videos, because decoders have been seen to grow.
_VIDEOS_PER_PROCESS = 500
# Seconds for a process to start in, on a machine or a file system that is busy.
_START = 120.0
# The path is the parent's own; -P keeps the working directory off it until then.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from crosslmm.captioning.reading import main; main()"
)


@dataclass(frozen=True)
class EndOfVideo(Generic[Item]):
    """A video has been read to its end, or to the `error` that ended it."""

    item: Item
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Read(Generic[Item]):
    """A clip of a video."""

    item: Item
    clip: Clip

    @property
    def size(self) -> int:
        return 0 if self.clip.frames is None else self.clip.frames.pixels.nbytes


Event = Read[Item] | EndOfVideo[Item]
ReadRequests = Iterator[tuple[Item, ReadRequest]]


class ReaderProcess:
    """A process that reads one video after another, started when first needed.

    One that gives no sign of life for `timeout` seconds while it is waited for is killed.
    """

    def __init__(self, *, timeout: float) -> None:
        self.timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._videos = 0
        self._waiting_since: float | None = None
        self._timed_out = self._heard = False
        self._closing = threading.Event()
        threading.Thread(target=self._watch, name="crosslmm-watch", daemon=True).start()

    def read(self, order: ReadRequest) -> Iterator[Clip]:
        """The clips of a video. Raises VideoError, also when the process dies over it."""
        stdin, stdout = self._pipes()
        self._videos += 1
        with contextlib.suppress(OSError):  # where it has died, reading from it will tell
            stdin.write(json.dumps(asdict(order)).encode() + b"\n")
            stdin.flush()
        try:
            while True:
                line = self._wait(stdout.readline)
                if not line.endswith(b"\n"):
                    raise self._death(order.path)
                self._heard = True
                head = json.loads(line)
                if head["kind"] == "error":
                    raise VideoError(head["error"])
                if head["kind"] == "end":
                    break
                if head["kind"] == "clip":
                    pixels = None
                    if "shape" in head:
                        pixels = np.empty(head["shape"], dtype=np.uint8)
                        if not self._fill(stdout, pixels):
                            raise self._death(order.path)
                    yield unpack(head, pixels)
        except VideoError:
            raise
        except BaseException:
            self._end()  # it is in the middle of a video that nobody wants any more
            raise
        if self._videos >= _VIDEOS_PER_PROCESS:
            self._end()

    def close(self) -> None:
        """Kill the process; harmless when there is none."""
        self._closing.set()
        self._end()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        process = self._process
        if process is None or process.poll() is not None:
            self._end()
            self._timed_out, self._heard, self._videos = False, False, 0
            self._process = process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            if self._closing.is_set():
                self._end()
        assert process.stdin is not None
        assert process.stdout is not None
        return process.stdin, process.stdout

    def _wait(self, read: Callable[[], Result]) -> Result:
        self._waiting_since = time.monotonic()
        try:
            return read()
        finally:
            self._waiting_since = None

    def _fill(self, stdout: Any, pixels: np.ndarray) -> bool:
        """Read the pixels, a piece at a time so that a slow pipe is not taken for a silent process."""
        left = pixels.reshape(-1).data
        while left:
            got = self._wait(partial(stdout.readinto1, left))
            if not got:
                return False
            left = left[got:]
        return True

    def _death(self, path: str) -> VideoError:
        process = self._process
        self._end()
        code = None if process is None else process.wait()
        if self._timed_out:
            return VideoError(f"{path}: its reading hung for {self.timeout:g} s and was ended")
        died = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return VideoError(f"{path}: the process that read it died ({died})")

    def _watch(self) -> None:
        while not self._closing.wait(HEARTBEAT / 2):
            since = self._waiting_since
            process = self._process
            patience = self.timeout if self._heard else max(self.timeout, _START)
            if process and since is not None and time.monotonic() - since > patience:
                self._timed_out = True
                process.kill()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError, ValueError):
                if pipe is not None:
                    pipe.close()


class Reading(Protocol[Item]):
    """Videos being read. `seconds` is the time that reading took, in all processes together."""

    seconds: float

    def gather(self, clips: int) -> list[Event[Item]]:
        """What has been read, with at most so many clips; waits for the first, empty at the end."""
        ...

    def close(self) -> None: ...


class InlineReading(Generic[Item]):
    """Reads when asked, in this process; nothing runs ahead."""

    def __init__(self, orders: ReadRequests[Item]) -> None:
        self.seconds = 0.0
        self._events = self._run(orders)

    def gather(self, clips: int) -> list[Event[Item]]:
        events: list[Event[Item]] = []
        for event in self._events:
            events.append(event)
            clips -= isinstance(event, Read)
            if clips == 0:
                break
        return events

    def close(self) -> None:
        self._events.close()

    def _run(self, orders: ReadRequests[Item]) -> Generator[Event[Item], None, None]:
        for item, order in orders:
            error = None
            clips = read_clips(order)
            while True:
                began = time.perf_counter()
                try:
                    clip = next(clips, None)
                except Exception as caught:  # one bad file never stops the rest
                    clip, error = None, explain(caught, order.path)
                finally:
                    self.seconds += time.perf_counter() - began
                if clip is None:
                    break
                yield Read(item, clip)
            yield EndOfVideo(item, error)


class ReaderPool(Generic[Item]):
    """Reads in `readers` processes, at most `ahead` clips and AHEAD_BYTES ahead of `gather`."""

    def __init__(
        self, orders: ReadRequests[Item], *, readers: int, ahead: int, deadline: float
    ) -> None:
        self.seconds = 0.0
        self._orders = orders
        self._ahead = ahead
        self._events: deque[Event[Item]] = deque()
        self._clips = self._bytes = 0
        self._changed = threading.Condition()
        self._asking = threading.Lock()
        self._closed = False
        self._failure: BaseException | None = None
        # The stream inside the process keeps the deadline; this is for a process that cannot.
        self._processes = [ReaderProcess(timeout=deadline + 5 * HEARTBEAT) for _ in range(readers)]
        self._threads = [
            threading.Thread(target=self._serve, args=(process,), name="crosslmm-reader")
            for process in self._processes
        ]
        self._running = readers
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def gather(self, clips: int) -> list[Event[Item]]:
        with self._changed:
            while not self._events and self._running:
                self._changed.wait(0.5)  # a wait without end would hold Ctrl-C back
            events: list[Event[Item]] = []
            while self._events and clips:
                event = self._events.popleft()
                events.append(event)
                if isinstance(event, Read):
                    clips -= 1
                    self._clips -= 1
                    self._bytes -= event.size
            self._changed.notify_all()
            if not events and self._failure is not None:
                raise self._failure
            return events

    def close(self) -> None:
        """End the processes; returns once their threads have ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for process in self._processes:
            process.close()
        for thread in self._threads:
            thread.join(5.0)

    def _serve(self, process: ReaderProcess) -> None:
        try:
            while (work := self._next_order()) is not None:
                item, order = work
                error = None
                try:
                    for clip in process.read(order):
                        if not self._put(Read(item, clip)):
                            return
                except CrossLMMError as caught:
                    error = str(caught)
                if not self._put(EndOfVideo(item, error)):
                    return
        except BaseException as caught:  # travels to `gather`
            self._failure = caught
        finally:
            process.close()
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _next_order(self) -> tuple[Item, ReadRequest] | None:
        with self._asking:
            return None if self._closed else next(self._orders, None)

    def _put(self, event: Event[Item]) -> bool:
        size = event.size if isinstance(event, Read) else 0
        with self._changed:
            while not self._closed and isinstance(event, Read) and self._is_full(size):
                self._changed.wait()
            if self._closed:
                return False
            self._events.append(event)
            if isinstance(event, Read):
                self._clips += 1
                self._bytes += size
                self.seconds += event.clip.seconds
            self._changed.notify_all()
            return True

    def _is_full(self, size: int) -> bool:
        return self._clips > 0 and (self._clips >= self._ahead or self._bytes + size > AHEAD_BYTES)
