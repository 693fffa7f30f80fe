"""The dual cache of decoding: the language model's keys and values, and what cross-attention reads of
the video."""

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache

from crosslmm.configuration_crosslmm import CrossLMMConfig


def as_dual_cache(cache: Cache | None, config: CrossLMMConfig) -> EncoderDecoderCache:
    """The pair around the given self-attention cache, or around a new one."""
    if isinstance(cache, EncoderDecoderCache):
        return cache
    if cache is None:
        cache = DynamicCache(config=config.text)
    # A caller with a cache passes it alone again with the next question. It keeps the other half, not
    # the pair: in a cycle a video's memory would wait for the garbage collector.
    cross = getattr(cache, "cross_attention_cache", None)
    if cross is None:
        cross = cache.cross_attention_cache = DynamicCache()  # type: ignore[attr-defined]
    return EncoderDecoderCache(cache, cross)


def keep_features(cross_cache: Cache, features: torch.Tensor) -> None:
    """Let the cross-attention cache hold the features (B, T, N, D) themselves, without copying them."""
    layer = DynamicLayer()
    shared = features.flatten(1, 2)[:, None]
    layer.lazy_initialization(shared, shared)
    layer.keys, layer.values = shared, shared[:, :, :0]
    cross_cache.layers = [layer]
