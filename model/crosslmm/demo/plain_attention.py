"""Attention as two plain matrix products, for training small models on a CPU.

The fused kernel's backward pass costs twice as much there at these sizes, and so does a softmax in
float32. The arithmetic is that of every other implementation, in the precision of the inputs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

PLAIN = "plain_products"


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query `(B, heads, Q, d)`, key and value `(B, kv_heads, S, d)`, an additive mask that broadcasts
    to `(B, 1, Q, S)` → `(B, Q, heads, d)`. Causality is the mask's business."""
    batch, heads, queries, depth = query.shape
    kv_heads, keys = key.shape[1:3]
    scale = depth**-0.5 if scaling is None else scaling
    grouped = (query * scale).reshape(batch, kv_heads, -1, depth)
    scores = grouped @ key.transpose(-1, -2)  # (B, kv_heads, groups·Q, S)
    if attention_mask is not None:
        scores = scores.view(batch, heads, queries, keys) + attention_mask.to(scores.dtype)
        scores = scores.view(batch, kv_heads, -1, keys)
    attended = torch.softmax(scores, dim=-1) @ value
    return attended.view(batch, heads, queries, depth).transpose(1, 2), None


AttentionInterface.register(PLAIN, plain_attention)
