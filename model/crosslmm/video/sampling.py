"""Which frames are wanted: uniform in time, never by frame index, never twice.

Frames are the middles of equal slices of the chosen range, so that a short clip is not judged by
its first and last frame, and variable frame rates come out right.
"""

from dataclasses import dataclass

import numpy as np

from crosslmm.errors import VideoError
from crosslmm.limits import DEFAULT_FRAMES
from crosslmm.options import Sampling
from crosslmm.video.index import PacketIndex

# A slice's middle that falls on a frame's first instant means that frame, whatever the rounding.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Target:
    """A wanted frame: its index; `key` when it is fetched as a lone keyframe."""

    index: int
    key: bool = False


def choose(
    index: PacketIndex, sampling: Sampling, *, path: str
) -> tuple[tuple[Target, ...], list[str]]:
    """Choose the frames for `sampling`, ascending; returns them and what to warn of.

    Raises `VideoError` when the range lies beyond the video.
    """
    duration = index.duration
    start, end = sampling.start or 0.0, duration if sampling.end is None else sampling.end
    warnings = []
    if start >= duration:
        raise VideoError(
            f"{path}: `start` ({start:g} s) is beyond the end of the video, "
            f"which lasts {duration:.6g} s"
        )
    if end > duration + _ROUNDING and sampling.end is not None:
        warnings.append(
            f"`end` ({end:g} s) is beyond the end of the video, which lasts {duration:.6g} s: "
            "sampled up to there"
        )
    end = min(end, duration)

    middles = _middles(start, end, sampling)
    first = _shown_at(index, start)
    last = int(np.searchsorted(index.times, end - _ROUNDING, side="left")) - 1
    in_range = max(last, first) - first + 1
    if in_range <= len(middles):
        return tuple(Target(number) for number in range(first, first + in_range)), warnings

    exact = np.searchsorted(index.times, middles + _ROUNDING, side="right") - 1
    exact = np.clip(exact, first, first + in_range - 1)
    keys = index.keys[(index.keys >= first) & (index.keys < first + in_range)]
    if sampling.seek == "exact" or index.sequential or not len(keys):
        targets = [Target(int(number)) for number in exact]
    else:
        spacing = (end - start) / len(middles) if len(middles) > 1 else end - start
        within = spacing / 4 if sampling.seek == "auto" else float("inf")
        nearest = _nearest(keys, index.times, middles)
        distance = np.abs(index.times[nearest] - middles)
        targets = [
            Target(int(key), key=True) if off <= within else Target(int(number))
            for key, number, off in zip(nearest, exact, distance, strict=True)
        ]
    unique = {target.index: target for target in reversed(targets)}
    return tuple(unique[number] for number in sorted(unique)), warnings


def _middles(start: float, end: float, sampling: Sampling) -> np.ndarray:
    """The wanted times in seconds, ascending."""
    length, most = end - start, sampling.max_frames or float("inf")
    if sampling.fps is None:
        count = int(min(sampling.frames or DEFAULT_FRAMES, most))
        return start + (np.arange(count) + 0.5) * (length / count)
    count = max(1, int(np.ceil(length * sampling.fps - 0.5 - _ROUNDING)))
    if count > most:
        count = int(most)
        return start + (np.arange(count) + 0.5) * (length / count)
    middles = start + (np.arange(count) + 0.5) / sampling.fps
    return np.minimum(middles, start + length / 2) if count == 1 else middles


def _shown_at(index: PacketIndex, time: float) -> int:
    """The index of the frame shown at `time`."""
    return max(0, int(np.searchsorted(index.times, time + _ROUNDING, side="right")) - 1)


def _nearest(keys: np.ndarray, frame_times: np.ndarray, times: np.ndarray) -> np.ndarray:
    """For each time, the index of the keyframe nearest to it."""
    key_times = frame_times[keys]
    after = np.clip(np.searchsorted(key_times, times), 0, len(key_times) - 1)
    before = np.maximum(after - 1, 0)
    closer = np.abs(key_times[before] - times) <= np.abs(key_times[after] - times)
    return keys[np.where(closer, before, after)]
