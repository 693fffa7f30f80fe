"""Attention of queries to keys and values, and to features that are both at once."""

import math

import torch
from torch import nn


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention, for `attn_implementation="eager"`.

    query: (B, heads, Q, head_dim); key, value: (B, kv_heads, S, head_dim); attention_mask: boolean,
    broadcast to (B, heads, Q, S), True = attend. Returns (B, Q, heads, head_dim) and the weights.
    """
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2), weights


def visible_or_all(mask: torch.Tensor) -> torch.Tensor:
    """mask (B, S), with the rows of which nothing is visible attending to all: not every kernel survives
    a row without any key. What such a row reads is dropped afterwards."""
    return mask | ~mask.any(dim=1, keepdim=True)


def read_features(
    query: torch.Tensor, features: torch.Tensor, mask: torch.Tensor | None, *, fused: bool
) -> torch.Tensor:
    """Attention over features that are keys and values at once, without a copy of them.

    query (B, R, D), scaled; features (B, S, D); mask (B, S) with True = attend. Returns (B, R, D).
    fused: in one kernel that has no limit on D, as the CPU's; otherwise by two matrix products.
    """
    if mask is not None:
        mask = visible_or_all(mask)
    if fused:
        # In bfloat16 the two products below take 30 times as long on a CPU. The fused kernel runs one
        # thread per head and batch row, so the queries are shared out as heads.
        # A graph cannot ask for their number.
        threads = 1 if torch.compiler.is_compiling() else torch.get_num_threads()
        heads = math.gcd(query.shape[1], threads)
        keys = features[:, None].expand(-1, heads, -1, -1)
        read = nn.functional.scaled_dot_product_attention(
            query.unflatten(1, (heads, -1)),
            keys,
            keys,
            attn_mask=None if mask is None else mask[:, None, None],
            scale=1.0,
        )
        return read.flatten(1, 2)
    scores = (features @ query.transpose(1, 2)).transpose(1, 2)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1, dtype=torch.float32).to(features.dtype) @ features


def weigh_keys(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Attention weights, summed over all queries.

    query: (B, kv_heads, R, D), scaled; key: (B, kv_heads, S, D); mask: (B, S), True = attend. Returns
    (B, S), in float32.
    """
    total = torch.zeros(key.shape[0], key.shape[2], device=key.device)
    for head in range(key.shape[1]):  # one by one: over long videos the weights are many
        scores = (key[:, head] @ query[:, head].transpose(1, 2)).float()  # (B, S, R)
        total += weigh_scores(scores.transpose(1, 2)[:, None], mask)
    return total


def weigh_scores(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """As `weigh_keys`, of scores (B, heads, R, S) in float32."""
    if mask is not None:
        scores = scores.masked_fill(~visible_or_all(mask)[:, None, None], -torch.inf)
    return scores.softmax(dim=-1).sum(dim=(1, 2))
