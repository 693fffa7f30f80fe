"""The norm of features and of what cross-attention asks with."""

import torch
from torch import nn


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in float32."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed = nn.functional.rms_norm(
            hidden_states.float(), hidden_states.shape[-1:], eps=self.eps
        )
        return self.weight * normed.to(hidden_states.dtype)
