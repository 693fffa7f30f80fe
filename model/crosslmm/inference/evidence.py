"""The evidence of an answer: what its words attend to in the videos while they are said.

After an answer is complete, its words go through the model once more, on top of the videos' cache, and
attention is summed up as it is seen, so that memory does not grow with layers and heads.

- When: the language model's own attention to the merged tokens, in its last layers, where what was
  read is put into words. An answer may repeat what it said before, so a word that attends to earlier
  words also takes over their evidence. Squares let the few that matter count, not the many (sinks).
- Where in a frame: T2V, where any is open, over the patches, beyond what question and prompt attend to
  there; else the language model's own attention.

What was chosen among, and how often it is right, is in `docs/evidence.md`.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from crosslmm.errors import UsageError
from crosslmm.evidence import Evidence, EvidenceVideo, Word
from crosslmm.inference.answer import Answer, TokenTrace
from crosslmm.inference.attention import observe_self_attention, observe_text_to_visual
from crosslmm.inference.encoding import VideoPart
from crosslmm.inference.generation import decode_answer
from crosslmm.inference.prefix import VideoPrefix
from crosslmm.inference.runtime import Runtime
from crosslmm.limits import PREFILL_TOKENS
from crosslmm.options import Sampling
from crosslmm.prompts.tokenization import AnswerText
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.visual_tokens import VisualTokens

LAST_LAYERS = 3  # one of so many
_USUAL_ROWS = 128  # tokens before the answer, whose attention is the usual one
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """What the visual tokens of one video, or of several, stand for.

    - frames: T; pooled: M tokens of each frame before merging, a square grid.
    - videos: merged tokens of each video, K together.
    - member: (T·M,), the merged token that each of them went into; None where there is no merging.
    """

    frames: int
    pooled: int
    videos: tuple[int, ...]
    member: torch.Tensor | None = None

    @classmethod
    def of(cls, visual: VisualTokens | RaggedTokens, videos: Sequence[int]) -> "TokenLayout":
        if isinstance(visual, VisualTokens):
            _, frames, pooled, _ = visual.embeds.shape
            return cls(frames, pooled, tuple(videos))
        return cls(visual.frames[0], visual.pooled, tuple(videos), visual.member)

    def columns(self, ids: torch.Tensor, placeholder: int) -> torch.Tensor:
        """ids: (L,), of a prompt → (K,), where its merged tokens are: text is between videos, and a
        placeholder of its own may end each."""
        places = (ids == placeholder).nonzero()[:, 0]
        ends = (len(places) - sum(self.videos)) // len(self.videos)
        parts = torch.split(places, [count + ends for count in self.videos])
        return torch.cat([part[:count] for part, count in zip(parts, self.videos, strict=True)])

    def spread(self, weights: torch.Tensor) -> torch.Tensor:
        """(…, K) → (…, T, M): what a merged token is given, in equal parts to all it stands for."""
        if self.member is not None:
            member = self.member.to(weights.device)
            mass = torch.bincount(member, minlength=sum(self.videos)).clamp(min=1)
            weights = (weights / mass)[..., member]
        return weights.reshape(*weights.shape[:-1], self.frames, self.pooled)


def find_evidence(
    runtime: Runtime,
    prefix: VideoPrefix,
    layout: TokenLayout,
    answer: Answer,
    videos: Sequence[VideoPart],
    sampling: Sampling,
    part: tuple[int, int] | None = None,
) -> Evidence:
    """The evidence of an answer, or of a part of its characters, about the videos whose prefix this is.
    Raises UsageError."""
    began = time.perf_counter()
    trace = answer.trace
    assert trace is not None
    said = trace.said
    words = split_words(runtime.processor.tokenizer, trace.answer, said)
    before = len(said) - len(answer.text)  # of its reasoning
    first, last = (before + character for character in part or (0, len(answer.text)))
    rows = [row for word in words if word.start < last and word.end > first for row in word.rows]
    if not rows:
        where = "there" if said.strip() else "at all"
        raise UsageError(f"the answer has no words {where}, so nothing was read for it")
    attention = _read(runtime, prefix, layout, trace)
    flow = attention.flow()
    frames, heat = flow[rows].mean(axis=0), attention.heat()
    heat = heat * (frames / max(frames.sum(), _TINY))[:, None]
    side = round(heat.shape[1] ** 0.5)
    return Evidence(
        videos=tuple(
            EvidenceVideo(video.name, video.source.duration, len(video.frames), video.path)
            for video in videos
        ),
        question=answer.question,
        answer=said,
        model=answer.model,
        indices=tuple(frame.index for frame in answer.frames),
        times=tuple(frame.time for frame in answer.frames),
        heat=heat.reshape(-1, side, side),
        words=tuple(
            Word(
                word.text, word.start, word.end, tuple(flow[list(word.rows)].mean(axis=0).tolist())
            )
            for word in words
        ),
        source="cross-attention" if attention.crosses else "self-attention",
        seconds=time.perf_counter() - began,
        sampling=sampling,
        reasoning=before,
    )


@dataclass(frozen=True)
class WordTokens:
    """A word of an answer, its characters there, and the places of its tokens in the answer."""

    text: str
    start: int
    end: int
    rows: tuple[int, ...]


def split_words(tokenizer: Any, ids: Sequence[int], text: str) -> list[WordTokens]:
    """The words of an answer of these tokens, whose text is `text`."""
    stream, done = AnswerText(tokenizer), 0
    spans: list[tuple[int, int]] = []  # of each token, in the decoded text

    def end_character(end: int) -> None:
        """Tokens that gave nothing so far were the first bytes of the same character."""
        for number in range(len(spans) - 1, -1, -1):
            if spans[number] != (done, done):
                break
            spans[number] = (done, end)

    for token in ids:
        piece = stream.step(token)
        spans.append((done, done))
        if piece:
            end_character(done + len(piece))
            done += len(piece)
    decoded = decode_answer(tokenizer, ids)
    if len(decoded) > done:  # the last character lacks bytes
        end_character(len(decoded))
    lead = len(decoded) - len(decoded.lstrip())
    found = []
    for match in re.finditer(r"\S+", text):
        first, last = match.start() + lead, match.end() + lead
        rows = tuple(n for n, (start, end) in enumerate(spans) if start < last and end > first)
        if rows:
            found.append(WordTokens(match[0], match.start(), match.end(), rows))
    return found


class _Attention:
    """Attention of an answer's tokens, averaged over heads and summed over layers as it is seen.

    - frames: (A, T), to each frame; words: (A, A), to each other; cells: (T, cells), within frames.
    - usual: (T, cells), of what comes before the answer, for each of its tokens.
    """

    def __init__(
        self, layout: TokenLayout, columns: torch.Tensor, length: int, tokens: int
    ) -> None:
        """columns: of merged tokens in the prompt; length: of prompt and answer; tokens: A."""
        self._layout, self._columns, self._length, self._tokens = layout, columns, length, tokens
        self.frames = np.zeros((tokens, layout.frames))
        self.words = np.zeros((tokens, tokens))
        self._merged: Any = 0.0
        self._patches: Any = 0.0
        self._usual: Any = 0.0
        self.crosses = False

    def see_self(self, layer: int, first: int, weights: torch.Tensor) -> None:
        mean = weights.mean(dim=0)
        # A sliding window has dropped what came first.
        mean = nn.functional.pad(mean, (self._length - mean.shape[1], 0))
        rows = slice(first, first + len(mean))
        spread = self._layout.spread(mean[:, self._columns])  # (rows, T, M)
        self.frames[rows] += spread.sum(dim=-1).cpu().numpy()
        self.words[rows] += mean[:, -self._tokens :].cpu().numpy()
        self._merged = self._merged + spread.sum(dim=0).cpu().numpy()

    def see_text(self, layer: int, first: int, weights: torch.Tensor) -> None:
        self._patches = self._patches + self._mean(weights, self._tokens)
        self.crosses = True

    def see_before(self, layer: int, first: int, weights: torch.Tensor, rows: int) -> None:
        self._usual = self._usual + self._mean(weights, rows)

    def _mean(self, weights: torch.Tensor, rows: int) -> Any:
        summed = weights.mean(dim=0).sum(dim=0).view(self._layout.frames, -1)
        return (summed / rows).cpu().numpy()

    def flow(self) -> np.ndarray:
        """(A, T), the share of each frame in what each token was read from, by itself or by the tokens
        before it; rows sum to 1."""
        direct = self.frames.sum(axis=1)
        shares = self.frames / np.maximum(direct, _TINY)[:, None]
        flow: np.ndarray = np.zeros_like(shares)
        for row, own in enumerate(direct):
            earlier = self.words[row, :row] ** 2
            total = max(own**2 + earlier.sum(), _TINY)
            flow[row] = (own**2 * shares[row] + earlier @ flow[:row]) / total
        return flow

    def heat(self) -> np.ndarray:
        """(T, cells), which sum to 1 in each frame."""
        heat: Any = self._merged
        if self.crosses:
            heat = np.maximum(self._patches - self._usual, 0)
            heat = np.where(heat.sum(axis=1, keepdims=True) > 0, heat, self._patches)
        shares: np.ndarray = heat / np.maximum(heat.sum(axis=1, keepdims=True), _TINY)
        return shares


@torch.inference_mode()
def _read(
    runtime: Runtime, prefix: VideoPrefix, layout: TokenLayout, trace: TokenTrace
) -> _Attention:
    """Raises UsageError where the model's attention cannot be seen."""
    model, device = runtime.model, prefix.ids.device
    before, answer = (
        torch.tensor([ids], device=device, dtype=prefix.ids.dtype)
        for ids in (trace.prompt, trace.answer)
    )
    columns = layout.columns(prefix.ids[0], model.config.video_token_id)
    length = len(prefix) + before.shape[1] + answer.shape[1]
    seen = _Attention(layout, columns, length, answer.shape[1])

    unseen, usual = before[:, :-_USUAL_ROWS], before[:, -_USUAL_ROWS:]

    def see_before(layer: int, first: int, weights: torch.Tensor) -> None:
        seen.see_before(layer, first, weights, usual.shape[1])

    with prefix.lend() as cache:
        for part in torch.split(unseen, PREFILL_TOKENS, dim=1) if unseen.numel() else ():
            model.model(input_ids=part, past_key_values=cache, use_cache=True)
        with observe_text_to_visual(model, see_before):
            model.model(input_ids=usual, past_key_values=cache, use_cache=True)
        with (
            observe_text_to_visual(model, seen.see_text),
            observe_self_attention(model, seen.see_self, share=LAST_LAYERS),
        ):
            model.model(input_ids=answer, past_key_values=cache, use_cache=True)
    if not seen.frames.any():
        how = runtime.settings["attention"]
        raise UsageError(f"evidence needs attention that can be seen, sdpa or eager, not {how}")
    return seen
