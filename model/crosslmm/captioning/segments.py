"""The parts of a video that get a caption each: equal lengths of time, or scenes between cuts."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from crosslmm.errors import UsageError
from crosslmm.limits import MAX_SEGMENTS
from crosslmm.video.cuts import Differences

if TYPE_CHECKING:
    from crosslmm.video.stream import FrameStream

Span = tuple[float, float]

_SHORTEST_SCENE = 0.5  # seconds
_WIDTH = 128  # pixels; cuts show at any size
_ROUNDING = 1e-6  # of a span; a frame on its edge belongs to the later one


def equal_spans(duration: float, seconds: float, times: np.ndarray) -> list[Span]:
    """Spans of `seconds` in which a frame appears; a rest shorter than half of it belongs to the last.

    times: (N,) float64, when each frame appears. Raises UsageError for more than MAX_SEGMENTS.
    """
    count = max(1.0, float(np.floor(duration / seconds + 0.5)))
    # By the frames, since two of them may lie years apart.
    numbers = np.unique(np.clip(np.floor(times / seconds + _ROUNDING), 0, count - 1))
    _check_count(len(numbers))
    return [
        (
            float(number * seconds),
            duration if number == count - 1 else float((number + 1) * seconds),
        )
        for number in numbers
    ]


def spans_between(cuts: Iterable[float], duration: float, times: np.ndarray) -> list[Span]:
    """Spans from 0 over the `cuts` to `duration` in which a frame appears; the rest as above."""
    edges = np.array([0.0, *(cut for cut in cuts if 0 < cut < duration), duration])
    appear = np.searchsorted(times, edges - _ROUNDING)
    spans = [
        (float(edges[number]), float(edges[number + 1]))
        for number in np.flatnonzero(np.diff(appear))
    ]
    _check_count(len(spans))
    return spans


def _check_count(count: int) -> None:
    if count > MAX_SEGMENTS:
        raise UsageError(
            f"{count:,} parts to caption, of at most {MAX_SEGMENTS:,} for a file; use longer `segments`"
        )


def scene_spans(stream: "FrameStream") -> list[Span]:
    """Spans between the cuts that are seen in a stream of all frames. Raises the stream's errors."""
    differences = Differences.of(stream)
    rows = differences.cuts(shortest=_SHORTEST_SCENE)
    cuts = differences.times[rows].tolist()
    return spans_between(cuts, stream.source.duration, stream.plan.probe.index.times)


def scene_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which cuts are looked for in frames of `size`."""
    height, width = size
    scale = min(1.0, _WIDTH / width)
    return max(1, round(height * scale)), max(1, round(width * scale))
