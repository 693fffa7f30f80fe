"""Batches of clips with their questions, as the demo model's video stages take them.

All questions about a clip share its frames: a row is the prompt up to the end of the time line, then
one turn after another, each of which attends to the prompt and to itself alone, at the positions it
would have if it were the only one. One encoding of a video so teaches a dozen answers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.synthetic.film import film
from crosslmm.synthetic.phrasing import DOES, event_said, named
from crosslmm.synthetic.questions import QUESTION_TYPES, Question, QuestionType, ask_about, seen_at
from crosslmm.synthetic.renderer import filmed
from crosslmm.synthetic.scene import Clip, make_clip
from crosslmm.synthetic.seeds import derive_seed
from crosslmm.training.demo_seen import IGNORED, SeenHeads, batched, seen_in_cells

SEEN_WEIGHT = 0.5
ASKED_WEIGHT = 4.0
_RATES = (10.0, 12.0, 15.0, 24.0, 25.0, 30.0, 50.0)


@dataclass(frozen=True)
class ClipOptions:
    """- `clips`: per batch; `questions`, `notes`: per clip (see `take_notes`); `timed_notes`: with what
      happens and when, which a glimpse of two or three frames does not show.
    - `frames`: of every clip of a batch, as many as one number drawn from this range.
    """

    clips: int = 8
    questions: int = 12
    notes: int = 0
    timed_notes: bool = True
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
                frame_period=period, types=options.types,
            )  # fmt: skip
            asked = [_loosened(question, rng) for question in asked]
            noted = times.tolist() if options.timed_notes else None
            asked += [take_notes(clip, rng, noted) for _ in range(options.notes)]
            rows.append(packed_turns(self.processor, times.tolist(), clip.duration, asked))
        generator = torch.Generator().manual_seed(seed)
        pictures = torch.cat(film(clips, moments, (self._height, self._width)))
        pictures = (filmed(pictures, generator=generator) * 255).round().byte()
        pixels = self.processor.normalise(pictures).unflatten(0, (options.clips, count))
        return {"pixel_values_videos": pixels, **padded(rows), **batched(seen)}

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
        clip = make_clip("train", seed, index, duration=duration, aspect=aspect)
        return clip, times, 1 / rate


def take_notes(clip: Clip, rng: np.random.Generator, times: Sequence[float] | None) -> Question:
    """`K yellow star small moves left appears at 3.41 seconds; circle red large 7 stays still`: for
    training only.

    Each thing is begun with something that picks it out, and what else it is follows at once. Looking
    one attribute up by another is so a matter of one token and its successor, which is learned in a
    few hundred steps; from questions alone, where the two stand far apart, it is not in thousands.
    """
    said = []
    for index in rng.permutation(len(clip.things)):
        thing = clip.things[index]
        parts = {
            "colour": thing.colour,
            "shape": thing.shape,
            "size": thing.size,
            "glyph": thing.glyph,
        }
        firsts = [
            name
            for name, value in parts.items()
            if name != "size"
            and value is not None
            and sum(value in (t.colour, t.turns_to, t.shape, t.glyph) for t in clip.things) == 1
        ]
        first = str(rng.choice(firsts)) if firsts else "colour"
        words = [parts.pop(first), *parts.values(), DOES[thing.motion]]
        for event in clip.events:
            if times is not None and event.subject == index:
                moment = seen_at(event.time * clip.duration, times)
                happens = event_said(clip, event).removeprefix(named(thing))
                words.append(f"{happens.strip()} at {moment:.2f} seconds")
        said.append(" ".join(filter(None, words)))
    text = "; ".join(said)
    return Question("describe", "Take notes.", text, text)


def _loosened(question: Question, rng: np.random.Generator) -> Question:
    """Sometimes as people type it: without a capital, without the mark at the end."""
    text = question.text
    if rng.random() < 0.15:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.15 and text[-1] in "?.":
        text = text[:-1]
    return Question(**{**vars(question), "text": text})


def packed_turns(
    processor: CrossLMMProcessor,
    times: Sequence[float],
    duration: float,
    questions: Sequence[Question],
) -> dict[str, Tensor]:
    """One row: token ids, labels, what each label weighs in the loss (what was asked for more than what
    leads to it), positions, and the turn each token belongs to (0: the prompt).

    All `(L,)`. The tokens of a prompt and one turn are exactly what the processor makes of them.
    """
    mark = "\0"
    rendered = processor.prompt(mark, times=times, duration=duration)
    before, after = rendered.split(mark)
    tokenizer = processor.tokenizer
    prompt = tokenizer(processor.expand(before, len(times))).input_ids
    ids, labels = [torch.tensor(prompt)], [torch.full((len(prompt),), IGNORED)]
    weights = [torch.zeros(len(prompt))]
    positions, turns = [torch.arange(len(prompt))], [torch.zeros(len(prompt), dtype=torch.long)]
    asked = tokenizer([question.text + after for question in questions]).input_ids
    answered = tokenizer([question.taught for question in questions]).input_ids
    leads = [question.taught.removesuffix(question.answer).rstrip() for question in questions]
    led = [len(lead) for lead in tokenizer(leads).input_ids]
    for turn, (question_ids, answer_ids) in enumerate(zip(asked, answered, strict=True), start=1):
        answer = [*answer_ids, tokenizer.eos_token_id]
        ids.append(torch.tensor(question_ids + answer))
        labels.append(torch.tensor([IGNORED] * len(question_ids) + answer))
        weight = torch.ones(len(ids[-1]))
        if led[turn - 1]:
            weight[len(question_ids) + led[turn - 1] : -1] = ASKED_WEIGHT
        weights.append(weight)
        positions.append(len(prompt) + torch.arange(len(ids[-1])))
        turns.append(torch.full((len(ids[-1]),), turn))
    return {
        "input_ids": torch.cat(ids),
        "labels": torch.cat(labels),
        "label_weights": torch.cat(weights),
        "position_ids": torch.cat(positions),
        "turns": torch.cat(turns),
    }


def padded(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows as one batch `(B, L)`; padding forms a turn of its own (-1), which nothing attends to."""
    fill = {"input_ids": 0, "labels": IGNORED, "label_weights": 0.0, "position_ids": 0, "turns": -1}
    return {
        name: nn.utils.rnn.pad_sequence([row[name] for row in rows], True, value)
        for name, value in fill.items()
    }


def turn_mask(turns: Tensor, dtype: torch.dtype) -> Tensor:
    """`(B, 1, L, L)`, 0 where a token attends and the lowest number where not: to the prompt and its
    own turn, never ahead."""
    query, key = turns[:, :, None], turns[:, None, :]
    length = turns.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=turns.device).tril()
    seen = causal & ((key == 0) | (key == query))
    lowest = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=turns.device).masked_fill(~seen, lowest)[
        :, None
    ]


class Answering(nn.Module):
    """A CrossLMM under the loss of its answers; nothing else is computed at the vocabulary's width."""

    def __init__(self, model: CrossLMMForConditionalGeneration):
        super().__init__()
        self.model = model
        text = model.config.text
        self.seen = SeenHeads(int(text.hidden_size))
        self._halfway: list[Tensor] = []
        layer = model.model.language_model.layers[2 * int(text.num_hidden_layers) // 3]
        layer.register_forward_pre_hook(lambda _, inputs: self._halfway.append(inputs[0]))
        # Tied to the embeddings; safetensors takes no weight twice.
        self.register_state_dict_post_hook(_without_head)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values_videos: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        position_ids: Tensor,
        turns: Tensor,
        **seen: Tensor,
    ) -> dict[str, Tensor]:
        """Token ids, labels, their weights, positions and turns `(B, L)`, pixels `(B, T, 3, S, S)`, what the visual
        tokens see `(B, V)`. Returns the loss, and the shares of answers right in every token, of
        answer tokens right, and of motions and news told right by the visual tokens."""
        self._halfway.clear()
        states = self.model.model(
            input_ids=input_ids,
            pixel_values_videos=pixel_values_videos,
            attention_mask=turn_mask(turns, pixel_values_videos.dtype),
            position_ids=position_ids,
            use_cache=False,
        ).last_hidden_state
        target = labels[:, 1:]
        spoken = target != IGNORED
        logits = self.model.lm_head(states[:, :-1][spoken]).float()
        weights = label_weights[:, 1:][spoken]
        losses = F.cross_entropy(logits, target[spoken], reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        hits = logits.argmax(-1) == target[spoken]
        # Answers by (row, turn): wrong as soon as one token is.
        rows = torch.arange(len(turns), device=turns.device)[:, None] * (turns.max() + 1)
        answer = (rows + turns[:, 1:])[spoken]
        wrong = torch.zeros(int(answer.max()) + 1, device=turns.device)
        wrong.index_add_(0, answer, (~hits).float())
        answers = wrong[answer.unique()] == 0
        visual = self._halfway.pop()[input_ids == self.model.config.video_token_id]
        truth = {name.removeprefix("seen_"): target for name, target in seen.items()}
        dense, right = self.seen(visual.view(len(input_ids), -1, visual.shape[-1]), truth)
        return {
            "loss": loss + SEEN_WEIGHT * dense,
            "answer_loss": loss,
            **right,
            "answers": answers.float().mean(),
            "tokens": hits.float().mean(),
        }


def _without_head(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    state.pop(f"{prefix}model.lm_head.weight", None)
