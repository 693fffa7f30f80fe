"""The paper's dual cross-attention layer: visual-to-visual (V2V), whose queries are the merged tokens,
and text-to-visual (T2V), whose queries are the text. Both are gated cross-attention to the features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from crosslmm.cache import CrossCache
from crosslmm.frame_choice import FrameChoice
from crosslmm.gated_attention import GatedCrossAttention
from crosslmm.norm import RMSNorm
from crosslmm.v2v_scopes import CompleteVideo, VisualScope
from crosslmm.visual_tokens import TokenPositions


@dataclass(frozen=True)
class CrossInputs:
    """What the dual cross-attention layers read in one pass; see `DualCrossAttentionLayer.forward`."""

    features: torch.Tensor | None
    scope: VisualScope
    patch_mask: torch.Tensor | None
    visual: TokenPositions | None
    text: TokenPositions | None
    cache: Cache | None
    patch_counts: Sequence[int] | None = None

    @property
    def cached(self) -> bool:
        return self.cache is not None and len(self.cache.layers) > 0


class DualCrossAttentionLayer(GradientCheckpointingLayer):
    """One dual cross-attention layer: V2V for the merged tokens, T2V for the text."""

    def __init__(
        self, text_config: PreTrainedConfig, feature_width: int | None, index: int
    ) -> None:
        super().__init__()
        self.index = index
        self.norm = RMSNorm(int(text_config.hidden_size), float(text_config.rms_norm_eps))
        self.v2v = GatedCrossAttention(text_config, feature_width)
        self.t2v = GatedCrossAttention(text_config, feature_width)

    def forward(
        self,
        hidden_states: torch.Tensor,
        features: torch.Tensor | None = None,
        scope: VisualScope | None = None,
        frame_mask: torch.Tensor | None = None,
        visual: TokenPositions | None = None,
        text: TokenPositions | None = None,
        cross_cache: Cache | None = None,
        cache_features: bool = False,
        patch_counts: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """One layer's addition to the stream.

        - hidden_states: (B, L, H).
        - features: (B, T, N, D), or None when decoding from the cache.
        - scope: which of the features the merged tokens read, all unless given.
        - frame_mask: (B, T·N), True at real frames; patch_counts: how many, where these come first.
        - visual, text: positions of the merged and of the text tokens; visual is None where there are
          none, text is None where all are text.
        - cross_cache keeps what T2V reads; with `cache_features`, the features themselves, once.
        """
        updated = hidden_states
        if visual is not None and features is not None and self.v2v.is_open:
            query = self.norm(visual.take(hidden_states))
            scope = scope or CompleteVideo()
            addend = scope.read(self.v2v, query, features, frame_mask, patch_counts)
            updated = visual.add(updated, addend)
        # Asked first: a gate that was closed at prefill kept nothing to read.
        readable = features is not None or _holds(cross_cache, 0 if cache_features else self.index)
        if readable and self.t2v.is_open:
            query = self.norm(hidden_states if text is None else text.take(hidden_states))
            last = None if text is None else text.valid.sum(dim=1) - 1
            addend = self._read_text(
                query, features, frame_mask, patch_counts, cross_cache, cache_features, last
            )
            updated = updated + addend if text is None else text.add(updated, addend)
        return updated

    def _read_text(
        self,
        query: torch.Tensor,
        features: torch.Tensor | None,
        frame_mask: torch.Tensor | None,
        counts: Sequence[int] | None,
        cross_cache: Cache | None,
        cache_features: bool,
        last: torch.Tensor | None,
    ) -> torch.Tensor:
        flat = None if features is None else features.flatten(1, 2)
        key = value = None
        if cache_features and cross_cache is not None:
            if flat is None:
                flat = _cached(cross_cache, 0)[0][:, 0].to(query.device)
        elif _holds(cross_cache, self.index):
            assert cross_cache is not None
            key, value = _cached(cross_cache, self.index)
        elif cross_cache is not None:
            assert flat is not None
            key, value = cross_cache.update(*self.t2v.project(flat), self.index)
        if query.shape[1] == 0:  # a part of the video without a word
            return query
        choice = cross_cache.choice if isinstance(cross_cache, CrossCache) else None
        if choice is not None and choice.is_needed(flat if key is None else key):
            if features is None and query.shape[1] == 1 and choice.is_made:
                return self._read_chosen(query, flat, key, value, frame_mask, choice)
            see = partial(choice.score, self.index)
        else:
            see = None
        if key is None or value is None:
            absorb = cross_cache is not None
            return self.t2v(
                query, flat, frame_mask, counts=counts, absorb=absorb, see=see, last=last
            )
        pair = (key, value)
        return self.t2v(query, mask=frame_mask, counts=counts, projected=pair, see=see, last=last)

    def _read_chosen(
        self,
        query: torch.Tensor,
        features: torch.Tensor | None,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        mask: torch.Tensor | None,
        choice: FrameChoice,
    ) -> torch.Tensor:
        """As `_read_text` of one token, over the frames of the choice."""
        mask = None if mask is None else choice.select(mask, 1)
        if key is None or value is None:
            assert features is not None
            return self.t2v(query, choice.take("features", features, 1), mask, absorb=True)
        pair = (
            choice.take(f"keys.{self.index}", key, 2),
            choice.take(f"values.{self.index}", value, 2),
        )
        return self.t2v(query, mask=mask, projected=pair)


def _holds(cache: Cache | None, index: int) -> bool:
    return cache is not None and len(cache.layers) > index and cache.get_seq_length(index) > 0


def _cached(cache: Cache, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    layer = cast(DynamicLayer, cache.layers[index])
    return cast(torch.Tensor, layer.keys), cast(torch.Tensor, layer.values)
