"""Writing small mp4 files with PyAV, whose wheel brings the encoders."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np

from crosslmm.files import atomic_file


def default_codec() -> str:
    """H.264, or MPEG-4 where this build of FFmpeg lacks it."""
    import av

    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


def write_frames(
    target: Path | IO[bytes],
    frames: Iterable[np.ndarray],
    *,
    fps: float | Fraction,
    codec: str | None = None,
    options: Mapping[str, str] | None = None,
) -> None:
    """Write frames (H, W, 3) uint8, H and W even, as an mp4: a path is complete or not there at all.

    - `codec`: an encoder of FFmpeg, `default_codec` where None; `options` are its own, such as `crf`.

    Raises `FFmpegError`, `ValueError`, `TypeError` or `AttributeError` for a codec that cannot be used.
    """
    if isinstance(target, Path):
        with atomic_file(target) as file:
            _encode(file, frames, fps=fps, codec=codec or default_codec(), options=options)
    else:
        _encode(target, frames, fps=fps, codec=codec or default_codec(), options=options)


def _encode(
    file: IO[bytes],
    frames: Iterable[np.ndarray],
    *,
    fps: float | Fraction,
    codec: str,
    options: Mapping[str, str] | None,
) -> None:
    import av

    rate = Fraction(fps).limit_denominator(1001)
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=rate, options=dict(options or {}))
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = 1 / rate
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
