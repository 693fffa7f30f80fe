"""Features in 8 bits: what cross-attention reads of a video, at half the memory of bfloat16.

A packed feature is D whole numbers from -127 to 127 and the scale that they are multiplied with, a
float32 in the last four bytes; a shared key and value have a scale each. All is one int8 tensor, so that
whatever holds, slices, gathers or stores features does the same with packed ones, and none of it has to
know. Each feature has a scale of its own because one for each of the D numbers, which errs as little,
would need all frames before the first is packed: docs/cost.md compares them.

Legend: D numbers of a feature, P bytes of a packed one, G scales of a feature; others as in
`modeling_crosslmm.py`.
"""

from collections.abc import Callable, Iterator

import torch

from crosslmm.limits import SCALE_BYTES, UNPACKED_BYTES

_LARGEST = 127


def pack_features(features: torch.Tensor, scales: int = 1) -> torch.Tensor:
    """(..., D) → (..., P); scales: G, each for as many numbers that follow."""
    grouped = features.float().unflatten(-1, (scales, -1))
    scale = grouped.abs().amax(dim=-1, keepdim=True) / _LARGEST  # (..., G, 1)
    whole = (grouped / scale.clamp(min=torch.finfo(torch.float32).tiny)).round_()
    packed = whole.nan_to_num_().to(torch.int8).flatten(-2)
    return torch.cat([packed, scale.flatten(-2).view(torch.int8)], dim=-1)


def is_packed(features: torch.Tensor) -> bool:
    return features.dtype == torch.int8


def split_packed(packed: torch.Tensor, scales: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., P) → the whole numbers (..., D) and their scales (..., G), in float32."""
    end = packed.shape[-1] - scales * SCALE_BYTES
    # A copy: where a slice of a file lies in memory, its numbers may not begin at a multiple of four.
    raw = packed[..., end:].clone(memory_format=torch.contiguous_format)
    return packed[..., :end], raw.view(torch.float32)


def unpack_features(
    features: torch.Tensor, dtype: torch.dtype = torch.float32, scales: int = 1
) -> torch.Tensor:
    """(..., P) → (..., D); features that are not packed as they are."""
    if not is_packed(features):
        return features
    whole, scale = split_packed(features, scales)
    grouped = whole.to(dtype).unflatten(-1, (scales, -1))
    return grouped.mul_(scale[..., None].to(dtype)).flatten(-2)


def unpack_pair(
    packed: torch.Tensor, rows: slice, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of packed keys and values (..., P), these numbers of each: (..., rows) twice."""
    whole, scale = split_packed(packed, scales=2)
    key, value = (
        half[..., rows].to(dtype) * size.to(dtype)
        for half, size in zip(whole.chunk(2, dim=-1), scale.split(1, dim=-1), strict=True)
    )
    return key, value


def map_features(
    function: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """`function`, (B, S, D) → (B, S, …), of features; of packed ones a part at a time, so that never all
    of them are unpacked together."""
    if not is_packed(features):
        return function(features)
    parts = list(_parts(features, dtype))
    if len(parts) == 1:
        return function(unpack_features(features, dtype))
    result: torch.Tensor | None = None
    done = 0
    for part in parts:
        made = function(unpack_features(part, dtype))
        if result is None:
            result = made.new_empty(made.shape[0], features.shape[1], *made.shape[2:])
        result[:, done : done + made.shape[1]] = made
        done += made.shape[1]
    assert result is not None
    return result


def attend_packed(
    query: torch.Tensor, features: torch.Tensor, mask: torch.Tensor | None, *, scales: int
) -> torch.Tensor:
    """Attention over packed features, of which never all are unpacked together.

    query (B, heads, R, D/heads), scaled; features (B, S, P); mask (B, S), True = attend. With one scale
    keys and values are the features themselves, with two the first and the second half of them. Returns
    (B, heads, R, D/heads).

    Scales multiply the scores and the weights, of which there are few, and not the features. The softmax
    is kept up part by part: by the largest score so far (FlashAttention's, arXiv 2205.14135).
    """
    # The CPU multiplies float32 several times as fast as what it has to convert.
    dtype = torch.float32 if query.device.type == "cpu" else query.dtype
    given, query = query, query.to(dtype)
    largest = query.new_full((*query.shape[:-1], 1), -torch.inf, dtype=torch.float32)
    total = torch.zeros_like(largest)
    read = torch.zeros_like(query, dtype=torch.float32)
    done = 0
    for part in _parts(features, dtype):
        scores, value, scale = _scores(query, part, scales)
        if mask is not None:
            seen = mask[:, None, None, done : done + part.shape[1]]
            scores = scores.masked_fill(~seen, torch.finfo(torch.float32).min)
        done += part.shape[1]
        before, largest = largest, torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
        weights = (scores - largest).exp()
        kept = (before - largest).exp()
        total = total * kept + weights.sum(dim=-1, keepdim=True)
        read = read * kept + ((weights * scale).to(dtype) @ value).float()
    return (read / total).to(given.dtype)


def score_packed(query: torch.Tensor, features: torch.Tensor, *, scales: int) -> torch.Tensor:
    """The scores that `attend_packed` takes the softmax of, (B, heads, R, S), in float32."""
    dtype = torch.float32 if query.device.type == "cpu" else query.dtype
    parts = _parts(features, dtype)
    return torch.cat([_scores(query.to(dtype), part, scales)[0] for part in parts], dim=-1)


def _scores(
    query: torch.Tensor, part: torch.Tensor, scales: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores (B, heads, R, S), values without their scales (B, heads, S, …), and these (B, 1, 1, S)."""
    whole, scale = split_packed(part, scales)
    halves = [
        half.unflatten(-1, (query.shape[1], -1)).transpose(1, 2).to(query.dtype)
        for half in whole.chunk(scales, dim=-1)
    ]
    sizes = scale.transpose(1, 2)[:, :, None, None]  # (B, G, 1, 1, S)
    scores = (query @ halves[0].transpose(2, 3)).float() * sizes[:, 0]
    return scores, halves[-1], sizes[:, -1]


def _parts(features: torch.Tensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Runs (B, s, P) of (B, S, P) of which the unpacked numbers are a few megabytes."""
    batch, _, width = features.shape
    size = UNPACKED_BYTES
    if features.device.type == "cpu":
        size //= 8  # what a core's cache holds: a quarter less time than with 16 MiB
    most = max(1, size // (batch * width * dtype.itemsize))
    yield from features.split(most, dim=1)
