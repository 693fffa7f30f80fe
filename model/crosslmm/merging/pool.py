"""The outer half of Unified Spatiotemporal token pruning (2025): a pool of tokens that differ from each
other, and clusters of the others."""

from typing import TYPE_CHECKING

from crosslmm.merging.clusters import cluster
from crosslmm.merging.merged import MergedTokens, merge_into
from crosslmm.merging.runs import share

if TYPE_CHECKING:
    import torch

UNLIKE = 0.7  # the cosine to every token of the pool below which a token joins it
SHARE = 0.7  # of the budget, that the pool takes at most
BLOCK = 256
CLUSTERED = 2048  # tokens, at once


class PoolMerger:
    """Over all frames, in their order: a token joins the pool where it is like none in it, until that
    has 0.7 of the budget; the others are clustered around density peaks to the rest."""

    def merge(
        self,
        tokens: "torch.Tensor",
        budget: int,
    ) -> MergedTokens:
        """tokens: (T, M, W) → `budget` means of their members, at the place of one of them."""
        import torch

        flat = tokens.flatten(0, 1)
        pooled = pool_unlike(flat, int(SHARE * budget))
        others = (~pooled).nonzero().flatten()
        place = torch.arange(len(flat), device=flat.device)
        rest = budget - int(pooled.sum())
        blocks = -(-len(others) // CLUSTERED)
        kept = share(max(rest, blocks), blocks) if blocks else []
        for part, count in zip(others.tensor_split(max(blocks, 1)), kept, strict=False):
            place[part] = part[peaks(flat[part], count)]
        if rest < blocks:  # one of each block is clustered again
            centres = others[place[others] == others]
            into = torch.arange(len(flat), device=flat.device)
            into[centres] = centres[peaks(flat[centres], rest)]
            place = into[place]
        return merge_into(tokens, place)


def peaks(tokens: "torch.Tensor", count: int) -> "torch.Tensor":
    """(n, W) → (n,), the index of each one's centre."""
    import torch

    return cluster(tokens[None], torch.tensor([count], device=tokens.device))[0]


def pool_unlike(tokens: "torch.Tensor", most: int) -> "torch.Tensor":
    """(n, W) → (n,), True at up to `most` tokens whose cosine to each one before them is below
    `UNLIKE`."""
    import torch
    from torch.nn.functional import normalize

    joined: list[int] = []
    pool = tokens.new_zeros(0, tokens.shape[1], dtype=torch.float32)
    for first in range(0, len(tokens), BLOCK):
        unit = normalize(tokens[first : first + BLOCK].float(), dim=-1)
        unlike = (unit @ unit.T < UNLIKE).cpu()
        room = (unit @ pool.T < UNLIKE).all(dim=1).cpu()
        new: list[int] = []
        for at in range(len(unit)):
            if len(joined) + len(new) >= most:
                break
            if room[at]:
                new.append(at)
                room &= unlike[at]
        joined += [first + at for at in new]
        pool = torch.cat([pool, unit[new]])
        if len(joined) >= most:
            break
    chosen = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    chosen[joined] = True
    return chosen
