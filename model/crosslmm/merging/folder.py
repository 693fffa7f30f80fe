"""FOLDER (Wang et al., 2025): the most similar tokens of a frame are merged, pair by pair."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def fold(
    tokens: "torch.Tensor", budget: int
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """Merges in rounds: tokens at even indices go into the odd one most similar to them by cosine, the
    most similar pairs first, as the mean of all that a token stands for.

    (R, n, W) → means (R, b, W), places (R, b), members (R, n); see `merging.runs`.
    """
    import torch
    from torch.nn.functional import normalize

    runs, count, width = tokens.shape
    means = tokens.float()
    mass = means.new_ones(runs, count)
    place = torch.arange(count, device=tokens.device).expand(runs, -1)
    member = place
    while count > budget:
        removed = min(count - budget, max((count - 1) // 2, 1))
        unit = normalize(means, dim=-1)
        similarity, into = (unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)).max(dim=-1)
        order = similarity.argsort(dim=-1, descending=True, stable=True)
        source = 2 * order[:, :removed]
        target = 2 * into.gather(1, order[:, :removed]) + 1
        added = mass.gather(1, source)
        sums = means * mass[..., None]
        wide = source[..., None].expand(-1, -1, width)
        sums = sums.scatter_add(1, target[..., None].expand(-1, -1, width), sums.gather(1, wide))
        mass = mass.scatter_add(1, target, added)
        kept = torch.ones(runs, count, dtype=torch.bool, device=tokens.device)
        kept = kept.scatter(1, source, value=False)
        count -= removed
        slot = kept.cumsum(dim=1) - 1
        slot = slot.scatter(1, source, slot.gather(1, target))
        member = slot.gather(1, member)
        means = (sums / mass[..., None])[kept].view(runs, count, width)
        mass, place = mass[kept].view(runs, count), place[kept].view(runs, count)
    return means.to(tokens.dtype), place, member
