"""The frames of a video as a stream: decoded ahead in the background, a few at a time.

A reader that makes no progress for its share of the deadline, or cannot decode, is stopped; with
`reader="auto"` the next one goes on from the frame after the last good one, and a warning says so. The
readers share the deadline, and the time that the file may take, so that both hold for the file.
"""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from math import prod
from types import TracebackType

import numpy as np

from crosslmm.errors import ReadingOutOfMemory, VideoError
from crosslmm.options import Sampling
from crosslmm.video.apart import ApartReader
from crosslmm.video.decoder import LargeFrames
from crosslmm.video.frames import Frame
from crosslmm.video.memory_limit import out_of_memory
from crosslmm.video.plan import ReadPlan, plan_reading
from crosslmm.video.prefetch import Heartbeat, OverTime, Prefetch, Stalled
from crosslmm.video.probe import probe_file
from crosslmm.video.readers import Reader, candidates, make_reader
from crosslmm.video.samplers import SAMPLERS, candidate_plan, choose_by_content
from crosslmm.video.source import SourceInfo, over_time
from crosslmm.video.still import is_still

# Bytes of frames decoded ahead: enough to keep an encoder fed, and to go on while a model is being
# loaded. One frame only at full size.
_AHEAD_BYTES = 32 * 2**20


class FrameStream:
    """Frames of one video, ascending; open it, iterate it once, and close it (or use `with`).

    `source`, `count` and `plan` are known once it is open, `warnings` after the last frame. With the
    `plan` of another stream of the file, the file is not probed again. One that is started before it
    is opened is probed and decoded while its consumer is made ready.
    """

    plan: ReadPlan
    source: SourceInfo

    def __init__(
        self,
        path: str | os.PathLike[str],
        sampling: Sampling,
        *,
        size: tuple[int, int] | None,
        resample: int,
        plan: ReadPlan | None = None,
    ) -> None:
        self.path = os.fsdecode(path)
        self.warnings: list[str] = []
        self.sampling, self.size, self.resample = sampling, size, resample
        chosen_first = sampling.sampler in SAMPLERS  # in the background, with a reading of its own
        self._probe = None if plan is None or chosen_first else plan.probe
        self._silence = sampling.deadline  # that may still pass before the next frame
        self._seconds = 0.0
        self._readers: list[str] = []
        self._reader = ""
        self._reader_box: list[Reader | ApartReader] = []
        self._last = -1
        self._given = 0
        self._shown: np.ndarray | None = None  # of the last frame that was not still
        self._running: Prefetch[ReadPlan | Frame] | None = None
        self._is_open = self._done = False
        self._failure: VideoError | None = None

    def start(self) -> None:
        """Start reading in the background. Raises `UsageError` for a reader that cannot be used."""
        self._readers = list(candidates(self.sampling.reader))
        if self._probe is not None:
            self.plan = plan_reading(
                self._probe, self.sampling, size=self.size, resample=self.resample
            )
        self._start_reader(None if self._probe is None else self.plan)
        if self._probe is not None:
            self._share_deadline()

    def open(self) -> None:
        """Wait until it is known which frames will come; once. Raises `VideoError`."""
        if self._is_open:
            return
        if self._running is None:
            self.start()
        assert self._running is not None
        if self._probe is None:
            self.plan = self._take_plan(self._running)
        self.warnings.extend(self.plan.warnings)
        self.source = self._source_read()
        self._is_open = True

    def _take_plan(self, running: "Prefetch[ReadPlan | Frame]") -> ReadPlan:
        try:
            plan = running.take()
        except BaseException as error:
            self.close()
            if isinstance(error, Stalled):
                raise VideoError(
                    f"{self.path}: could not be opened within {self.sampling.deadline:g} s"
                ) from None
            if isinstance(error, OverTime):
                raise over_time(self.path, self.sampling) from None
            raise
        assert isinstance(plan, ReadPlan)
        self._share_deadline()
        return plan

    def _start_reader(self, plan: ReadPlan | None) -> None:
        self._reader, self._reader_box = self._readers.pop(0), []
        produce = partial(
            _read,
            self.path,
            self.sampling,
            plan,
            size=self.size,
            resample=self.resample,
            reader=self._reader,
            box=self._reader_box,
        )
        depth = 1 if self.size is None else max(1, _AHEAD_BYTES // (3 * prod(self.size)))
        self._running = Prefetch(
            produce,
            depth=depth,
            deadline=self.sampling.deadline,
            allowed=self.sampling.file_timeout - self._seconds,
        )
        try:
            self._running.start()
        except RuntimeError as error:  # no memory is left for a thread
            raise VideoError(f"{self.path}: {out_of_memory()}") from error

    def _share_deadline(self) -> None:
        """Give the running reader its part of the silence that is left; the last one gets all."""
        assert self._running is not None
        self._running.deadline = self._silence / (1 + len(self._readers))

    def _source_read(self) -> SourceInfo:
        """The source with the reader that decodes it; an image keeps its own."""
        if self.plan.probe.image is not None:
            return self.plan.source
        return replace(self.plan.source, reader=self._reader)

    def gives(
        self, path: object, sampling: Sampling, *, size: tuple[int, int], resample: int
    ) -> bool:
        """Whether it has not been read yet, and gives the frames that such a stream of this path would
        give; False where `path` is something else."""
        if not isinstance(path, str | os.PathLike) or os.fspath(path) != self.path:
            return False
        asked = (self.sampling, self.size, self.resample)
        return not self._done and not self._given and asked == (sampling, size, resample)

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
                quiet = self._running.deadline
                self._silence -= quiet
                self._replace_reader(f"made no progress for {quiet:g} s")
            except OverTime:
                self.close()
                raise over_time(self.path, self.sampling) from None
            except ReadingOutOfMemory:
                self.close()
                raise
            except VideoError as error:
                self._replace_reader("could not decode it", error)
            except BaseException:
                self.close()
                raise
            else:
                assert isinstance(frame, Frame)
                self._last, self._given = frame.index, self._given + 1
                if self._silence < self.sampling.deadline:
                    self._silence = self.sampling.deadline
                    self._share_deadline()
                return self._hold(frame)
        raise StopIteration

    def _hold(self, frame: Frame) -> Frame:
        """The frame, with the pixels of the one before where these are to count as the same."""
        threshold = self.sampling.static_threshold
        if not threshold:
            return frame
        if self._shown is not None and is_still(frame.pixels, self._shown, threshold):
            return replace(frame, pixels=self._shown)
        self._shown = frame.pixels
        return frame

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

    def _note_damage(self) -> None:
        """Add what the reader found of damage."""
        for reader in self._reader_box:
            self.warnings.extend(reader.warnings)
            self.source = replace(
                self.source, damaged_packets=self.source.damaged_packets + reader.bad_packets
            )

    def _finish(self) -> None:
        self._note_damage()
        self.close()

    def _replace_reader(self, why: str, error: VideoError | None = None) -> None:
        name = self._reader
        self._stop()
        if self._failure is None:
            # PyAV's error, since it is the reader that should have managed.
            _let_go(error)
            self._failure = error or VideoError(f"{self.path}: the reader {name} {why}")
        if not self._readers:
            self.close()
            raise self._failure from None
        self.warnings.append(
            f"the reader {name} {why}; {self._readers[0]} took over after {self._given} frames"
        )
        # It opens the file itself: the one before may be stuck with its decoder.
        self._start_reader(self.plan.after(self._last))
        self._share_deadline()
        self.source = self._source_read()


def _read(
    path: str,
    sampling: Sampling,
    plan: ReadPlan | None,
    heartbeat: Heartbeat,
    *,
    size: tuple[int, int] | None,
    resample: int,
    reader: str,
    box: list[Reader | ApartReader],
) -> Iterator[ReadPlan | Frame]:
    """Produce the frames of a plan, after the plan itself where none is given; fills `box`.

    One thread probes and reads, so that a decoder stays in its thread and the file is opened once. It
    holds no reference to the stream, so that a forgotten one is collected, and its thread ends.
    """
    decoder = None
    with as_video_error(path):
        try:
            if plan is None:
                probe, decoder = probe_file(path, sampling, heartbeat=heartbeat, size=size)
                plan = plan_reading(probe, sampling, size=size, resample=resample)
                if sampling.sampler in SAMPLERS and probe.image is None:
                    wider = candidate_plan(plan, sampling)
                    scout = make_reader(
                        reader, wider, heartbeat=heartbeat, sampling=sampling, decoder=decoder
                    )
                    plan = choose_by_content(plan, wider, scout.read(), sampling.sampler)
                    decoder = None  # which the reader has closed; the next one opens the file again
                yield plan
            chosen = make_reader(
                reader, plan, heartbeat=heartbeat, sampling=sampling, decoder=decoder
            )
            box.append(chosen)
            yield from chosen.read()
        except LargeFrames:
            apart = ApartReader(
                path,
                sampling,
                heartbeat=heartbeat,
                size=size,
                resample=resample,
                reader=reader,
            )
            box[:] = [apart]
            first = (
                0
                if plan is None
                else plan.targets[0].index
                if plan.targets
                else len(plan.probe.index)
            )
            frames = apart.read(first=first)
            yield from frames if plan is None else islice(frames, 1, None)
        finally:
            if decoder is not None:
                decoder.close()


def _let_go(error: BaseException | None) -> None:
    """Of the frames of video that an error's tracebacks hold, while another reader works."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


@contextmanager
def as_video_error(path: str) -> Iterator[None]:
    """Turn an FFmpeg error that nothing else handled, or MemoryError, into a `VideoError`."""
    import av

    try:
        yield
    except MemoryError as error:
        raise ReadingOutOfMemory(f"{path}: {out_of_memory()}") from error
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: this video cannot be read ({error.strerror})") from error
