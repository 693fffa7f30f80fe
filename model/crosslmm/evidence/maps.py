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
_FAR = 4  # times the usual distance of two frames: what lies between was not looked at


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
    used; time: its seconds; score: its share of all evidence; video: the name of its own, of several.
    """

    start: float
    end: float
    score: float
    frame: int
    time: float
    regions: tuple[Region, ...]
    video: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, which names no video where there is one."""
        return {
            **_rounded(self),
            "time": round(self.time, 3),
            "regions": [
                {"box": [round(side, 4) for side in region.box], "score": round(region.score, 4)}
                for region in self.regions
            ],
            **_named(self.video),
        }


@dataclass(frozen=True)
class TimeSpan:
    """A part of the video in which what the answer is about was seen, in seconds; score: the share of
    all evidence that is in it; video: as of `Moment`."""

    start: float
    end: float
    score: float
    video: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, which names no video where there is one."""
        return _rounded(self) | _named(self.video)


@dataclass(frozen=True)
class Word:
    """A word of the answer, its characters `start` to `end` there, and its share of evidence of each
    frame; all zeros where nothing was read for it."""

    text: str
    start: int
    end: int
    scores: tuple[float, ...]


@dataclass(frozen=True)
class EvidenceVideo:
    """One of the videos that a question was about. duration: in seconds; frames: how many of those used
    are of it; file: where it is, if that is not `name`."""

    name: str
    duration: float
    frames: int
    file: str | None = None


@dataclass(frozen=True, eq=False)
class EvidenceMaps:
    """Where in one video, or in several, an answer was read from.

    - answer: all that was said; reasoning: how many characters of it come before the answer itself.
    - indices, times: of the frames that were used, those of one video after those of the other.
    - heat: (T, side, side), the share of all evidence in each cell of each frame.
    - source: whose attention the places in frames are from, `cross-attention` (text to visual) or
      `self-attention`; the moments are always from the latter.
    - seconds: what computing it took.
    - sampling: how the videos were read; its limits and reader are those of what reads them again.
    """

    videos: tuple[EvidenceVideo, ...]
    question: str
    answer: str
    model: str
    indices: tuple[int, ...]
    times: tuple[float, ...]
    heat: np.ndarray = field(repr=False)
    words: tuple[Word, ...] = field(repr=False)
    source: str
    seconds: float
    sampling: Sampling = field(default=Sampling(), repr=False)
    reasoning: int = 0

    @property
    def video(self) -> str:
        """The names of all."""
        return ", ".join(video.name for video in self.videos)

    @cached_property
    def ranges(self) -> tuple[range, ...]:
        """Of each video, the places of its frames among all."""
        edges = itertools.accumulate((video.frames for video in self.videos), initial=0)
        return tuple(itertools.starmap(range, itertools.pairwise(edges)))

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
        found = [self._moment(number, run) for number, run in self._runs(_PEAK)]
        return tuple(sorted(found, key=lambda moment: -moment.score))

    @cached_property
    def spans(self) -> tuple[TimeSpan, ...]:
        """When what the answer is about was seen, in the order of videos and of time: wider than
        `moments`, which are where most was read. A span ends halfway to the frames before and after."""
        return tuple(itertools.chain(*self.spans_by_video))

    @cached_property
    def spans_by_video(self) -> tuple[tuple[TimeSpan, ...], ...]:
        """The spans of each video."""
        found: list[list[TimeSpan]] = [[] for _ in self.videos]
        for number, run in self._runs(_SEEN):
            start, end = self._start(number, run[0]), self._end(number, run[-1])
            score = sum(self.scores[frame] for frame in run)
            found[number].append(TimeSpan(start, end, score, self._name(number)))
        return tuple(map(tuple, found))

    def video_of(self, frame: int) -> int:
        """The place of a frame's video among `videos`."""
        return next(number for number, frames in enumerate(self.ranges) if frame in frames)

    def regions(self, frame: int) -> tuple[Region, ...]:
        """The parts of a frame that stand out, the most first."""
        heat = self.heat[frame]
        total = float(heat.sum())
        if total <= 0:
            return ()
        found = [_region(heat / total, cells) for cells in _patches(heat)]
        return tuple(sorted(found, key=lambda region: -region.score)[:_MOST_REGIONS])

    def as_dict(self) -> dict[str, Any]:
        """The JSON form; `heat` is left out, and what names videos where there is one."""
        several = len(self.videos) > 1
        names = [self._name(number) for number, frames in enumerate(self.ranges) for _ in frames]
        frames = zip(self.indices, self.times, self.scores, names, strict=True)
        return {
            "video": self.video,
            "question": self.question,
            "answer": self.answer,
            "model": self.model,
            "source": self.source,
            "seconds": round(self.seconds, 3),
            "moments": [moment.as_dict() for moment in self.moments],
            "spans": [span.as_dict() for span in self.spans],
            "frames": [
                {"index": index, "time": round(time, 3), "score": round(score, 4), **_named(name)}
                for index, time, score, name in frames
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
            **({"videos": [video.name for video in self.videos]} if several else {}),
        }

    def _name(self, number: int) -> str | None:
        return self.videos[number].name if len(self.videos) > 1 else None

    def _runs(self, share: float) -> Iterator[tuple[int, list[int]]]:
        """The number of a video, and neighbouring frames of it of which each has at least this share of
        the highest score of all."""
        least = share * max(self.scores, default=0.0)
        if least <= 0:
            return
        for number, frames in enumerate(self.ranges):
            run: list[int] = []
            for frame in frames:
                is_high = self.scores[frame] >= least
                is_far = run and self.times[frame] - self.times[run[-1]] > self._reach
                if run and (is_far or not is_high):
                    yield number, run
                    run = []
                if is_high:
                    run.append(frame)
            if run:
                yield number, run

    def _moment(self, number: int, run: Sequence[int]) -> Moment:
        times, frame = self.times, max(run, key=lambda place: self.scores[place])
        start = times[run[0] - 1] if run[0] > self.ranges[number][0] else 0.0
        return Moment(
            max(start, times[run[0]] - self._reach),
            self._end(number, run[-1]),
            self.scores[frame],
            frame,
            times[frame],
            self.regions(frame),
            self._name(number),
        )

    @cached_property
    def _reach(self) -> float:
        """Seconds beyond which a frame tells nothing, where some are much further apart than most."""
        gaps = [np.diff(self.times[frames.start : frames.stop]) for frames in self.ranges]
        known = np.concatenate(gaps)
        return _FAR * float(np.median(known)) if len(known) else float("inf")

    def _start(self, number: int, frame: int) -> float:
        """The seconds halfway to the frame before, or the start of the video."""
        time = self.times[frame]
        is_first = frame == self.ranges[number][0]
        start = 0.0 if is_first else (self.times[frame - 1] + time) / 2
        return max(start, time - self._reach)

    def _end(self, number: int, frame: int) -> float:
        """The seconds halfway to the frame after, or the end of the video."""
        time = self.times[frame]
        is_last = frame == self.ranges[number][-1]
        end = self.videos[number].duration if is_last else (time + self.times[frame + 1]) / 2
        return max(min(end, time + self._reach), time)


def _rounded(part: Moment | TimeSpan) -> dict[str, Any]:
    """When it is, and its share, in the JSON form."""
    return {
        "start": round(part.start, 3),
        "end": round(part.end, 3),
        "score": round(part.score, 4),
    }


def _named(video: str | None) -> dict[str, str]:
    """What the JSON form has of it."""
    return {} if video is None else {"video": video}


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
