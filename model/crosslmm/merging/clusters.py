"""Clusters around density peaks (DPC-kNN), and a budget shared out by scores: what several methods
reduce their remaining tokens with."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

NEIGHBOURS = 7


def cluster(
    tokens: "torch.Tensor", budget: "torch.Tensor", valid: "torch.Tensor | None" = None
) -> "torch.Tensor":
    """For every token of (R, n, W) the index of its cluster's centre, (R, n), itself at a centre.

    budget: (R,), how many centres, at most the valid tokens of a run; valid: (R, n), False at tokens
    that are left out, whose index means nothing. Centres are dense and far from any denser token.
    """
    import torch

    runs, count, width = tokens.shape
    if valid is None:
        valid = torch.ones(runs, count, dtype=torch.bool, device=tokens.device)
    values = tokens.float()
    # In units of the tokens' own size, so that scaling all of them changes nothing.
    power = values.square().mean(dim=-1).masked_fill(~valid, 0).sum(dim=1)
    size = (power / valid.sum(dim=1).clamp(min=1)).sqrt().clamp(min=1e-12)
    values = values / size[:, None, None]
    distance = torch.cdist(values, values) / width**0.5  # (R, n, n)
    itself = torch.eye(count, dtype=torch.bool, device=tokens.device)
    others = distance.masked_fill(itself | ~valid[:, None], torch.inf)
    near = others.sort(dim=-1).values[..., : min(NEIGHBOURS, count)]
    wide = torch.arange(near.shape[-1], device=tokens.device) < budget[:, None]
    used = wide[:, None] & near.isfinite()
    spread = near.square().masked_fill(~used, 0).sum(dim=-1) / used.sum(dim=-1).clamp(min=1)
    density = torch.exp(-spread)
    earlier = torch.ones_like(itself).tril(-1)
    denser = density[:, None] > density[..., None]
    denser |= (density[:, None] == density[..., None]) & earlier
    apart = others.masked_fill(~denser, torch.inf).amin(dim=-1)
    furthest = others.masked_fill(~others.isfinite(), 0).amax(dim=(1, 2))
    apart = torch.where(apart.isfinite(), apart, furthest[:, None] + 1)
    peak = (density * apart).masked_fill(~valid, -1)
    rank = peak.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    centre = rank < budget[:, None]
    nearest = distance.masked_fill(~centre[:, None], torch.inf).argmin(dim=-1)
    return torch.where(centre, torch.arange(count, device=tokens.device), nearest)


def allocate(scores: "torch.Tensor", total: int, cap: "torch.Tensor") -> "torch.Tensor":
    """`total` shared out in proportion to scores (n,), above 0 where `cap` (n,) is, as whole numbers:
    at least 1 and at most `cap` each, zero where `cap` is. Remainders go to the largest fractions.

    total: from the number of caps above zero to the sum of them.
    """
    import torch

    shares = cap.clamp(max=1)
    while (left := total - int(shares.sum())) > 0:
        weights = torch.where(shares < cap, scores.double(), 0)
        wanted = weights * (left / weights.sum())
        given = torch.minimum(wanted.floor().long(), cap - shares)
        if not given.any():
            order = wanted.argsort(descending=True, stable=True)
            order = order[(shares < cap)[order]][:left]
            given[order] = 1
        shares = shares + given
    return shares
