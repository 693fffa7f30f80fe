"""Reading ahead of the model: processes that can be killed, and a bounded buffer of what they read.

Each process has a thread here that gives it videos and takes its clips. When the buffer is full the
thread stops taking, the pipe fills up, and the process waits: memory is bounded from end to end.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from itertools import islice, takewhile
from typing import Protocol

from crosslmm.captioning.reading import Clip, ReadRequest, explain, read_clips, unpack
from crosslmm.errors import CrossLMMError, VideoError
from crosslmm.limits import READER_MEMORY
from crosslmm.video.worker import HEARTBEAT, JobFailed, WorkerDied, WorkerProcess, WorkerTimeout

AHEAD_BYTES = 512 << 20  # of frames, beyond the clip that is wanted next
# A process is replaced after so many videos, because decoders have been seen to grow.
_VIDEOS_PER_PROCESS = 500


def never() -> bool:
    return False


class ClipReader:
    """Reads one video after another in a worker process, started when first needed and replaced when
    it dies.

    The stream inside the process gives up after `deadline` seconds without progress. A process that
    cannot even do that is killed when it has given no sign of life for `grace` seconds longer.
    """

    def __init__(self, *, deadline: float, grace: float = 5 * HEARTBEAT) -> None:
        self._timeout = deadline + grace
        self._worker: WorkerProcess | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The id of the process, once started."""
        return None if self._worker is None else self._worker.pid

    def read(self, request: ReadRequest) -> Iterator[Clip]:
        """The clips of a video. Raises VideoError, also when the process dies."""
        worker = None
        try:
            worker = self._live_worker(request)
            for reply in worker.run(asdict(request)):
                yield unpack(reply.head, reply.payload)
        except JobFailed as error:
            raise VideoError(str(error)) from None
        except WorkerTimeout as error:
            reason = f"decoding stalled for {error.seconds:g} s and was stopped"
            raise VideoError(f"{request.path}: {reason}") from None
        except WorkerDied as error:
            reason = f"the decoding process died ({error.cause})"
            raise VideoError(f"{request.path}: {reason}") from None
        except GeneratorExit:
            if worker is not None:
                worker.close()  # it is in the middle of a video that nobody wants any more
            raise

    def close(self) -> None:
        """Kill the process, from any thread; harmless when there is none."""
        self._closed = True
        if self._worker is not None:
            self._worker.close()

    def _live_worker(self, request: ReadRequest) -> WorkerProcess:
        worker = self._worker
        if worker is not None and worker.alive and worker.jobs < _VIDEOS_PER_PROCESS:
            return worker
        if worker is not None:
            worker.close()
        worker = WorkerProcess(
            "crosslmm.captioning.reading:read_packed",
            timeout=self._timeout,
            memory=READER_MEMORY + request.frame_bytes,
        )
        self._worker = worker
        if self._closed:  # by another thread, which may not have seen this one
            worker.kill()
        worker.start()
        return worker


class Reading(Protocol):
    """Videos being read. `seconds` is the time that reading took, in all processes together."""

    seconds: float

    def gather(self, clips: int, *, stopping: Callable[[], bool] = never) -> list[Clip]:
        """At most so many clips that have been read; waits for the first, unless `stopping`; empty at
        the end."""
        ...

    def close(self) -> None: ...


class InlineReading:
    """Reads when asked, in this process; nothing is read ahead."""

    def __init__(self, requests: Iterator[ReadRequest]) -> None:
        self.seconds = 0.0
        self._clips = self._read(requests)

    def gather(self, clips: int, *, stopping: Callable[[], bool] = never) -> list[Clip]:
        return list(islice(takewhile(lambda clip: not stopping(), self._clips), clips))

    def close(self) -> None:
        self._clips.close()

    def _read(self, requests: Iterator[ReadRequest]) -> Generator[Clip, None, None]:
        for request in requests:
            clips = read_clips(request)
            while True:
                began = time.perf_counter()
                try:
                    clip = next(clips, None)
                except Exception as error:  # one bad file never stops the rest
                    clip = Clip(path=request.path, problem=explain(error, request.path))
                finally:
                    self.seconds += time.perf_counter() - began
                if clip is None:
                    break
                yield clip


class ReaderPool:
    """Reads in `readers` processes, at most `ahead` clips and `ahead_bytes` ahead of `gather`."""

    def __init__(
        self,
        requests: Iterator[ReadRequest],
        *,
        readers: int,
        ahead: int,
        deadline: float,
        ahead_bytes: int = AHEAD_BYTES,
    ) -> None:
        self.seconds = 0.0
        self._requests = requests
        self._ahead = ahead
        self._ahead_bytes = ahead_bytes
        self._clips: deque[Clip] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._asking = threading.Lock()
        self._closed = False
        self._failure: BaseException | None = None
        self._readers = [ClipReader(deadline=deadline) for _ in range(readers)]
        self._threads = [
            threading.Thread(
                target=self._serve, args=(reader,), name="crosslmm-reader", daemon=True
            )
            for reader in self._readers
        ]
        self._running = 0

    @property
    def buffered(self) -> tuple[int, int]:
        """Clips and bytes that have been read ahead."""
        with self._changed:
            return len(self._clips), self._bytes

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that have been started."""
        return [reader.pid for reader in self._readers if reader.pid is not None]

    def start(self) -> None:
        """Begin to read."""
        self._running = len(self._threads)
        for thread in self._threads:
            thread.start()

    def gather(self, clips: int, *, stopping: Callable[[], bool] = never) -> list[Clip]:
        with self._changed:
            while not self._clips and self._running and not stopping():
                self._changed.wait(0.5)  # a wait without end would delay Ctrl-C
            gathered = [self._clips.popleft() for _ in range(min(clips, len(self._clips)))]
            self._bytes -= sum(map(_size, gathered))
            self._changed.notify_all()
            if not gathered and self._failure is not None:
                raise self._failure
            return gathered

    def close(self) -> None:
        """Kill the processes; returns once their threads have ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for reader in self._readers:
            reader.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(5.0)

    def _serve(self, reader: ClipReader) -> None:
        try:
            while (request := self._next_request()) is not None:
                try:
                    for clip in reader.read(request):
                        if not self._put(clip):
                            return
                except CrossLMMError as error:
                    if not self._put(Clip(path=request.path, problem=str(error))):
                        return
        except BaseException as error:  # travels to `gather`
            self._failure = error
        finally:
            reader.close()
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _next_request(self) -> ReadRequest | None:
        with self._asking:
            return None if self._closed else next(self._requests, None)

    def _put(self, clip: Clip) -> bool:
        size = _size(clip)
        with self._changed:
            while not self._closed and self._is_full(size):
                self._changed.wait()
            if self._closed:
                return False
            self._clips.append(clip)
            self._bytes += size
            self.seconds += clip.seconds
            self._changed.notify_all()
            return True

    def _is_full(self, size: int) -> bool:
        count = len(self._clips)
        return count > 0 and (count >= self._ahead or self._bytes + size > self._ahead_bytes)


def _size(clip: Clip) -> int:
    return 0 if clip.frames is None else clip.frames.pixels.nbytes
