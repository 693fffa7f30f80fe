"""PruMerge+ (Shang et al., 2024): the tokens that the encoder attends to most stay, with some at equal
distances, and the others go into the most similar of them."""

from typing import TYPE_CHECKING

from crosslmm.merging.merged import MergedTokens
from crosslmm.merging.runs import reduce_runs

if TYPE_CHECKING:
    import torch

# Of the tokens that stay, those at equal distances, whatever the encoder attends to.
SPREAD = 1 / 3


class PruMerger:
    """Merges within each frame, to means weighted by importance. Two things differ from the authors':
    the number is given, so there is no threshold for outliers, and similarity is the cosine of the
    tokens, not of the encoder's keys."""

    def merge(
        self,
        tokens: "torch.Tensor",
        budget: int,
        importance: "torch.Tensor",
    ) -> MergedTokens:
        """tokens: (T, M, W), importance: (T, M), above 0 → `budget` means of their members, at the
        place of the one that stays."""
        import torch

        beside = torch.cat([tokens, importance[..., None].to(tokens.dtype)], dim=-1)
        merged = reduce_runs(beside, budget, gather)
        return MergedTokens(
            merged.tokens[:, :-1].contiguous(), merged.place, merged.member, merged.mass
        )


def gather(
    tokens: "torch.Tensor", budget: int
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """(R, n, W + 1), the last column the importance → means (R, b, W + 1), places (R, b), members
    (R, n); see `merging.runs`."""
    import torch
    from torch.nn.functional import normalize

    runs, count, _ = tokens.shape
    rows = tokens.float()
    importance = rows[..., -1]
    rank = importance.clone()
    even = int(SPREAD * budget)
    rank[:, (torch.arange(even) * 2 + 1) * count // (2 * max(even, 1))] = torch.inf
    place = rank.topk(budget, dim=-1).indices.sort(dim=-1).values
    unit = normalize(rows[..., :-1], dim=-1)
    stays = unit.gather(1, place[..., None].expand(-1, -1, unit.shape[-1]))
    member = (unit @ stays.transpose(1, 2)).argmax(dim=-1)
    slots = torch.arange(budget, device=tokens.device).expand(runs, -1)
    member = member.scatter(1, place, slots)
    sums = rows.new_zeros(runs, budget, rows.shape[-1])
    sums = sums.scatter_add(1, member[..., None].expand_as(rows), rows * importance[..., None])
    weight = rows.new_zeros(runs, budget).scatter_add(1, member, importance)
    return sums / weight[..., None], place, member
