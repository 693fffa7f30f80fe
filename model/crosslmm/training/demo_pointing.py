"""Where an answer should look: the demo's lesson in attention.

A word on what a frame shows must rest on that frame. That the model finds late from answers alone,
most of which say `nothing`; what a head attends to, however, can be taught directly.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from crosslmm.training.demo_seen import IGNORED

_ON_A_FRAME = re.compile(r"(\d+)(:[^,]*?) at \d+\.\d\ds")  # as `frames_said` has it


def pointed_frames(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """For each token of a text the frame, from 0, that what follows it is about; IGNORED for none.
    `offsets`: where in the text each token begins and ends."""
    points = [IGNORED] * len(offsets)
    for match in _ON_A_FRAME.finditer(text):
        start, end = match.span(2)
        for place, (first, last) in enumerate(offsets):
            if start <= first and last <= end:
                points[place] = int(match[1]) - 1
    return points


class Pointing:
    """The first head of some decoder layers against the frames that it should attend to."""

    def __init__(self, layers: Sequence[nn.Module]):
        self._inputs: list[tuple[Any, Tensor, tuple[Tensor, Tensor]]] = []
        for layer in layers:
            attention: Any = layer.self_attn
            attention.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._inputs.append((module, kwargs["hidden_states"], kwargs["position_embeddings"]))

    def clear(self) -> None:
        self._inputs.clear()

    def loss(self, points: Tensor, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The cross-entropy of the attention from tokens that point, and the share of it that falls on
        the frame pointed at.

        - points, frames: `(B, L)`, the frame that a token points at and the one that it is of, IGNORED
          for none; mask: `(B, 1, L, L)`, as the decoder adds it.
        """
        pointing = points != IGNORED
        wanted = points[pointing][:, None]  # (P, 1)
        keys = frames[pointing.nonzero()[:, 0]]  # (P, L)
        losses, shares = [], []
        for module, hidden_states, (cos, sin) in self._inputs:
            depth = module.head_dim
            query = module.q_proj(hidden_states)[:, None, :, :depth]
            key = module.k_proj(hidden_states)[:, None, :, :depth]
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
            scores = (query @ key.transpose(-1, -2)).float() * module.scaling + mask
            attention = scores[:, 0][pointing].log_softmax(dim=-1)  # (P, L)
            found = attention.masked_fill(keys != wanted, -torch.inf).logsumexp(dim=-1)
            losses.append(-found.mean())
            shares.append(found.exp().mean())
        self.clear()
        return torch.stack(losses).mean(), torch.stack(shares).mean()
