"""Merging around the tokens of a frame that stand out from it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Of the tokens that stay, those at equal distances in the frame, whatever they show.
SPREAD = 1 / 3


def gather(
    tokens: "torch.Tensor", budget: int
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """The tokens least like those of their frame, by their mean cosine, stay, with some at equal
    distances. Each other one goes into the most similar that stays, in a mean weighted by how little
    each is like its frame. The steps are PruMerge's (Shang et al., 2024), with this in place of the
    encoder's attention. With fewer tokens than frames, several frames are taken together.

    (R, n, W) → means (R, b, W), places (R, b), members (R, n); see `merging.runs`.
    """
    import torch
    from torch.nn.functional import normalize

    runs, count, width = tokens.shape
    rows = tokens.float()
    unit = normalize(rows, dim=-1)
    salience = 1 - (unit @ unit.mean(dim=1)[..., None])[..., 0]
    weight = salience.clamp(min=1e-6)  # where all tokens are the same
    even = int(SPREAD * budget)
    spread = (torch.arange(even, device=rows.device) * 2 + 1) * count // (2 * max(even, 1))
    salience[:, spread] = torch.inf
    place = salience.topk(budget, dim=-1).indices.sort(dim=-1).values
    wide = place[..., None].expand(-1, -1, width)
    member = (unit @ unit.gather(1, wide).transpose(1, 2)).argmax(dim=-1)
    del unit
    slots = torch.arange(budget, device=rows.device).expand(runs, -1)
    member = member.scatter(1, place, slots)
    # From the token that stays on, so that one that stands for itself alone is exactly itself.
    stays = rows.gather(1, wide)
    into = member[..., None].expand(-1, -1, width)
    rows = (rows - stays.gather(1, into)) * weight[..., None]
    sums = torch.zeros_like(stays).scatter_add_(1, into, rows)
    total = torch.zeros_like(stays[..., 0]).scatter_add_(1, member, weight)
    return (stays + sums / total[..., None]).to(tokens.dtype), place, member
