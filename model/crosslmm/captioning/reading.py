"""One video to the clips that are captioned, and clips as messages between processes."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from crosslmm.captioning.options import CaptionOptions
from crosslmm.captioning.segments import Span, equal_spans, scene_size, scene_spans
from crosslmm.errors import CrossLMMError, ReadingOutOfMemory, VideoError
from crosslmm.options import Sampling
from crosslmm.video import Frames, open_stream, sample
from crosslmm.video.memory_limit import out_of_memory
from crosslmm.video.plan import ReadPlan
from crosslmm.video.source import SourceInfo, over_time
from crosslmm.video.worker import Payload

_BILINEAR = 2


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """A video to read: `sampling` is that of each part, `size` (height, width) that of the frames; the
    rest as in `CaptionOptions`."""

    path: str
    sampling: Sampling
    size: tuple[int, int]
    resample: int
    segments: float | None
    scenes: bool

    @property
    def frame_bytes(self) -> int:
        """Bytes of the frames of a part, at most; 0 where that depends on the video."""
        return (self.sampling.most_frames or 0) * self.size[0] * self.size[1] * 3


def read_request(
    path: str,
    options: CaptionOptions,
    *,
    size: tuple[int, int],
    resample: int,
    default_frames: int,
) -> ReadRequest:
    """The request to read a video for captioning, with no option left open."""
    return ReadRequest(
        path=path,
        sampling=options.sampling.or_frames(default_frames),
        size=size,
        resample=resample,
        segments=options.segments,
        scenes=options.scenes,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Clip:
    """A part of the video `path`, from `start` to `end` seconds, the `number`-th of `count`.

    - duration: of the video; seconds: the time that reading took.
    - frames: None where no frame of the part can be read, for the `problem` given.

    A `count` of 0 means that the video cannot be read, or not further, for the `problem` given.
    """

    path: str
    number: int = 0
    count: int = 0
    start: float = 0.0
    end: float = 0.0
    duration: float | None = None
    seconds: float = 0.0
    frames: Frames | None = None
    problem: str | None = None


def read_clips(request: ReadRequest) -> Iterator[Clip]:
    """The clips of a video, in order, one in memory at a time. Raises CrossLMMError.

    `file_timeout` is for all of them together.
    """
    clock = _FileClock(request)
    began = time.perf_counter()
    if request.segments is None and not request.scenes:
        frames = sample(
            request.path, request.sampling, size=request.size, resample=request.resample
        )
        seconds = time.perf_counter() - began
        duration = frames.source.duration
        yield Clip(
            path=request.path,
            count=1,
            end=duration,
            duration=duration,
            seconds=seconds,
            frames=frames,
        )
        return
    with (
        clock.running() as sampling,
        open_stream(request.path, replace(sampling, frames=1, fps=None)) as stream,
    ):
        plan = stream.plan
    source = plan.source
    with clock.running() as sampling:
        spans = _spans(replace(request, sampling=sampling), plan)
    for number, (start, end) in enumerate(spans):
        part: Frames | None = None
        problem, ran_out = None, False
        try:
            with clock.running() as sampling:
                if source.duration > 0:  # an image has no duration
                    sampling = replace(sampling, start=start, end=end)
                part = sample(
                    request.path, sampling, size=request.size, resample=request.resample, plan=plan
                )
        except VideoError as error:
            if len(spans) == 1 or clock.has_run_out:
                raise
            problem, ran_out = str(error), isinstance(error, ReadingOutOfMemory)
        if ran_out:
            gc.collect()
        seconds = time.perf_counter() - began
        yield Clip(
            path=request.path,
            number=number,
            count=len(spans),
            start=start,
            end=end,
            duration=source.duration,
            seconds=seconds,
            frames=part,
            problem=problem,
        )
        began = time.perf_counter()


class _FileClock:
    """The seconds that reading one file has taken; waiting for whoever takes its clips is not
    reading."""

    def __init__(self, request: ReadRequest) -> None:
        self._path, self._sampling = request.path, request.sampling
        self._left = request.sampling.file_timeout

    @property
    def has_run_out(self) -> bool:
        return self._left <= 0

    @contextmanager
    def running(self) -> Iterator[Sampling]:
        """The sampling with the time that is left. Raises VideoError where there is none."""
        if self.has_run_out:
            raise over_time(self._path, self._sampling)
        began = time.monotonic()
        try:
            yield replace(self._sampling, file_timeout=self._left)
        except VideoError:
            if (
                time.monotonic() - began >= self._left
            ):  # and the error says what was left, not the limit
                raise over_time(self._path, self._sampling) from None
            raise
        finally:
            self._left -= time.monotonic() - began


def _spans(request: ReadRequest, plan: ReadPlan) -> list[Span]:
    source = plan.source
    if source.duration <= 0:
        return [(0.0, 0.0)]
    if request.segments is not None:
        return equal_spans(source.duration, request.segments, plan.probe.index.times)
    with open_stream(
        request.path,
        replace(
            request.sampling, frames=source.frame_count, fps=None, max_frames=None, seek="exact"
        ),
        size=scene_size(source.size),
        resample=_BILINEAR,
        plan=plan,
    ) as stream:
        return scene_spans(stream)


def explain(error: BaseException, path: str) -> str:
    """An error of reading, as a message that names the file; one that is unexpected names its type."""
    if isinstance(error, CrossLMMError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{path}: {out_of_memory()}"
    return f"{path}: {type(error).__name__}: {str(error).strip() or 'no reason was given'}"


def read_packed(job: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Payload]]:
    """The clips of a video, packed: what a worker does with a `ReadRequest` as a job."""
    request = ReadRequest(
        **job | {"size": tuple(job["size"]), "sampling": Sampling(**job["sampling"])}
    )
    gc.collect()  # what ran out of memory before is in cycles with its error, decoder and all
    try:
        yield from map(pack, read_clips(request))
    except Exception as error:
        raise VideoError(explain(error, request.path)) from error


def pack(clip: Clip) -> tuple[dict[str, Any], Payload]:
    """A clip as JSON and the bytes of its frames."""
    head = {name: value for name, value in vars(clip).items() if name != "frames"}
    frames = clip.frames
    if frames is None:
        return head, b""
    head["frames"] = {
        "shape": frames.pixels.shape,
        "indices": frames.indices,
        "times": frames.times,
        "source": asdict(frames.source),
        "warnings": frames.warnings,
    }
    return head, np.ascontiguousarray(frames.pixels).data


def unpack(head: dict[str, Any], payload: np.ndarray) -> Clip:
    """The clip again, around its frames in `payload`, (N,) uint8."""
    packed = head.get("frames")
    if packed is None:
        return Clip(**head)
    source = packed["source"]
    frames = Frames(
        pixels=payload.reshape(packed["shape"]),
        indices=tuple(packed["indices"]),
        times=tuple(packed["times"]),
        source=SourceInfo(**source | {"size": tuple(source["size"])}),
        warnings=tuple(packed["warnings"]),
    )
    return Clip(**head | {"frames": frames})
