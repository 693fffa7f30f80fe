"""Batches of clips with their questions, as the demo model's video stages take them.

All questions about a clip share its frames (`turns.py`): one encoding of a video so teaches several
answers. Some clips are told in words instead of shown, which costs no encoding at all.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crosslmm.demo.reading import draw_verdicts, take_notes, tell
from crosslmm.demo.targets import batched, seen_in_cells
from crosslmm.demo.turns import MARK, concluded_turns, packed_turns, padded
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.synthetic.film import film
from crosslmm.synthetic.phrasing import named
from crosslmm.synthetic.questions import QUESTION_TYPES, Asker, Question, QuestionType, ask_about
from crosslmm.synthetic.references import by_looks
from crosslmm.synthetic.rendering import filmed
from crosslmm.synthetic.scenes import FRAMES_MEANT, Clip, make_clip
from crosslmm.synthetic.seeds import derive_seed

TOLD_ROWS = 12  # a batch of clips that are told costs about as much as one of half as many shown
_RATES = (10.0, 12.0, 15.0, 24.0, 25.0, 30.0, 50.0)


@dataclass(frozen=True)
class ClipOptions:
    """- `clips`: per batch; `questions`, `notes`: per clip (see `take_notes`); `timed_notes`: with what
      happens and when, which a glimpse of two or three frames does not show.
    - `told_every`: each batch with a number that this divides is of reading: clips told in words (see
      `tell`) and, by turns, verdicts on given reasons (see `draw_verdicts`); 0 for none.
    - `roundabout`: see `Asker`.
    - `busy`: the share of clips that are the more eventful of two.
    - `frames`: of every clip of a batch, as many as one number drawn from this range.
    """

    clips: int = 8
    questions: int = 12
    notes: int = 0
    told_every: int = 0
    timed_notes: bool = True
    roundabout: float | None = None
    busy: float = 0.0
    frames: tuple[int, int] = (8, 8)
    seconds: tuple[float, float] = (2.0, 60.0)
    types: tuple[QuestionType, ...] = QUESTION_TYPES


class QuestionedClips:
    """Batches of fresh clips with questions about them."""

    def __init__(self, processor: CrossLMMProcessor, options: ClipOptions, *, seed: int, name: str):
        self.processor, self.options = processor, options
        self.seed, self.name = seed, name
        self._height, self._width = processor.frame_size

    def at(self, number: int) -> dict[str, Any]:
        options = self.options
        seed = derive_seed("train", self.name, self.seed, number)
        rng = np.random.default_rng(seed)
        if options.told_every and number % options.told_every == 0:
            drilled = number // options.told_every % 2
            return self._drilled(seed, rng) if drilled else self._told(seed, rng)
        count = int(rng.integers(options.frames[0], options.frames[1] + 1))
        clips, moments, rows, seen = [], [], [], []
        side = math.isqrt(self.processor.tokens_per_frame)
        for index in range(options.clips):
            clip, times, period = self._draw(seed, index, rng, count)
            clips.append(clip)
            moments.append(times / clip.duration)
            seen.append(seen_in_cells(clip, moments[-1], side))
            asked = ask_about(
                clip, rng, count=options.questions, frame_times=times.tolist(),
                frame_period=period, types=options.types, roundabout=options.roundabout,
            )  # fmt: skip
            asked = [_loosened(question, rng) for question in asked]
            noted = times.tolist() if options.timed_notes else None
            asked += [take_notes(clip, rng, noted) for _ in range(options.notes)]
            prompt = self.processor.prompt(MARK, times=times.tolist(), duration=clip.duration)
            prompt = self.processor.expand(prompt, count)
            names = [[named(thing), *by_looks(clip, thing)] for thing in clip.things]
            rows.append(packed_turns(self.processor.tokenizer, prompt, asked, names))
        generator = torch.Generator().manual_seed(seed)
        pictures = torch.cat(film(clips, moments, (self._height, self._width)))
        pictures = (filmed(pictures, generator=generator) * 255).round().byte()
        pixels = self.processor.normalise(pictures).unflatten(0, (options.clips, count))
        return {"pixel_values_videos": pixels, **padded(rows), **batched(seen)}

    def _told(self, seed: int, rng: np.random.Generator) -> dict[str, Any]:
        rows = []
        for index in range(TOLD_ROWS):
            clip, times, period = self._draw(seed, index, rng, FRAMES_MEANT)
            asked = ask_about(
                clip, rng, count=self.options.questions, frame_times=times.tolist(),
                frame_period=period, types=self.options.types, roundabout=self.options.roundabout,
            )  # fmt: skip
            told = tell(clip, rng, times.tolist())
            asked = [q for q in asked if "object at the start" not in q.text]  # places are not told
            prompt = self.processor.prompt(f"{told}\n{MARK}", text_only=True)
            rows.append(packed_turns(self.processor.tokenizer, prompt, asked))
        return padded(rows)

    def _drilled(self, seed: int, rng: np.random.Generator) -> dict[str, Any]:
        rows: list[dict[str, Tensor]] = []
        for index in itertools.count():
            if len(rows) == 2 * TOLD_ROWS:
                break
            clip, times, period = self._draw(seed, index, rng, FRAMES_MEANT)
            asker = Asker(clip, rng, frame_times=times.tolist(), frame_period=period)
            verdicts = draw_verdicts(asker)
            if verdicts is not None:
                prompt = self.processor.prompt(verdicts.question, text_only=True)
                rows.append(concluded_turns(self.processor.tokenizer, prompt, verdicts.answers))
        return padded(rows)

    def _draw(
        self, seed: int, index: int, rng: np.random.Generator, count: int
    ) -> tuple[Clip, np.ndarray, float]:
        """A clip, the times of its frames in seconds as sampling a file gives them, and how long a
        frame of that file lasts."""
        low, high = self.options.seconds
        duration = float(low * (high / low) ** rng.random())
        aspect = 1.0 if rng.random() < 0.6 else float(2 ** rng.uniform(-0.4, 0.8))
        rate = float(rng.choice(_RATES))
        duration = round(duration * rate) / rate
        middles = (np.arange(count) + 0.5) / count * duration
        times = np.minimum(np.round(middles * rate), round(duration * rate) - 1) / rate
        drawn = [make_clip("train", seed, index, duration=duration, aspect=aspect)]
        if rng.random() < self.options.busy:
            drawn.append(make_clip("train", seed, ~index, duration=duration, aspect=aspect))
        return max(drawn, key=_eventfulness), times, 1 / rate


def _eventfulness(clip: Clip) -> tuple[int, int]:
    """Events, those of two things counted twice; then things."""
    return sum(1 + (event.other >= 0) for event in clip.events), len(clip.things)


def _loosened(question: Question, rng: np.random.Generator) -> Question:
    """Sometimes as people type it: without a capital, without the mark at the end."""
    text = question.text
    if rng.random() < 0.15:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.15 and text[-1] in "?.":
        text = text[:-1]
    return Question(**{**vars(question), "text": text})
