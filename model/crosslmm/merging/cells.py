"""Merging over the cells of a coarser grid, at their true places: `area` and `weighted`."""

import math
from typing import TYPE_CHECKING

from crosslmm.merging.grid import check_tokens_per_frame, grid_side, nearest_cells, pool_tokens
from crosslmm.merging.merged import MergedTokens

if TYPE_CHECKING:
    import torch


class AreaMerger:
    """Averages over the cells of a frame, as `AreaPooling` does."""

    def merge(
        self,
        tokens: "torch.Tensor",
        budget: int,
    ) -> MergedTokens:
        """tokens: (T, M, W) → `budget` means, a square number in each frame. Raises ValueError."""
        return self._over_cells(tokens, cells_per_frame(len(tokens), tokens.shape[1], budget))

    def _over_cells(self, tokens: "torch.Tensor", cells: int) -> MergedTokens:
        return at_cells(pool_tokens(tokens, cells), tokens.shape[1])


class WeightedMerger(AreaMerger):
    """Averages over the cells with weights by how far a token is from its cell's mean, squared: what
    differs from its surroundings is kept."""

    def _over_cells(self, tokens: "torch.Tensor", cells: int) -> MergedTokens:
        import torch

        frames, places, _ = tokens.shape
        member = torch.tensor(cell_of(places, cells), device=tokens.device)
        values = tokens.float()
        mean = _averaged(values, member, cells, values.new_ones(frames, places))
        distance = (values - mean[:, member]).square().sum(dim=-1)
        total = distance.new_zeros(frames, cells).index_add(1, member, distance)
        # Tokens that are all alike count alike; rounding must not weigh them.
        flat = total <= 1e-6 * values.square().sum(dim=-1).amax(dim=1, keepdim=True)
        weights = torch.where(flat[:, member], torch.ones_like(distance), distance)
        return at_cells(_averaged(values, member, cells, weights).to(tokens.dtype), places)


def at_cells(merged: "torch.Tensor", places: int) -> MergedTokens:
    """Merged tokens (T, cells, W) at the centres of their cells in grids of so many places."""
    import torch

    frames, cells, _ = merged.shape
    each = torch.arange(frames, device=merged.device)[:, None]
    place = each * places + torch.tensor(nearest_cells(cells, places), device=merged.device)
    member = each * cells + torch.tensor(cell_of(places, cells), device=merged.device)
    mass = torch.bincount(member.flatten(), minlength=frames * cells)
    return MergedTokens(merged.flatten(0, 1), place.flatten(), member.flatten(), mass)


def cell_of(places: int, cells: int) -> list[int]:
    """For each place of a grid, row by row, the cell of the coarser grid that its centre lies in."""
    side, coarse = math.isqrt(places), math.isqrt(cells)
    along = [(2 * at + 1) * coarse // (2 * side) for at in range(side)]
    return [row * coarse + column for row in along for column in along]


def _averaged(
    values: "torch.Tensor", member: "torch.Tensor", cells: int, weights: "torch.Tensor"
) -> "torch.Tensor":
    """values (T, M, W), weights (T, M), member (M,) → weighted means of the cells (T, cells, W)"""
    frames, _, width = values.shape
    sums = values.new_zeros(frames, cells, width)
    sums.index_add_(1, member, values * weights[..., None])
    total = weights.new_zeros(frames, cells).index_add(1, member, weights)
    return sums / total[..., None]


def cells_per_frame(frames: int, places: int, budget: int) -> int:
    """The cells of each frame's grid of so many places. Raises ValueError where there are none."""
    if grid_side(places) is None:
        raise ValueError(f"{places} tokens of a frame are not a square grid")
    if budget % frames:
        raise ValueError(
            f"{budget:,} tokens are not the same number for each of {frames:,} frames; give "
            "`tokens_per_frame`"
        )
    return check_tokens_per_frame(budget // frames, places)
