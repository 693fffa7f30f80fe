"""Where an answer should look: supervision of attention.

A word about what a frame shows must rest on that frame, and on the tokens there at which an event
happens; a word about a thing on the tokens of that thing. From answers alone the model finds that late;
what a head attends to, however, can be taught directly.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from crosslmm.demo.targets import IGNORED


def frame_targets(events: Tensor, per_frame: int) -> Tensor:
    """`(B, V)`: the frame of each visual token that should be attended to there: of those with an
    event, or of all where the frame has none; IGNORED for the others. `events: (B, V)`, 0 for none."""
    by_frame = events.unflatten(1, (-1, per_frame)) > 0  # (B, T, P)
    attended = by_frame | ~by_frame.any(dim=-1, keepdim=True)
    frame = torch.arange(by_frame.shape[1], device=events.device)[:, None].expand_as(by_frame)
    return frame.masked_fill(~attended, IGNORED).flatten(1)


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
        self, pairs: Sequence[tuple[Tensor, Tensor]], mask: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The cross-entropy of the attention from tokens that point, and for each pair the share of it
        that falls on what is pointed at.

        - pairs: two `(B, L)` each, say the frame that a token points at and the one that it is of,
          IGNORED for none; mask: `(B, 1, L, L)`, as the decoder adds it.
        """
        pointing, wanted = [], []
        for points, targets in pairs:
            rows, columns = (points != IGNORED).nonzero(as_tuple=True)
            matching = targets[rows] == points[rows, columns][:, None]  # (P, L)
            found = matching.any(dim=-1)  # a thing may be hidden by another
            pointing.append((rows[found], columns[found]))
            wanted.append(matching[found])
        losses, shares = [], []
        for module, hidden_states, (cos, sin) in self._inputs:
            depth = module.head_dim
            query = module.q_proj(hidden_states)[:, None, :, :depth]
            key = module.k_proj(hidden_states)[:, None, :, :depth]
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
            scores = (query @ key.transpose(-1, -2)).float() * module.scaling + mask
            logs = [
                scores[rows, 0, columns]  # (P, L)
                .log_softmax(dim=-1)
                .masked_fill(~matching, -torch.inf)
                .logsumexp(dim=-1)
                for (rows, columns), matching in zip(pointing, wanted, strict=True)
            ]
            losses.append(-torch.stack([log.sum() / max(len(log), 1) for log in logs]).sum())
            shares.append(torch.stack([log.exp().sum() / max(len(log), 1) for log in logs]))
        self.clear()
        return torch.stack(losses).mean(), list(torch.stack(shares).mean(dim=0).unbind())
