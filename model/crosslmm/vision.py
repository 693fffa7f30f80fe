"""From frames to features and merged tokens: the chunked encoder, the projections, their buffers.

The encoder sees one frame at a time by design of the paper, so frames go through it in chunks of
any size with the same result, and no hidden state but the last is ever kept.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from crosslmm.configuration_crosslmm import CrossLMMConfig


def encode_frames(
    vision_tower: Any, pixel_values: torch.Tensor, layers: int, chunk: int
) -> Iterator[torch.Tensor]:
    """Features of frames, chunk by chunk.

    pixel_values: (F, 3, S, S) normalised; yields (chunk, N, D), the output of the `layers`-th layer
    of a SigLIP encoder before any final norm, as LLaVA reads it.
    """
    for start in range(0, pixel_values.shape[0], chunk):
        hidden_states = vision_tower.embeddings(pixel_values[start : start + chunk])
        for layer in vision_tower.encoder.layers[:layers]:
            hidden_states = layer(hidden_states, None)
        yield hidden_states


class Projector(nn.Module):
    """Linear → activation → Linear, from the encoder's width D to the language model's H."""

    def __init__(self, config: CrossLMMConfig) -> None:
        super().__init__()
        width = int(config.text.hidden_size)
        bias = config.projector_bias
        self.linear_1 = nn.Linear(int(config.vision.hidden_size), width, bias=bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(width, width, bias=bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., D) → (..., H)"""
        return self.linear_2(self.act(self.linear_1(features)))


class SharedKeyValues(nn.Module):
    """The keys and values of features that all cross-attention reads, where it shares them."""

    _tp_plan = {"k_proj": "colwise", "v_proj": "colwise"}  # noqa: RUF012

    def __init__(self, config: CrossLMMConfig) -> None:
        super().__init__()
        width = int(config.vision.hidden_size)
        self.k_proj = nn.Linear(width, config.feature_width // 2, bias=False)
        self.v_proj = nn.Linear(width, config.feature_width // 2, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalised features (..., D) → their keys, then their values (..., 2 · kv_heads · head_dim)"""
        return torch.cat([self.k_proj(features), self.v_proj(features)], dim=-1)


class FrameBuffer:
    """Rows that come in chunks, laid out once; joined at the end only where gradients must flow."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._done = 0
        self._chunks: list[torch.Tensor] = []
        self._buffer: torch.Tensor | None = None

    def allocate(self, chunk: torch.Tensor) -> None:
        """Allocate what adding chunks like this one takes."""
        if self._buffer is None and len(chunk) != self._rows and not torch.is_grad_enabled():
            self._buffer = chunk.new_empty(self._rows, *chunk.shape[1:])

    def add(self, chunk: torch.Tensor) -> None:
        self.allocate(chunk)
        if self._buffer is None:
            self._chunks.append(chunk)
            return
        self._buffer[self._done : self._done + len(chunk)] = chunk
        self._done += len(chunk)

    def joined(self) -> torch.Tensor:
        if self._buffer is not None:
            return self._buffer[: self._done]
        return self._chunks[0] if len(self._chunks) == 1 else torch.cat(self._chunks)


def scatter_frames(rows: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """(R, …) rows at their positions in (B, T, …), zeros elsewhere; real: (B, T), True R times."""
    if bool(real.all()):
        return rows.unflatten(0, tuple(real.shape))
    spread = rows.new_zeros(*real.shape, *rows.shape[1:])
    spread[real.to(rows.device)] = rows
    return spread
