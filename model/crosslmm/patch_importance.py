"""How much a vision encoder attends to each patch, without a class token to ask."""

from typing import Any

import torch


def attended(layer: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """How much the queries of a SigLIP layer attend to each patch: the mean over queries and heads.

    hidden_states: (F, N, D), what goes into the layer → (F, N) in float32, which sum to 1.
    """
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden_states)
    query, key = (
        project(normed).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj)
    )
    frames, patches, _ = hidden_states.shape
    total = normed.new_zeros(frames, patches, dtype=torch.float32)
    for head in range(
        attention.num_heads
    ):  # all heads' (N, N) at once would be the peak of encoding
        scores = query[:, head] * attention.scale @ key[:, head].transpose(1, 2)
        total += scores.softmax(dim=-1, dtype=torch.float32).mean(dim=1)
    return total / attention.num_heads
