"""Video to frames: the right ones, upright, with their real times, in bounded memory.

`sample` returns an array of frames, `open_stream` yields them one at a time. PyAV is the default
reader because it alone returned the right frame of every kind of file tried; decord and torchcodec
run on request, each in a process that can be killed.
"""

import os
from typing import TYPE_CHECKING, Unpack

from crosslmm.errors import OutOfMemory, ReadingOutOfMemory, UsageError
from crosslmm.options import Sampling, SamplingOptions
from crosslmm.video.frames import Frame, Frames, summary
from crosslmm.video.image import BICUBIC

if TYPE_CHECKING:
    from crosslmm.video.plan import ReadPlan
    from crosslmm.video.readers import ReaderStatus
    from crosslmm.video.source import SourceInfo
    from crosslmm.video.stream import FrameStream

__all__ = [
    "Frame",
    "FrameStream",
    "Frames",
    "ReaderStatus",
    "SourceInfo",
    "open_stream",
    "reader_statuses",
    "sample",
    "summary",
]

_MODULES = {
    "FrameStream": "stream",
    "ReaderStatus": "readers",
    "SourceInfo": "source",
    "reader_statuses": "readers",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def open_stream(
    path: str | os.PathLike[str],
    sampling: Sampling | None = None,
    *,
    size: tuple[int, int] | None = None,
    resample: int = BICUBIC,
    plan: "ReadPlan | None" = None,
    **options: Unpack[SamplingOptions],
) -> "FrameStream":
    """The frames of a video or image, one at a time, decoded ahead in the background.

    - `sampling`, or its fields as `options`: which frames, and how they are read.
    - `size`: (height, width) in pixels, with PIL's `resample` filter; None for the full size.
    - `plan`: that of an earlier stream of the same file, which is then not probed again.

    Raises `VideoError` for a file without readable frames and `UsageError` for impossible options.
    """
    from crosslmm.video.stream import FrameStream

    if size is not None and not _is_size(size):
        raise UsageError(f"size is (height, width) in pixels, not {size!r}")
    if resample not in range(6):
        raise UsageError(f"resample is one of PIL's filters, 0 to 5, not {resample!r}")
    stream = FrameStream(
        path, Sampling.of(sampling, options), size=size, resample=resample, plan=plan
    )
    stream.open()
    return stream


def _is_size(size: object) -> bool:
    return (
        isinstance(size, tuple)
        and len(size) == 2
        and all(isinstance(side, int) and side > 0 for side in size)
    )


def sample(
    path: str | os.PathLike[str],
    sampling: Sampling | None = None,
    *,
    size: tuple[int, int] | None = None,
    resample: int = BICUBIC,
    plan: "ReadPlan | None" = None,
    **options: Unpack[SamplingOptions],
) -> Frames:
    """The frames of a video or image as one array (T, H, W, 3) uint8; parameters: `open_stream`.

    Raises `OutOfMemory` when the array itself does not fit, besides `open_stream`'s errors.
    """
    import numpy as np

    from crosslmm.video.memory_limit import memory_is_limited, out_of_memory

    with open_stream(path, sampling, size=size, resample=resample, plan=plan, **options) as stream:
        shape = (stream.count, *(size or stream.source.size), 3)
        try:
            pixels = np.empty(shape, dtype=np.uint8)
        except MemoryError as error:
            if memory_is_limited():  # the decoder has taken it: the array came on top
                raise ReadingOutOfMemory(f"{stream.path}: {out_of_memory()}") from error
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
