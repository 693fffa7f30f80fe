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
from crosslmm.video.moments import ROUNDING, pick_frames
from crosslmm.video.packet_sizes import choose_by_size


@dataclass(frozen=True, slots=True)
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
    if sampling.at is not None:
        rows, warnings = pick_frames(
            sampling.at, index.times, duration, path=path, most=sampling.max_frames
        )
        return tuple(map(Target, rows)), warnings
    start, end = sampling.start or 0.0, duration if sampling.end is None else sampling.end
    warnings = []
    if start >= duration:
        raise VideoError(
            f"{path}: `start` ({start:g} s) is beyond the end of the video, "
            f"which lasts {duration:.6g} s"
        )
    if end > duration + ROUNDING and sampling.end is not None:
        warnings.append(
            f"`end` ({end:g} s) is beyond the end of the video, which lasts {duration:.6g} s: "
            "sampled up to there"
        )
    end = min(end, duration)

    count = _count(end - start, sampling)
    first = _shown_at(index, start)
    last = int(np.searchsorted(index.times, end - ROUNDING, side="left")) - 1
    in_range = max(last, first) - first + 1
    # Before anything of that length is made: a number or a rate may ask for any count of frames.
    if in_range <= count:
        return tuple(Target(number) for number in range(first, first + in_range)), warnings

    middles = _middles(start, end, int(count), sampling)
    if sampling.sampler == "codec":
        rows = choose_by_size(index, first, in_range, middles, path=path)
        return tuple(map(Target, rows)), warnings
    exact = np.searchsorted(index.times, middles + ROUNDING, side="right") - 1
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


def _count(length: float, sampling: Sampling) -> float:
    """How many frames are wanted of `length` seconds, whatever the video has of them."""
    most = sampling.max_frames or float("inf")
    if sampling.fps is None:
        return min(sampling.frames or DEFAULT_FRAMES, most)
    return min(_at_rate(length, sampling.fps), most)


def _at_rate(length: float, fps: float) -> float:
    return max(1.0, float(np.ceil(length * fps - 0.5 - ROUNDING)))


def _middles(start: float, end: float, count: int, sampling: Sampling) -> np.ndarray:
    """The wanted times in seconds, ascending."""
    length, places = end - start, np.arange(count) + 0.5
    if sampling.fps is None or count < _at_rate(length, sampling.fps):
        middles: np.ndarray = start + places * (length / count)
        return middles
    middles = start + places / sampling.fps
    return np.minimum(middles, start + length / 2) if count == 1 else middles


def _shown_at(index: PacketIndex, time: float) -> int:
    """The index of the frame shown at `time`."""
    return max(0, int(np.searchsorted(index.times, time + ROUNDING, side="right")) - 1)


def _nearest(keys: np.ndarray, frame_times: np.ndarray, times: np.ndarray) -> np.ndarray:
    """For each time, the index of the keyframe nearest to it."""
    key_times = frame_times[keys]
    after = np.clip(np.searchsorted(key_times, times), 0, len(key_times) - 1)
    before = np.maximum(after - 1, 0)
    closer = np.abs(key_times[before] - times) <= np.abs(key_times[after] - times)
    return keys[np.where(closer, before, after)]
