"""Where an answer should look: the demo's lesson in attention.

A word on what a frame shows must rest on that frame, and on the token there that has something to
tell; a word on a thing on the tokens of that thing. That the model finds late from answers alone; what
a head attends to, however, can be taught directly.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from crosslmm.demo.targets import IGNORED

_ON_A_FRAME = re.compile(r"(\d+)(:[^,]*?) at \d+\.\d\ds")  # as `frames_said` has it


def pointed_frames(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """For each token of a text the frame, from 0, that what follows it is about; IGNORED for none.
    `offsets`: where in the text each token begins and ends."""
    return _within(offsets, {m.span(2): int(m[1]) - 1 for m in _ON_A_FRAME.finditer(text)})


def pointed_things(
    text: str, offsets: Sequence[tuple[int, int]], names: Sequence[Sequence[str]]
) -> list[int]:
    """As `pointed_frames`, the thing, by its index in `names`: what each may be called
    (`the red circle`, `the object marked K`)."""
    seen = text.split(": A. ")[0]  # what options say is not seen
    return _within(
        offsets,
        {
            match.span(): index
            for index, called in enumerate(names)
            for match in re.finditer(_named(called), seen)
        },
    )


def _named(called: Sequence[str]) -> str:
    names = "|".join(name.removeprefix("the ") for name in called)
    return rf" ?\b(the|an?) (small |large )?({names})\b[^,;:]*"


def tells_frames(text: str) -> bool:
    """Whether a text goes through the frames: what it says after that it has read there."""
    return _ON_A_FRAME.search(text) is not None


def telling(news: Tensor, per_frame: int) -> Tensor:
    """`(B, V)`: the frame of each visual token that should be looked at there: of those with news, or
    of all where there are none; IGNORED for the others."""
    by_frame = news.unflatten(1, (-1, per_frame)) > 0  # (B, T, P)
    looked_at = by_frame | ~by_frame.any(dim=-1, keepdim=True)
    frame = torch.arange(by_frame.shape[1], device=news.device)[:, None].expand_as(by_frame)
    return frame.masked_fill(~looked_at, IGNORED).flatten(1)


def _within(offsets: Sequence[tuple[int, int]], spans: Mapping[tuple[int, int], int]) -> list[int]:
    points = [IGNORED] * len(offsets)
    for (start, end), point in sorted(spans.items()):
        for place, (first, last) in enumerate(offsets):
            if start <= first and last <= end:
                points[place] = point
    return points


class AttentionSupervision:
    """The first head of some decoder layers against what it should attend to."""

    def __init__(self, layers: Sequence[nn.Module]):
        self._inputs: list[tuple[Any, Tensor, tuple[Tensor, Tensor]]] = []
        for layer in layers:
            attention: Any = layer.self_attn
            attention.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._inputs.append((module, kwargs["hidden_states"], kwargs["position_embeddings"]))

    def clear(self) -> None:
        self._inputs.clear()

    def loss(
        self, lessons: Sequence[tuple[Tensor, Tensor]], mask: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The cross-entropy of the attention from tokens that point, and for each lesson the share of
        it that falls on what is pointed at.

        - lessons: pairs of `(B, L)`, say the frame that a token points at and the one that it is of,
          IGNORED for none; mask: `(B, 1, L, L)`, as the decoder adds it.
        """
        pointing, wanted = [], []
        for points, targets in lessons:
            rows, places = (points != IGNORED).nonzero(as_tuple=True)
            on_it = targets[rows] == points[rows, places][:, None]  # (P, L)
            there = on_it.any(dim=-1)  # a thing may be hidden by another
            pointing.append((rows[there], places[there]))
            wanted.append(on_it[there])
        losses, shares = [], []
        for module, hidden_states, (cos, sin) in self._inputs:
            depth = module.head_dim
            query = module.q_proj(hidden_states)[:, None, :, :depth]
            key = module.k_proj(hidden_states)[:, None, :, :depth]
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
            scores = (query @ key.transpose(-1, -2)).float() * module.scaling + mask
            found = [
                scores[rows, 0, places]  # (P, L)
                .log_softmax(dim=-1)
                .masked_fill(~on_it, -torch.inf)
                .logsumexp(dim=-1)
                for (rows, places), on_it in zip(pointing, wanted, strict=True)
            ]
            losses.append(-torch.stack([f.sum() / max(len(f), 1) for f in found]).sum())
            shares.append(torch.stack([f.exp().sum() / max(len(f), 1) for f in found]))
        self.clear()
        return torch.stack(losses).mean(), list(torch.stack(shares).mean(dim=0).unbind())
