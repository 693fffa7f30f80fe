"""Baselines that drop tokens: `random` and `uniform`. A method is worth its name above these."""

import hashlib
from typing import TYPE_CHECKING

from crosslmm.merging.merged import MergedTokens

if TYPE_CHECKING:
    import torch


class RandomMerger:
    """Keeps tokens drawn at random, the same for the same tokens."""

    def merge(
        self,
        tokens: "torch.Tensor",
        budget: int,
    ) -> MergedTokens:
        """tokens: (T, M, W) → `budget` of them."""
        import torch

        content = tokens.detach().flatten()[:4096].double().cpu().numpy().tobytes()
        seed = int.from_bytes(hashlib.sha256(content).digest()[:7], "big")
        generator = torch.Generator().manual_seed(seed)
        count = tokens.shape[0] * tokens.shape[1]
        return keep(tokens, torch.randperm(count, generator=generator)[:budget].sort().values)


class UniformMerger:
    """Keeps tokens at equal distances in the sequence."""

    def merge(
        self,
        tokens: "torch.Tensor",
        budget: int,
    ) -> MergedTokens:
        """tokens: (T, M, W) → `budget` of them."""
        import torch

        count = tokens.shape[0] * tokens.shape[1]
        return keep(tokens, (torch.arange(budget) * 2 + 1) * count // (2 * budget))


def keep(tokens: "torch.Tensor", place: "torch.Tensor") -> MergedTokens:
    """The tokens (T, M, W) at these places (K,), rising; each other one counts to the nearest kept in
    the sequence, though nothing of it is in there."""
    import torch

    flat = tokens.flatten(0, 1)
    borders = (place[1:] + place[:-1] + 1) // 2
    member = torch.bucketize(torch.arange(len(flat)), borders, right=True)
    mass = torch.bincount(member, minlength=len(place))
    device = tokens.device
    return MergedTokens(
        flat[place.to(device)], place.to(device), member.to(device), mass.to(device)
    )
