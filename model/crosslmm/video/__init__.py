"""Video to frames: the right ones, upright, with their real times, in bounded memory.

``sample`` returns an array of them, ``open_stream`` gives them one at a time. PyAV reads by
default, because it alone returned the right frame of every kind of file tried; decord and
torchcodec run on request, each in a process that can be killed.
"""

import os
from typing import TYPE_CHECKING

from crosslmm.video.frames import Frame, Frames, summary

if TYPE_CHECKING:
    from crosslmm.video.probe import Plan
    from crosslmm.video.readers import ReaderName, ReaderStatus
    from crosslmm.video.sampling import Seek
    from crosslmm.video.source import SourceInfo
    from crosslmm.video.stream import FrameStream

__all__ = [
    "DEADLINE",
    "Frame",
    "FrameStream",
    "Frames",
    "ReaderName",
    "ReaderStatus",
    "Seek",
    "SourceInfo",
    "open_stream",
    "reader_statuses",
    "sample",
    "summary",
]

# Seconds that a reader may go without progress: no packet read, no frame decoded.
DEADLINE = 60.0

_BICUBIC = 3

_HOMES = {
    "FrameStream": "stream",
    "ReaderName": "readers",
    "ReaderStatus": "readers",
    "Seek": "sampling",
    "SourceInfo": "source",
    "reader_statuses": "readers",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def open_stream(
    path: str | os.PathLike,
    *,
    frames: int | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
    size: tuple[int, int] | None = None,
    resample: int = _BICUBIC,
    reader: "ReaderName" = "auto",
    seek: "Seek" = "auto",
    deadline: float = DEADLINE,
    plan: "Plan | None" = None,
) -> "FrameStream":
    """The frames of a video or picture, one at a time, decoded ahead in the background.

    - ``frames``: how many, at the middles of that many equal slices of time (64 when ``fps`` is not
      given either); or ``fps``, per second of video; ``max_frames`` caps both. A clip with fewer
      frames gives each of them once.
    - ``start``, ``end``: seconds from the first shown frame.
    - ``size``: (height, width) in pixels, with PIL's ``resample`` filter; None for the full size.
    - ``reader``: ``auto`` is PyAV, and the next one where it hangs or fails.
    - ``seek``: ``exact`` frames; ``keyframe``, the keyframes nearest to them, much faster; ``auto``
      takes a keyframe when one lies within a quarter of the sampling interval. Times are real.
    - ``deadline``: seconds that a reader may go without reading a packet or decoding a frame.
    - ``plan``: that of an earlier stream of the same file, which is then not looked through again.

    Raises ``VideoError`` for a file that gives no frames and ``UsageError`` for impossible options.
    """
    from crosslmm.errors import UsageError
    from crosslmm.video.sampling import Request
    from crosslmm.video.stream import FrameStream

    if size is not None and not _is_size(size):
        raise UsageError(f"size is (height, width) in pixels, not {size!r}")
    if resample not in range(6):
        raise UsageError(f"resample is one of PIL's filters, 0 to 5, not {resample!r}")
    if not 0 < deadline < float("inf"):
        raise UsageError(f"deadline is in seconds, above 0, not {deadline!r}")
    request = Request(
        frames=frames, fps=fps, max_frames=max_frames, start=start, end=end, seek=seek
    )
    return FrameStream(
        path, request, size=size, resample=resample, reader=reader, deadline=deadline, plan=plan
    )


def _is_size(size: object) -> bool:
    return (
        isinstance(size, tuple)
        and len(size) == 2
        and all(isinstance(side, int) and side > 0 for side in size)
    )


def sample(
    path: str | os.PathLike,
    *,
    frames: int | None = None,
    fps: float | None = None,
    max_frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
    size: tuple[int, int] | None = None,
    resample: int = _BICUBIC,
    reader: "ReaderName" = "auto",
    seek: "Seek" = "auto",
    deadline: float = DEADLINE,
    plan: "Plan | None" = None,
) -> Frames:
    """The frames of a video or picture as one array (T, H, W, 3) uint8; options: ``open_stream``.

    Raises ``OutOfMemory`` when the array itself does not fit, besides ``open_stream``'s errors.
    """
    import numpy as np

    from crosslmm.errors import OutOfMemory

    with open_stream(
        path,
        frames=frames,
        fps=fps,
        max_frames=max_frames,
        start=start,
        end=end,
        size=size,
        resample=resample,
        reader=reader,
        seek=seek,
        deadline=deadline,
        plan=plan,
    ) as stream:
        shape = (stream.count, *(size or stream.source.size), 3)
        try:
            pixels = np.empty(shape, dtype=np.uint8)
        except MemoryError as error:
            raise OutOfMemory(
                f"{stream.path}: {shape[0]} frames of {shape[2]}x{shape[1]} need "
                f"{np.prod(shape, dtype=float) / 2**30:.1f} GiB; ask for fewer, or a smaller size"
            ) from error
        indices: list[int] = []
        times: list[float] = []
        for frame in stream:
            pixels[len(indices)] = frame.pixels
            indices.append(frame.index)
            times.append(frame.time)
        return Frames(
            pixels=pixels[: len(indices)],
            indices=tuple(indices),
            times=tuple(times),
            source=stream.source,
            warnings=tuple(stream.warnings),
        )
