"""One video to the clips that are captioned, and the process that does it ahead of the model.

The process is an interpreter of its own, so that a decoder that hangs or crashes takes nothing with
it. Frames come through a pipe: shared memory would be faster by little, and would outlive a kill.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from crosslmm.captioning.options import CaptionOptions
from crosslmm.captioning.segments import Span, equal_spans, scene_size, scene_spans
from crosslmm.errors import CrossLMMError, VideoError
from crosslmm.options import Sampling
from crosslmm.video import Frames, open_stream, sample
from crosslmm.video.plan import ReadPlan
from crosslmm.video.source import SourceInfo
from crosslmm.video.worker import die_with_parent

HEARTBEAT = 1.0  # seconds between signs of life of a reading process

_BILINEAR = 2


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """A video to read: frames at `size` (height, width); the rest as in `CaptionOptions`. `sampling` is
    that of each part."""

    path: str
    sampling: Sampling
    size: tuple[int, int]
    resample: int
    segments: float | None
    scenes: bool


def read_request(
    path: str,
    options: CaptionOptions,
    *,
    size: tuple[int, int],
    resample: int,
    default_frames: int,
) -> ReadRequest:
    """How a video is read for captioning, every choice made."""
    sampling = options.sampling
    if sampling.frames is None and sampling.fps is None:
        sampling = replace(sampling, frames=default_frames)
    return ReadRequest(
        path=path,
        sampling=sampling,
        size=size,
        resample=resample,
        segments=options.segments,
        scenes=options.scenes,
    )


@dataclass(frozen=True, eq=False)
class Clip:
    """A part of a video, from `start` to `end` seconds, the `number`-th of `count`.

    `frames` is None where no frame of it can be read, for the `problem` said. `seconds` is the time
    that reading took.
    """

    number: int
    count: int
    start: float
    end: float
    duration: float  # of the video
    seconds: float
    frames: Frames | None
    problem: str | None = None


def read_clips(order: ReadRequest) -> Iterator[Clip]:
    """The clips of a video, in order, one in memory at a time. Raises CrossLMMError."""
    began = time.perf_counter()
    if order.segments is None and not order.scenes:
        frames = sample(order.path, order.sampling, size=order.size, resample=order.resample)
        seconds = time.perf_counter() - began
        duration = frames.source.duration
        yield Clip(0, 1, 0.0, duration, duration, seconds, frames)
        return
    with open_stream(order.path, replace(order.sampling, frames=1, fps=None)) as stream:
        plan = stream.plan
    source = plan.source
    spans = _spans(order, plan)
    for number, (start, end) in enumerate(spans):
        part: Frames | None = None
        problem = None
        try:
            sampling = order.sampling
            if source.duration > 0:  # an image lasts no time
                sampling = replace(sampling, start=start, end=end)
            part = sample(order.path, sampling, size=order.size, resample=order.resample, plan=plan)
        except VideoError as error:
            if len(spans) == 1:
                raise
            problem = str(error)
        seconds = time.perf_counter() - began
        yield Clip(number, len(spans), start, end, source.duration, seconds, part, problem)
        began = time.perf_counter()


def _spans(order: ReadRequest, plan: ReadPlan) -> list[Span]:
    source = plan.source
    if source.duration <= 0:
        return [(0.0, 0.0)]
    if order.segments is not None:
        return equal_spans(source.duration, order.segments)
    with open_stream(
        order.path,
        replace(order.sampling, frames=source.frame_count, fps=None, max_frames=None, seek="exact"),
        size=scene_size(source.size),
        resample=_BILINEAR,
        plan=plan,
    ) as stream:
        return scene_spans(stream)


def explain(error: BaseException, path: str) -> str:
    """An error of reading in words that name the file; what should not happen names its kind."""
    if isinstance(error, CrossLMMError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{path}: out of memory while reading it"
    return f"{path}: {type(error).__name__}: {str(error).strip() or 'no reason was given'}"


def main() -> None:
    """The process: orders as lines of JSON on stdin, clips on stdout, until stdin ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the clips
    die_with_parent(os.getppid())
    sending = threading.Lock()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        os._exit(0)

    def send(head: dict[str, Any], payload: Any = b"") -> None:
        with sending:
            out.write(json.dumps(head).encode() + b"\n")
            out.write(payload)
            out.flush()

    def heartbeat() -> None:
        with contextlib.suppress(OSError):
            while True:
                send({"kind": "beat"})
                time.sleep(HEARTBEAT)

    for work in (listen, heartbeat):
        threading.Thread(target=work, daemon=True).start()
    while True:
        given = _tuples(json.loads(lines.get()), "size")
        order = ReadRequest(**given | {"sampling": Sampling(**given["sampling"])})
        try:
            for clip in read_clips(order):
                send(*pack(clip))
            send({"kind": "end"})
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                os._exit(0)
            send({"kind": "error", "error": explain(error, order.path)})
        except Exception as error:
            send({"kind": "error", "error": explain(error, order.path)})


def pack(clip: Clip) -> tuple[dict[str, Any], Any]:
    """A clip as JSON and the bytes of its frames."""
    head = {name: value for name, value in vars(clip).items() if name != "frames"}
    head["kind"] = "clip"
    if clip.frames is None:
        return head, b""
    frames = clip.frames
    head |= {
        "shape": frames.pixels.shape,
        "indices": frames.indices,
        "times": frames.times,
        "source": asdict(frames.source),
        "warnings": frames.warnings,
    }
    return head, np.ascontiguousarray(frames.pixels).data


def unpack(head: dict[str, Any], pixels: np.ndarray | None) -> Clip:
    """The clip again, around its frames (T, H, W, 3)."""
    frames = None
    if pixels is not None:
        frames = Frames(
            pixels=pixels,
            indices=tuple(head["indices"]),
            times=tuple(head["times"]),
            source=SourceInfo(**_tuples(head["source"], "size")),
            warnings=tuple(head["warnings"]),
        )
    names = ("number", "count", "start", "end", "duration", "seconds", "problem")
    return Clip(**{name: head[name] for name in names}, frames=frames)


def _tuples(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return record | {name: tuple(record[name]) for name in names}
