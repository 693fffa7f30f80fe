"""Batches of clips with their questions, for the video stages of the demo's training.

All questions about a clip share its frames (`packing.py`): one encoding of a video thus teaches several
answers. Some clips are given in words instead, which costs no encoding at all.
"""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crosslmm.demo.exercises import draw_verdicts, narrate, take_notes
from crosslmm.demo.packing import MARK, pack_conclusions, pack_turns, pad_rows
from crosslmm.demo.targets import dense_targets, stack_targets
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.synthetic.asker import Asker, ask_about
from crosslmm.synthetic.frames import render_clips
from crosslmm.synthetic.questions import QUESTION_TYPES, Question, QuestionType
from crosslmm.synthetic.rendering import simulate_camera
from crosslmm.synthetic.scenes import FRAMES_NEEDED, SyntheticClip, make_clip
from crosslmm.synthetic.seeds import derive_seed

TEXT_ONLY_ROWS = 12  # costs about as much as half as many clips that are shown
_RATES = (10.0, 12.0, 15.0, 24.0, 25.0, 30.0, 50.0)


@dataclass(frozen=True)
class ClipOptions:
    """- `clips`: per batch; `questions`, `notes`: per clip (see `take_notes`); `timed_notes`: with what
      happens and when, which two or three frames do not show.
    - `text_only_every`: of so many batches, or groups of `alike` ones, the first has no frames, but
      clips in words (see `narrate`) or, in turn, verdicts on given reasons (see `draw_verdicts`); 0 for
      none.
    - `indirect`, `misplaced`: see `Narrator`; the second for clips that are shown.
    - `busy`: the share of clips that are the more eventful of two.
    - `frames`: of every clip of a batch, as many as one number drawn from this range, each doubling of
      it as likely.
    - `frames_per_batch`: in place of `clips`; batches of few frames then cost what those of many do.
    - `tokens`: per frame, one number drawn for each batch; none for the processor's.
    - `alike`: so many batches after each other have the same frames and tokens, so that the processes
      that share a step do not wait for each other.
    """

    clips: int = 8
    questions: int = 12
    notes: int = 0
    text_only_every: int = 0
    timed_notes: bool = True
    indirect: float | None = None
    misplaced: float = 0.0
    busy: float = 0.0
    frames: tuple[int, int] = (8, 8)
    frames_per_batch: int | None = None
    tokens: tuple[int, ...] = ()
    alike: int = 1
    seconds: tuple[float, float] = (2.0, 60.0)
    types: tuple[QuestionType, ...] = QUESTION_TYPES


class ClipBatches:
    """Batches of fresh clips with questions about them, by number."""

    def __init__(self, processor: CrossLMMProcessor, options: ClipOptions, *, seed: int, name: str):
        self.processor, self.options = processor, options
        self.seed, self.name = seed, name
        self._height, self._width = processor.frame_size

    def at(self, number: int) -> dict[str, Any]:
        options = self.options
        seed = derive_seed("train", self.name, self.seed, number)
        rng = np.random.default_rng(seed)
        step = number // options.alike
        if options.text_only_every and step % options.text_only_every == 0:
            verdicts = step // options.text_only_every % 2
            return self._verdicts(seed, rng) if verdicts else self._clips_in_words(seed, rng)
        count, tokens = self._draw_budget(step)
        shown = options.clips
        if options.frames_per_batch:
            shown = max(1, options.frames_per_batch // count)
        clips, moments, rows, targets = [], [], [], []
        side = math.isqrt(tokens)
        for index in range(shown):
            clip, times, period = self._draw(seed, index, rng, count)
            clips.append(clip)
            moments.append(times / clip.duration)
            targets.append(dense_targets(clip, moments[-1], side))
            asked = ask_about(
                clip, rng, count=options.questions, frame_times=times.tolist(),
                frame_period=period, types=options.types, indirect=options.indirect,
                misplaced=options.misplaced,
            )  # fmt: skip
            asked = [_vary_typing(question, rng) for question in asked]
            noted = times.tolist() if options.timed_notes else None
            asked += [take_notes(clip, rng, noted) for _ in range(options.notes)]
            prompt = self.processor.prompt(MARK, times=times.tolist(), duration=clip.duration)
            prompt = self.processor.expand(prompt, count, tokens_per_frame=tokens)
            rows.append(pack_turns(self.processor.tokenizer, prompt, asked))
        generator = torch.Generator().manual_seed(seed)
        frames = torch.cat(render_clips(clips, moments, (self._height, self._width)))
        frames = (simulate_camera(frames, generator=generator) * 255).round().byte()
        pixels = self.processor.normalise(frames).unflatten(0, (shown, count))
        return {"pixel_values_videos": pixels, **pad_rows(rows), **stack_targets(targets)}

    def _draw_budget(self, step: int) -> tuple[int, int]:
        """Frames, and tokens for each."""
        rng = np.random.default_rng(derive_seed("train", self.name, self.seed, "budget", step))
        low, high = self.options.frames
        count = int(low * ((high + 1) / low) ** rng.random())
        tokens = self.options.tokens or (self.processor.tokens_per_frame,)
        return count, int(rng.choice(tokens))

    def _clips_in_words(self, seed: int, rng: np.random.Generator) -> dict[str, Any]:
        rows = []
        for index in range(TEXT_ONLY_ROWS):
            clip, times, period = self._draw(seed, index, rng, FRAMES_NEEDED)
            asked = ask_about(
                clip, rng, count=self.options.questions, frame_times=times.tolist(),
                frame_period=period, types=self.options.types, indirect=self.options.indirect,
            )  # fmt: skip
            story = narrate(clip, rng, times.tolist())
            asked = [
                question for question in asked if not question.by_position
            ]  # `narrate` gives none
            prompt = self.processor.prompt(f"{story}\n{MARK}", text_only=True)
            rows.append(pack_turns(self.processor.tokenizer, prompt, asked, shown=False))
        return pad_rows(rows)

    def _verdicts(self, seed: int, rng: np.random.Generator) -> dict[str, Any]:
        rows: list[dict[str, Tensor]] = []
        for index in itertools.count():
            if len(rows) == 2 * TEXT_ONLY_ROWS:
                break
            clip, times, period = self._draw(seed, index, rng, FRAMES_NEEDED)
            asker = Asker(clip, rng, frame_times=times.tolist(), frame_period=period)
            verdicts = draw_verdicts(asker)
            if verdicts is not None:
                prompt = self.processor.prompt(verdicts.question, text_only=True)
                rows.append(pack_conclusions(self.processor.tokenizer, prompt, verdicts.answers))
        return pad_rows(rows)

    def _draw(
        self, seed: int, index: int, rng: np.random.Generator, count: int
    ) -> tuple[SyntheticClip, np.ndarray, float]:
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


def _eventfulness(clip: SyntheticClip) -> tuple[int, int]:
    """Events, those of two things counted twice; then things."""
    return sum(1 + (event.other >= 0) for event in clip.events), len(clip.things)


def _vary_typing(question: Question, rng: np.random.Generator) -> Question:
    """Sometimes as people type: without a capital, without the mark at the end."""
    text = question.text
    if rng.random() < 0.15:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.15 and text[-1] in "?.":
        text = text[:-1]
    return replace(question, text=text)
