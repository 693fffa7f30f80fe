"""Which frames are wanted: uniform in time, never by frame number, never twice.

Frames are the middles of equal slices of the chosen range, so that a short clip is not judged by
its first and last frame, and variable frame rates come out right.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from crosslmm.errors import UsageError, VideoError
from crosslmm.video.index import PacketIndex

Seek = Literal["exact", "keyframe", "auto"]
SEEKS: tuple[str, ...] = ("exact", "keyframe", "auto")

DEFAULT_FRAMES = 64

# A slice's middle that falls on a frame's first instant means that frame, whatever the rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for. Neither ``frames`` nor ``fps`` means ``DEFAULT_FRAMES``.

    ``frames`` counts frames, ``fps`` is per second of video, ``max_frames`` caps either;
    ``start`` and ``end`` are seconds. Raises ``UsageError`` for values that mean nothing.
    """

    frames: int | None = None
    fps: float | None = None
    max_frames: int | None = None
    start: float | None = None
    end: float | None = None
    seek: Seek = "auto"

    def __post_init__(self) -> None:
        if self.frames is not None and self.fps is not None:
            raise UsageError("frames and fps exclude each other: give one of them")
        for name in ("frames", "max_frames"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} is a whole number from 1 up, not {value!r}")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise UsageError(f"fps is a number above 0, not {self.fps!r}")
        for name in ("start", "end"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"{name} is in seconds from 0 up, not {value!r}")
        if self.end is not None and (self.start or 0) >= self.end:
            raise UsageError(f"start ({self.start or 0:g} s) must lie before end ({self.end:g} s)")
        if self.seek not in SEEKS:
            raise UsageError(f"seek is one of {', '.join(SEEKS)}, not {self.seek!r}")


@dataclass(frozen=True)
class Target:
    """A wanted frame: its number in the index; ``key`` when it is fetched as a lone keyframe."""

    index: int
    key: bool = False


def choose(
    index: PacketIndex, request: Request, *, path: str
) -> tuple[tuple[Target, ...], list[str]]:
    """The frames that answer ``request``, ascending, and what to warn of.

    Raises ``VideoError`` when the range lies beyond the video.
    """
    duration = index.duration
    start, end = request.start or 0.0, duration if request.end is None else request.end
    warnings = []
    if start >= duration:
        raise VideoError(
            f"{path}: start ({start:g} s) lies beyond the end of this video, "
            f"which lasts {duration:.6g} s"
        )
    if end > duration + _ROUNDING and request.end is not None:
        warnings.append(
            f"end ({end:g} s) lies beyond the video, which lasts {duration:.6g} s: "
            "sampled up to there"
        )
    end = min(end, duration)

    middles = _middles(start, end, request)
    first = _shown_at(index, start)
    last = int(np.searchsorted(index.times, end - _ROUNDING, side="left")) - 1
    in_range = max(last, first) - first + 1
    if in_range <= len(middles):
        return tuple(Target(number) for number in range(first, first + in_range)), warnings

    exact = np.searchsorted(index.times, middles + _ROUNDING, side="right") - 1
    exact = np.clip(exact, first, first + in_range - 1)
    keys = index.keys[(index.keys >= first) & (index.keys < first + in_range)]
    if request.seek == "exact" or index.sequential or not len(keys):
        targets = [Target(int(number)) for number in exact]
    else:
        spacing = (end - start) / len(middles) if len(middles) > 1 else end - start
        within = spacing / 4 if request.seek == "auto" else float("inf")
        nearest = _nearest(keys, index.times, middles)
        distance = np.abs(index.times[nearest] - middles)
        targets = [
            Target(int(key), key=True) if off <= within else Target(int(number))
            for key, number, off in zip(nearest, exact, distance, strict=True)
        ]
    unique = {target.index: target for target in reversed(targets)}
    return tuple(unique[number] for number in sorted(unique)), warnings


def _middles(start: float, end: float, request: Request) -> np.ndarray:
    """The wanted times in seconds, ascending."""
    length, most = end - start, request.max_frames or float("inf")
    if request.fps is None:
        count = int(min(request.frames or DEFAULT_FRAMES, most))
        return start + (np.arange(count) + 0.5) * (length / count)
    count = max(1, int(np.ceil(length * request.fps - 0.5 - _ROUNDING)))
    if count > most:
        count = int(most)
        return start + (np.arange(count) + 0.5) * (length / count)
    middles = start + (np.arange(count) + 0.5) / request.fps
    return np.minimum(middles, start + length / 2) if count == 1 else middles


def _shown_at(index: PacketIndex, time: float) -> int:
    """The number of the frame on the screen at ``time``."""
    return max(0, int(np.searchsorted(index.times, time + _ROUNDING, side="right")) - 1)


def _nearest(keys: np.ndarray, frame_times: np.ndarray, times: np.ndarray) -> np.ndarray:
    """For each time, the number of the keyframe nearest to it."""
    key_times = frame_times[keys]
    after = np.clip(np.searchsorted(key_times, times), 0, len(key_times) - 1)
    before = np.maximum(after - 1, 0)
    closer = np.abs(key_times[before] - times) <= np.abs(key_times[after] - times)
    return keys[np.where(closer, before, after)]
