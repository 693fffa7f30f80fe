"""The prompt up to the end of the video, prefilled once for all questions.

Visual tokens stand before the question and attention is causal, so all that the model computes of
them is the same for every question. Each question starts from it, and each turn of a dialogue from
the turns before.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from transformers.cache_utils import DynamicLayer, EncoderDecoderCache

from crosslmm.cache import CrossCache, as_dual_cache, expand_cache, keep_features
from crosslmm.limits import prefill_part
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration, VisualTokens
from crosslmm.ragged_tokens import RaggedTokens


class VideoPrefix:
    """Token ids (1, P) and the cache that they left behind."""

    def __init__(self, ids: torch.Tensor, cache: EncoderDecoderCache) -> None:
        self.ids = ids
        # (1, H): of all that is in the cache, the last turns of a dialogue included.
        self._held = ids
        self._cache = cache
        self._lent = False

    def __len__(self) -> int:
        return int(self.ids.shape[1])

    @contextmanager
    def lend(self, prompt_ids: torch.Tensor | None = None) -> Iterator[EncoderDecoderCache]:
        """The cache, for one prompt and its answer at a time, which are removed again at the end
        unless `keep` was called.

        prompt_ids: (1, L), of a dialogue: what it shares with the one before is still in the cache;
        otherwise that holds the video alone. Raises RuntimeError while it is lent.
        """
        self._check_free()
        self._lent = True
        cast(CrossCache, self._cache.cross_attention_cache).choice = None
        try:
            if self._cache.is_croppable:
                start = len(self) if prompt_ids is None else self._shared(prompt_ids)
                self._crop(start)
                try:
                    yield self._cache
                finally:
                    self._crop(max(start, self._held.shape[1]))
            else:
                yield copy.deepcopy(self._cache)
        finally:
            self._lent = False

    def keep(self, ids: torch.Tensor) -> None:
        """Keep what the cache holds of a prompt and its answer, (1, L), for the next turn."""
        if self._cache.is_croppable:
            self._held = ids[:, : self._cache.get_seq_length()]

    def repeat(self, count: int) -> EncoderDecoderCache:
        """The cache for a batch of so many questions, without a copy of what it holds; their answers
        leave it as it is. Raises RuntimeError while lent."""
        self._check_free()
        self._crop(len(self))
        return expand_cache(self._cache, count)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What `restore_prefix` takes besides the features; empty where the cache holds more than keys
        and values of plain attention, and features that all layers share."""
        layers = self._cache.self_attention_cache.layers
        cross = cast(CrossCache, self._cache.cross_attention_cache)
        held = [layer.values for layer in cast(list[DynamicLayer], cross.layers)]
        shared = [values is not None and not values.numel() for values in held]
        if any(type(layer) is not DynamicLayer for layer in layers) or shared not in ([], [True]):
            return {}
        of_video = {"shift": cross.shift, "mass": cross.mass}
        tensors = {"ids": self.ids} | {
            name: tensor for name, tensor in of_video.items() if tensor is not None
        }
        for number, layer in enumerate(cast(list[DynamicLayer], layers)):
            assert layer.keys is not None
            assert layer.values is not None
            tensors |= {f"keys.{number}": layer.keys, f"values.{number}": layer.values}
        return tensors

    def _check_free(self) -> None:
        if self._lent:
            raise RuntimeError("this video is answering another question; finish or close it first")

    def _shared(self, prompt_ids: torch.Tensor) -> int:
        """How many of the first tokens are in the cache, of which at least one is left to compute."""
        length = min(self._held.shape[1], prompt_ids.shape[1] - 1)
        differs = (self._held[0, :length] != prompt_ids[0, :length]).nonzero()
        return max(len(self), int(differs[0]) if len(differs) else length)

    def _crop(self, length: int) -> None:
        self._held = self._held[:, :length]
        if not self._cache.is_croppable:
            return
        for layer in cast(list[DynamicLayer], self._cache.self_attention_cache.layers):
            # One by one: an answer that failed may have got through some of them only.
            if (surplus := layer.get_seq_length() - length) > 0:
                layer.crop(-surplus)


def prefill_video(
    model: CrossLMMForConditionalGeneration,
    prompt_ids: torch.Tensor,
    visual: VisualTokens | RaggedTokens,
    *,
    chunk_tokens: int | None = None,
) -> VideoPrefix:
    """Run the language model up to the end of the visual tokens.

    prompt_ids: (1, L), of a complete prompt. chunk_tokens: positions that go through the model
    together, as `prefill_part` has it unless given.
    """
    video_token_id = model.config.video_token_id
    last = int((prompt_ids[0] == video_token_id).nonzero().max())
    prefix = prompt_ids[:, : last + 1]
    cache = as_dual_cache(None, model.config)
    with torch.inference_mode():
        most = chunk_tokens or _part_tokens(model, prefix, visual)
        for part, ids in _chunks(prefix, visual, video_token_id, most):
            model.model(input_ids=ids, visual_tokens=part, past_key_values=cache, use_cache=True)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return VideoPrefix(prefix, cache)


def _part_tokens(
    model: CrossLMMForConditionalGeneration,
    prefix: torch.Tensor,
    visual: VisualTokens | RaggedTokens,
) -> int:
    """Positions of the prefix (1, P) that go through the model together."""
    branches = [layer.v2v for layer in model.model.dual_layers]
    features, text = 0, model.config.text
    projects = model.config.cross_kv == "per_layer" and model.config.v2v_scope in ("video", "past")
    if visual.features is not None and projects:
        features = any(branch.is_open for branch in branches) * visual.features.shape[:3].numel()
    return prefill_part(
        prefix.shape[1],
        features,
        width=int(text.hidden_size),
        intermediate=int(text.intermediate_size),
        kv_heads=branches[0].kv_heads,
        head_dim=branches[0].head_dim,
        size=model.dtype.itemsize,
        masked=isinstance(visual, RaggedTokens),
    )


def restore_prefix(
    model: CrossLMMForConditionalGeneration,
    prompt_ids: torch.Tensor,
    features: torch.Tensor | None,
    tensors: dict[str, torch.Tensor],
) -> VideoPrefix | None:
    """What `prefill_video` gives, of what `VideoPrefix.tensors` once gave; None where that was of other
    ids. prompt_ids: (1, L), of a complete prompt; features: (1, T, N, D)."""
    last = int((prompt_ids[0] == model.config.video_token_id).nonzero().max())
    prefix = prompt_ids[:, : last + 1]
    if not torch.equal(prefix, tensors["ids"]):
        return None
    cache = as_dual_cache(None, model.config)
    for number in range(model.config.text.num_hidden_layers):
        cache.self_attention_cache.update(
            tensors[f"keys.{number}"], tensors[f"values.{number}"], number
        )
    cross = cast(CrossCache, cache.cross_attention_cache)
    if features is not None and model.model.shares_features:
        keep_features(cross, features)
    cross.shift, cross.mass = tensors.get("shift"), tensors.get("mass")
    return VideoPrefix(prefix, cache)


def _chunks(
    prefix: torch.Tensor,
    visual: VisualTokens | RaggedTokens,
    video_token_id: int,
    chunk_tokens: int,
) -> Iterator[tuple[VisualTokens | RaggedTokens, torch.Tensor]]:
    """The prompt up to the end of the last video in runs of about `chunk_tokens` positions, each with
    tokens of one video only.

    What each position computes is the same, but the feed-forward activations of all of them are
    never alive at once. prefix: (1, P). Yields the visual tokens of a chunk and its ids.
    """
    videos = _runs(prefix[0] == video_token_id)
    placeholders = sum(end - start for start, end in videos)
    newline = (placeholders - int(visual.per_row(prefix.device))) // len(videos)
    step, first, begin = visual.step(chunk_tokens), 0, 0
    for start, end in videos:
        last_of_video = first + end - start - newline
        lead = start - first
        while first < last_of_video:
            last = min(first + step, last_of_video)
            stop = end if last == last_of_video else lead + last
            yield visual.between(first, last), prefix[:, begin:stop]
            first, begin = last, stop


def _runs(chosen: torch.Tensor) -> list[tuple[int, int]]:
    """(L,), True in runs → the first of each, and the one after its last"""
    edges = torch.nn.functional.pad(chosen.int(), (1, 1)).diff()
    first, last = ((edges == sign).nonzero().flatten().tolist() for sign in (1, -1))
    return list(zip(first, last, strict=True))
