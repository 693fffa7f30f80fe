"""The frames of a video as a stream: decoded ahead in the background, a few at a time.

A reader that shows no progress for the deadline, or cannot decode, is given up; with
``reader="auto"`` the next one goes on from the frame after the last good one, and says so.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType

from crosslmm.errors import VideoError
from crosslmm.options import Sampling
from crosslmm.video.frames import Frame
from crosslmm.video.prefetch import Heartbeat, Prefetch, Stalled
from crosslmm.video.probe import Plan, make_plan
from crosslmm.video.readers import Reader, candidates, make_reader
from crosslmm.video.source import SourceInfo

# Frames decoded ahead: enough to keep an encoder's chunk fed, and one only at full size.
_AHEAD, _AHEAD_FULL_SIZE = 8, 1


class FrameStream:
    """Frames of one video, ascending; iterate it once, and close it (or use ``with``).

    ``source``, ``count`` and ``plan`` are known from the start, ``warnings`` after the last frame.
    With the ``plan`` of another stream of the file it is not looked through again.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        sampling: Sampling,
        *,
        size: tuple[int, int] | None,
        resample: int,
        plan: Plan | None = None,
    ) -> None:
        self.path = os.fsdecode(path)
        self.warnings: list[str] = []
        self._deadline = sampling.deadline
        self._seconds = 0.0
        self._readers = list(candidates(sampling.reader))
        self._last = -1
        self._given = 0
        self._depth = _AHEAD if size is not None else _AHEAD_FULL_SIZE
        self._running: Prefetch | None = None
        self._done = False
        self._failure: VideoError | None = None

        if plan is None:
            self.plan = self._look_through(sampling, size=size, resample=resample)
        else:
            self.plan = plan.answering(sampling, size=size, resample=resample)
        self.warnings.extend(self.plan.warnings)
        self.source: SourceInfo = self.plan.source
        self._start_next_reader()

    def _look_through(
        self, sampling: Sampling, *, size: tuple[int, int] | None, resample: int
    ) -> Plan:
        # Without a reference to self, so that a forgotten stream is collected, and its thread ends.
        name, deadline = self.path, self._deadline

        def plan(heartbeat: Heartbeat) -> Iterator[Plan]:
            with _as_video_error(name):
                yield make_plan(
                    name,
                    sampling,
                    size=size,
                    resample=resample,
                    heartbeat=heartbeat,
                    deadline=deadline,
                )

        self._running = running = Prefetch(plan, depth=1, deadline=deadline)
        try:
            return running.take()
        except Stalled:
            raise VideoError(
                f"{name}: nothing could be read of this file within {deadline:g} s"
            ) from None
        finally:
            self._stop()

    @property
    def count(self) -> int:
        """The frames that will come, at most."""
        return len(self.plan.targets)

    @property
    def seconds(self) -> float:
        """Time spent reading and decoding so far, waiting for the consumer left out."""
        return self._seconds + (self._running.seconds if self._running is not None else 0.0)

    def __iter__(self) -> "FrameStream":
        return self

    def __next__(self) -> Frame:
        while not self._done:
            assert self._running is not None
            try:
                frame = self._running.take()
            except StopIteration:
                self._finish()
            except Stalled:
                self._give_up(f"made no progress for {self._deadline:g} s")
            except VideoError as error:
                self._give_up("could not decode it", error)
            except BaseException:
                self.close()
                raise
            else:
                self._last, self._given = frame.index, self._given + 1
                return frame
        raise StopIteration

    def __enter__(self) -> "FrameStream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop decoding and let go of the file; harmless when done."""
        self._done = True
        self._stop()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._seconds += self._running.seconds
            self._running = None

    def _start_next_reader(self) -> None:
        plan, deadline = self.plan.after(self._last), self._deadline
        name = self._readers.pop(0)
        box: list[Reader] = []

        def read(heartbeat: Heartbeat) -> Iterator[Frame]:
            reader = make_reader(name, plan, heartbeat=heartbeat, deadline=deadline)
            box.append(reader)
            with _as_video_error(plan.path):
                yield from reader.read()

        self._reader_box = box
        if plan.still is None:
            self.source = replace(self.source, reader=name)
        self._running = Prefetch(read, depth=self._depth, deadline=deadline)

    def _note_reader(self) -> None:
        """Take over what the reader has to say about damage."""
        for reader in self._reader_box:
            self.warnings.extend(reader.warnings)
            self.source = replace(
                self.source, damaged_packets=self.source.damaged_packets + reader.bad_packets
            )

    def _finish(self) -> None:
        self._note_reader()
        self.close()

    def _give_up(self, why: str, error: VideoError | None = None) -> None:
        name = self.source.reader
        self._stop()
        if self._failure is None:
            # PyAV's word, since it is the reader that should have managed.
            self._failure = error or VideoError(f"{self.path}: the reader {name} {why}")
        if not self._readers:
            self.close()
            raise self._failure from None
        self.warnings.append(
            f"the reader {name} {why}; {self._readers[0]} went on after {self._given} frames"
        )
        self._start_next_reader()


@contextmanager
def _as_video_error(path: str) -> Iterator[None]:
    """An FFmpeg error that nothing else took up, as a ``VideoError``."""
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: this video cannot be read ({error.strerror})") from error
