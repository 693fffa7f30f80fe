"""What an answer was read from, and the moments and regions in it that stand out."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from crosslmm.options import Sampling

_PEAK = 0.5  # share of the highest score down to which neighbours belong to a peak
_SEEN = 0.15  # … and to what was read for as long as it is seen
_MOST_REGIONS = 3  # of a frame


@dataclass(frozen=True)
class Region:
    """A part of a frame. box: left, top, right and bottom as fractions of its width and height; score:
    the share of the frame's evidence that is in it."""

    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Moment:
    """A part of the video: from `start` to `end` in seconds.

    What a frame is the first to show happened after the frame before: so a moment begins there, and
    ends halfway to the frame after. frame: the one with the most evidence, by its place among those
    used; time: its seconds; score: its share of all evidence.
    """

    start: float
    end: float
    score: float
    frame: int
    time: float
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class TimeSpan:
    """A part of the video in which what the answer is about was seen, in seconds; score: the share of
    all evidence that is in it."""

    start: float
    end: float
    score: float

    def as_dict(self) -> dict[str, float]:
        """The JSON form."""
        return {
            "start": round(self.start, 3),
            "end": round(self.end, 3),
            "score": round(self.score, 4),
        }


@dataclass(frozen=True)
class Word:
    """A word of the answer, its characters `start` to `end` there, and its share of evidence of each
    frame; all zeros where nothing was read for it."""

    text: str
    start: int
    end: int
    scores: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class EvidenceMaps:
    """Where in a video an answer was read from.

    - duration: of the video, in seconds; indices, times: of the frames that were used.
    - heat: (T, side, side), the share of all evidence in each cell of each frame.
    - source: whose attention the places in frames are from, `cross-attention` (text to visual) or
      `self-attention`; the moments are always from the latter.
    - seconds: what computing it took.
    - sampling: how the video was read; its limits and reader are those of what reads it again.
    - file: where the video is, if that is not `video`.
    """

    video: str
    question: str
    answer: str
    model: str
    duration: float
    indices: tuple[int, ...]
    times: tuple[float, ...]
    heat: np.ndarray = field(repr=False)
    words: tuple[Word, ...] = field(repr=False)
    source: str
    seconds: float
    sampling: Sampling = field(default=Sampling(), repr=False)
    file: str | None = field(default=None, repr=False)

    @cached_property
    def scores(self) -> tuple[float, ...]:
        """Of each frame, its share of all evidence."""
        return tuple(self.heat.sum(axis=(1, 2)).tolist())

    @property
    def frames(self) -> tuple[tuple[float, float], ...]:
        """Of each frame, its time in seconds and its share of all evidence."""
        return tuple(zip(self.times, self.scores, strict=True))

    @cached_property
    def moments(self) -> tuple[Moment, ...]:
        """Where the evidence is at least half as much as at its peak, the most first."""
        found = [self._moment(run) for run in _runs(np.asarray(self.scores), _PEAK)]
        return tuple(sorted(found, key=lambda moment: -moment.score))

    @cached_property
    def spans(self) -> tuple[TimeSpan, ...]:
        """When what the answer is about was seen, in the order of time: wider than `moments`, which are
        where most was read. A span ends halfway to the frames before and after."""
        edges = [(one + other) / 2 for one, other in itertools.pairwise(self.times)]
        starts, ends = [0.0, *edges], [*edges, self.duration]
        return tuple(
            TimeSpan(starts[run[0]], ends[run[-1]], sum(self.scores[number] for number in run))
            for run in _runs(np.asarray(self.scores), _SEEN)
        )

    def regions(self, frame: int) -> tuple[Region, ...]:
        """The parts of a frame that stand out, the most first."""
        heat = self.heat[frame]
        total = float(heat.sum())
        if total <= 0:
            return ()
        found = [_region(heat / total, cells) for cells in _patches(heat)]
        return tuple(sorted(found, key=lambda region: -region.score)[:_MOST_REGIONS])

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; `heat` is left out."""
        return {
            "video": self.video,
            "question": self.question,
            "answer": self.answer,
            "model": self.model,
            "source": self.source,
            "seconds": round(self.seconds, 3),
            "moments": [
                {
                    "start": round(moment.start, 3),
                    "end": round(moment.end, 3),
                    "score": round(moment.score, 4),
                    "time": round(moment.time, 3),
                    "regions": [
                        {
                            "box": [round(side, 4) for side in region.box],
                            "score": round(region.score, 4),
                        }
                        for region in moment.regions
                    ],
                }
                for moment in self.moments
            ],
            "spans": [span.as_dict() for span in self.spans],
            "frames": [
                {"index": index, "time": round(time, 3), "score": round(score, 4)}
                for index, time, score in zip(self.indices, self.times, self.scores, strict=True)
            ],
            "words": [
                {
                    "text": word.text,
                    "start": word.start,
                    "end": word.end,
                    "scores": [round(score, 4) for score in word.scores],
                }
                for word in self.words
            ],
        }

    def _moment(self, run: Sequence[int]) -> Moment:
        times, last = self.times, len(self.times) - 1
        frame = max(run, key=lambda number: self.scores[number])
        start = times[run[0] - 1] if run[0] > 0 else 0.0
        end = (times[run[-1]] + times[run[-1] + 1]) / 2 if run[-1] < last else self.duration
        end = max(end, times[run[-1]])
        return Moment(start, end, self.scores[frame], frame, times[frame], self.regions(frame))


def _runs(scores: np.ndarray, share: float) -> Iterator[list[int]]:
    """Neighbouring frames of which each has at least this share of the highest score."""
    run: list[int] = []
    if scores.max(initial=0.0) <= 0:
        return
    for number, high in enumerate(scores >= share * scores.max()):
        if high:
            run.append(number)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _patches(heat: np.ndarray) -> list[set[tuple[int, int]]]:
    """Cells that have at least a share of the highest value, those that touch together."""
    rows, columns = np.nonzero(heat >= _PEAK * heat.max())
    left = set(zip(rows.tolist(), columns.tolist(), strict=True))
    found = []
    while left:
        waiting, cells = [left.pop()], set()
        while waiting:
            row, column = cell = waiting.pop()
            cells.add(cell)
            near = {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)}
            waiting += near & left
            left -= near
        found.append(cells)
    return found


def _region(shares: np.ndarray, cells: set[tuple[int, int]]) -> Region:
    side = len(shares)
    rows, columns = zip(*cells, strict=True)
    box = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
    score = float(sum(shares[cell] for cell in cells))
    left, top, right, bottom = (edge / side for edge in box)
    return Region((left, top, right, bottom), score)
