"""Look again: skim many frames at one token each, then answer from where a question points to.

The budget is that of one pass: as many tokens as `frames` would have. A part of it is spent on skimming
four frames, at one token each, for each frame of that pass; the rest on frames at full tokens around
the few moments that the skim scores highest, denser there than any uniform pass.

Several videos share one budget, and the moments are the highest of all. A video that has none of them
is looked at in a single frame, for the question is about all of them, by their numbers in the prompt.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np

from crosslmm.errors import UsageError
from crosslmm.evidence import Evidence
from crosslmm.inference.answer import (
    Answer,
    FrameUsed,
    LookedAgain,
    Timing,
    ZoomMoment,
    ZoomMomentOfVideo,
)
from crosslmm.inference.response import Response
from crosslmm.inference.session import VideoSession
from crosslmm.options import GenerationKeywords, share
from crosslmm.video import SourceInfo

_SKIMMED = 4  # frames, for each of a uniform pass
_MOMENTS = 3


@dataclass(frozen=True)
class ZoomBudget:
    """skim: frames at one token; look: frames at `tokens` each. Both together have no more tokens than
    the pass that they stand for."""

    skim: int
    look: int
    tokens: int

    @classmethod
    def of(cls, frames: int, tokens: int, videos: int = 1) -> "ZoomBudget":
        """frames, tokens: of each, of the uniform pass over all videos. Raises UsageError where it is
        too small."""
        skim = min(_SKIMMED * frames, frames * tokens // 2)
        look = (frames * tokens - skim) // tokens
        if look < videos or skim <= look:
            at_all = f" at {videos} videos" if videos > 1 else ""
            raise UsageError(
                f"{frames} frames of {tokens} tokens are too few to skim and to look again{at_all}: use "
                "more `frames`, or more `tokens_per_frame`"
            )
        return cls(skim, look, tokens)


class ZoomedVideo:
    """One video, or several, that were skimmed, for any number of questions: each looks again where it
    points to.

    The skim is done once. `Assistant.open_zoomed` makes it.
    """

    def __init__(
        self,
        skim: VideoSession,
        budget: ZoomBudget,
        look: Callable[[Sequence[Sequence[str]]], VideoSession],
        *,
        warnings: tuple[str, ...] = (),
    ) -> None:
        """look: opens the frames of these names of each video, as `Sampling.at` takes them, at full
        tokens. warnings: about the videos."""
        self._skim, self._budget, self._look = skim, budget, look
        self._looked: VideoSession | None = None
        self._spent = skim.timing
        self.video = skim.video
        self.videos = skim.videos
        self.warnings = warnings
        self.from_cache = skim.from_cache
        self.reused, self.packed = skim.reused, skim.packed
        self.merged = ""
        self.visual_tokens = skim.visual_tokens

    def __repr__(self) -> str:
        return f"<ZoomedVideo {self.video}: {self.summary}>"

    @property
    def source(self) -> SourceInfo:
        """As of `VideoSession`."""
        return self._skim.source

    @property
    def summary(self) -> str:
        """`skimmed 64 of 5,340 frames, one per 2.8 s`"""
        return f"skimmed {self._skim.summary}"

    def ask(self, question: str, **options: Unpack[GenerationKeywords]) -> Answer:
        """The complete answer; options as in `stream`."""
        return self.stream(question, **options).answer

    def stream(self, question: str, **options: Unpack[GenerationKeywords]) -> Response:
        """The answer as an iterator of pieces of text; options as in `VideoSession.stream`.
        `looked_again` of the result says where. Raises UsageError."""
        self._skim.stream(question, **options)  # checks both; nothing runs before it is read
        return Response(self._respond(question, options), self._skim.is_reasoning)

    def evidence(self, answer: Answer) -> Evidence:
        """As `VideoSession.evidence`, of the last answer: in the frames that were looked at again."""
        if self._looked is None:
            raise UsageError("the answer is not one about this video")
        return self._looked.evidence(answer)

    def _respond(self, question: str, options: GenerationKeywords) -> Generator[str, None, Answer]:
        began = time.perf_counter()
        self._looked = None  # frees its memory
        scores = self._skim.score_frames(question)
        skimmed = [SkimmedVideo(each.frames, each.source.frame_count) for each in self.videos]
        chosen = choose_moments(skimmed, scores, look=self._budget.look)
        names = []
        for video in range(len(skimmed)):
            own = {index for each in chosen if each.video == video for index in each.indices}
            names.append([f"#{index}" for index in sorted(own)])
        scored = time.perf_counter() - began
        looked = self._look(names)
        response = looked.stream(question, **options)
        yield from response
        self._looked = looked
        answer, spent = response.answer, self._spent
        self._spent = Timing(spent.load)
        of_look = replace(answer.timing, load=0.0)
        sums = {
            name: getattr(spent, name) + getattr(of_look, name)
            for name in Timing.__dataclass_fields__
        }
        timing = Timing(**sums)
        return replace(
            answer,
            timing=replace(
                timing,
                prefill=timing.prefill + scored,
                first_token=timing.first_token + scored,
            ),
            looked_again=LookedAgain(
                skimmed=len(self._skim.frames),
                tokens=self._skim.visual_tokens + looked.visual_tokens,
                moments=tuple(self._moment(each) for each in chosen),
            ),
        )

    def _moment(self, chosen: "ChosenMoment") -> ZoomMoment:
        video = self.videos[chosen.video]
        frame, source = video.frames[chosen.row], video.source
        per_frame = source.duration / max(source.frame_count, 1)
        first, last = chosen.indices[0] - frame.index, chosen.indices[-1] + 1 - frame.index
        start, end = frame.time + first * per_frame, frame.time + last * per_frame
        seconds = max(start, 0.0), min(end, source.duration)
        if len(self.videos) > 1:
            return ZoomMomentOfVideo(*seconds, chosen.score, video.name)
        return ZoomMoment(*seconds, chosen.score)


@dataclass(frozen=True)
class SkimmedVideo:
    """frames: of the skim; count: of all that the video has."""

    frames: Sequence[FrameUsed]
    count: int


@dataclass(frozen=True)
class ChosenMoment:
    """video: its place among those skimmed; row: of the skimmed frame in its middle, among those of the
    video; indices: of the frames to look at, ascending."""

    video: int
    row: int
    score: float
    indices: tuple[int, ...]


def choose_moments(
    videos: Sequence[SkimmedVideo], scores: np.ndarray, *, look: int
) -> list[ChosenMoment]:
    """The moments of a skim with the highest scores, in the order of these, and the frames around them;
    of a video that has none of them, its best frame alone.

    A moment reaches to the skimmed frames before and after. scores: of all skimmed frames, in the order
    of the videos; look: frames in all, at least one for each video.
    """
    places = [(video, row) for video, skim in enumerate(videos) for row in range(len(skim.frames))]
    best = [places[each] for each in np.argsort(-scores, kind="stable").tolist()]
    most = min(_MOMENTS, max(1, (look - len(videos) + 1) // 2))
    middles: list[tuple[int, int]] = []
    for video, row in best:
        if len(middles) == most:
            break
        if all(video != other or abs(row - near) > 1 for other, near in middles):
            middles.append((video, row))
    missing = set(range(len(videos))) - {video for video, _ in middles}
    shares = share(look - len(missing), len(middles)) + [1] * len(missing)
    middles += [next(place for place in best if place[0] == video) for video in sorted(missing)]
    score = dict(zip(places, scores.tolist(), strict=True))
    chosen = [
        ChosenMoment(video, row, score[video, row], _around(videos[video], row, frames))
        for (video, row), frames in zip(middles, shares, strict=True)
    ]
    return sorted(chosen, key=lambda each: -each.score)


def _around(video: SkimmedVideo, row: int, most: int) -> tuple[int, ...]:
    """So many frames, evenly spaced from the skimmed frame before, which shows what was there until
    then, to the one after; the skimmed one is among them. From further around where these are fewer."""
    frames = video.frames
    own = frames[row].index
    gap = max(1, round((frames[-1].index - frames[0].index) / max(1, len(frames) - 1)))
    first = max(0, frames[0].index - gap // 2)
    last = min(video.count - 1, frames[-1].index + gap // 2)
    low = frames[row - 1].index if row else first
    high = frames[row + 1].index if row + 1 < len(frames) else last
    if high - low < most:
        low = max(first, min(own - most // 2, last + 1 - most))
        return tuple(range(low, min(low + most, last + 1)))
    found = [round(float(place)) for place in np.linspace(low, high, most + 1)[:-1]]
    nearest = min(found[1:] or found, key=lambda index: (abs(index - own), index))
    return tuple(sorted({*found} - {nearest} | {own}))
