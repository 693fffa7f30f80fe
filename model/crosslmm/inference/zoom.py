"""Look again: skim many frames at one token each, then answer from where a question points to.

The budget is that of one pass: as many tokens as `frames` would have. A part of it is spent on skimming
four frames, at one token each, for each frame of that pass; the rest on frames at full tokens around
the few moments that the skim scores highest, denser there than any uniform pass.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

import numpy as np

from crosslmm.errors import UsageError
from crosslmm.evidence import Evidence
from crosslmm.inference.answer import Answer, FrameUsed, LookedAgain, Timing, ZoomMoment
from crosslmm.inference.response import Response
from crosslmm.inference.session import VideoSession
from crosslmm.options import GenerationKeywords

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
    def of(cls, frames: int, tokens: int) -> "ZoomBudget":
        """frames, tokens: of each, of the uniform pass. Raises UsageError where it is too small."""
        skim = min(_SKIMMED * frames, frames * tokens // 2)
        look = (frames * tokens - skim) // tokens
        if look < 1 or skim <= look:
            raise UsageError(
                f"{frames} frames of {tokens} tokens are too few to skim and to look again: use more "
                "`frames`, or more `tokens_per_frame`"
            )
        return cls(skim, look, tokens)


class ZoomedVideo:
    """A video that was skimmed, for any number of questions: each looks again where it points to.

    The skim is done once. `Assistant.open_zoomed` makes it.
    """

    def __init__(
        self,
        skim: VideoSession,
        budget: ZoomBudget,
        look: Callable[[Sequence[str]], VideoSession],
        *,
        warnings: tuple[str, ...] = (),
    ) -> None:
        """look: opens the frames of these names, as `Sampling.at` takes them, at full tokens.
        warnings: about the video."""
        self._skim, self._budget, self._look = skim, budget, look
        self._looked: VideoSession | None = None
        self._spent = skim.timing
        self.video = skim.video
        self.source = skim.source
        self.warnings = warnings
        self.from_cache = skim.from_cache
        self.reused, self.packed = skim.reused, skim.packed
        self.merged = ""
        self.visual_tokens = skim.visual_tokens

    def __repr__(self) -> str:
        return f"<ZoomedVideo {self.video}: {self.summary}>"

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
        chosen = choose_moments(
            self._skim.frames, scores, look=self._budget.look, count=self._skim.source.frame_count
        )
        names = sorted({index for moment in chosen for index in moment.indices})
        scored = time.perf_counter() - began
        looked = self._look([f"#{index}" for index in names])
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
        frame = self._skim.frames[chosen.row]
        per_frame = self.source.duration / max(self.source.frame_count, 1)
        first, last = chosen.indices[0] - frame.index, chosen.indices[-1] + 1 - frame.index
        start, end = frame.time + first * per_frame, frame.time + last * per_frame
        return ZoomMoment(max(start, 0.0), min(end, self.source.duration), chosen.score)


@dataclass(frozen=True)
class ChosenMoment:
    """row: of the skimmed frame in its middle; indices: of the frames to look at, ascending."""

    row: int
    score: float
    indices: tuple[int, ...]


def choose_moments(
    frames: Sequence[FrameUsed], scores: np.ndarray, *, look: int, count: int
) -> list[ChosenMoment]:
    """The moments of a skim with the highest scores, in the order of these, and the frames around them.

    A moment reaches to the skimmed frames before and after. look: frames in all; count: of the video.
    """
    most = min(_MOMENTS, max(1, look // 2))
    rows: list[int] = []
    for row in np.argsort(-scores, kind="stable").tolist():
        if len(rows) == most:
            break
        if all(abs(row - other) > 1 for other in rows):
            rows.append(row)
    chosen = []
    for number, row in enumerate(rows):
        share = look // len(rows) + (number < look % len(rows))
        indices = _around(frames, row, share, count)
        chosen.append(ChosenMoment(row, float(scores[row]), indices))
    return chosen


def _around(frames: Sequence[FrameUsed], row: int, share: int, count: int) -> tuple[int, ...]:
    """So many frames, evenly spaced from the skimmed frame before, which shows what was there until
    then, to the one after; the skimmed one is among them. From further around where these are fewer."""
    own = frames[row].index
    gap = max(1, round((frames[-1].index - frames[0].index) / max(1, len(frames) - 1)))
    first = max(0, frames[0].index - gap // 2)
    last = min(count - 1, frames[-1].index + gap // 2)
    low = frames[row - 1].index if row else first
    high = frames[row + 1].index if row + 1 < len(frames) else last
    if high - low < share:
        low = max(first, min(own - share // 2, last + 1 - share))
        return tuple(range(low, min(low + share, last + 1)))
    found = [round(float(place)) for place in np.linspace(low, high, share + 1)[:-1]]
    nearest = min(found[1:] or found, key=lambda index: (abs(index - own), index))
    return tuple(sorted({*found} - {nearest} | {own}))
