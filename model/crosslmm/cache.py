"""The dual cache of decoding: the language model's keys and values, and what cross-attention reads of
the video."""

import copy
from collections.abc import Callable
from typing import cast

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache

from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.frame_choice import FrameChoice


class CrossCache(DynamicCache):
    """What cross-attention reads of the videos, and what else is known of them at each later token.

    - shift: (B, 1), what is added to the indices of the tokens after them to give their positions (see
      `positions.py`).
    - mass: (B, P), of the tokens up to there in the language model's own cache (see `token_mass.py`).

    - choice: the frames that are read while an answer is decoded (see `frame_choice.py`).

    None where there is nothing to know.
    """

    shift: torch.Tensor | None = None
    mass: torch.Tensor | None = None
    choice: FrameChoice | None = None

    def reset(self) -> None:
        super().reset()
        self.shift = self.mass = self.choice = None

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self._select(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._change(lambda known: known.repeat_interleave(repeats, dim=0))

    def _select(self, rows: torch.Tensor) -> None:
        self._change(lambda known: known[rows.to(known.device)])

    def _change(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """The rows of all that is known."""
        self.shift = None if self.shift is None else change(self.shift)
        self.mass = None if self.mass is None else change(self.mass)
        if self.choice is not None:
            self.choice.change_rows(change)


def as_dual_cache(cache: Cache | None, config: CrossLMMConfig) -> EncoderDecoderCache:
    """The pair around the given self-attention cache, or around a new one."""
    if isinstance(cache, EncoderDecoderCache):
        if not isinstance(cache.cross_attention_cache, CrossCache):
            layers, cache.cross_attention_cache = cache.cross_attention_cache.layers, CrossCache()
            cache.cross_attention_cache.layers = layers
        return cache
    if cache is None:
        cache = DynamicCache(config=config.text)
    # A caller with a cache passes it alone again with the next question. It keeps the other half, not
    # the pair: in a cycle a video's memory would wait for the garbage collector.
    cross = getattr(cache, "cross_attention_cache", None)
    if cross is None:
        cross = cache.cross_attention_cache = CrossCache()  # type: ignore[attr-defined]
    return EncoderDecoderCache(cache, cross)


def keep_features(cross_cache: Cache, features: torch.Tensor) -> None:
    """Let the cross-attention cache hold the features (B, T, N, D) themselves, without copying them."""
    layer = DynamicLayer()
    shared = features.flatten(1, 2)[:, None]
    layer.lazy_initialization(shared, shared)
    layer.keys, layer.values = shared, shared[:, :, :0]
    cross_cache.layers = [layer]


def expand_cache(cache: EncoderDecoderCache, count: int) -> EncoderDecoderCache:
    """A cache of one row as one of `count` rows, which share its memory until they grow; what
    cross-attention reads stays shared, but for the frames that it chooses."""
    halves = []
    for half in (cache.self_attention_cache, cache.cross_attention_cache):
        half = copy.copy(half)
        half.layers = [copy.copy(layer) for layer in half.layers]
        for layer in cast(list[DynamicLayer], half.layers):
            if layer.keys is not None and layer.values is not None:
                layer.keys = layer.keys.expand(count, -1, -1, -1)
                layer.values = layer.values.expand(count, -1, -1, -1)
        if isinstance(half, CrossCache):
            half.choice = None
        halves.append(half)
    return EncoderDecoderCache(*halves)
