"""The square grid: how many merged tokens a frame may take, and pooling the patches' grid to it.

Checking a count needs no torch, so torch is imported when tokens are merged.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def grid_side(tokens: int, patches: int | None = None) -> int | None:
    """The side of the square grid of so many tokens; None where there is none, or where it is finer
    than that of `patches`."""
    side = math.isqrt(max(tokens, 0))
    fits = patches is None or side * side <= patches
    return side if side > 0 and side * side == tokens and fits else None


def check_tokens_per_frame(
    tokens: int,
    patches: int | None = None,
    *,
    trained: int | None = None,
    error: type[Exception] = ValueError,
) -> int:
    """`tokens` itself where it is a perfect square, at most `patches`; raises `error` otherwise.

    trained: those that the model was trained with, for the error."""
    if patches is not None and tokens > patches:
        known = "" if trained is None else f" and was trained with {trained} tokens"
        raise error(
            f"`tokens_per_frame` {tokens} is too many: the model has {patches} patches per frame{known}"
        )
    if grid_side(tokens, patches) is None:
        largest = 5 if patches is None else min(math.isqrt(patches), 5)
        examples = ", ".join(str(side * side) for side in range(1, largest + 1))
        up_to = "" if patches is None else f" from 1 to {patches}"
        raise error(
            f"`tokens_per_frame` {tokens} is not a perfect square{up_to}, such as {examples}"
        )
    return tokens


def nearest_cells(tokens: int, grid: int) -> list[int]:
    """For each cell of a frame's grid of `tokens`, row by row, the index of the cell of the other grid
    at its centre; between two of them the later one."""
    side, other = math.isqrt(tokens), math.isqrt(grid)
    along = [(2 * cell + 1) * other // (2 * side) for cell in range(side)]
    return [row * other + column for row in along for column in along]


class GridPooling:
    """Pools the square grid of a frame's patches to a smaller square grid, without parameters."""

    def pool(self, tokens: "torch.Tensor", count: int) -> "torch.Tensor":
        """tokens: (..., N, W) → (..., count, W); both N and count perfect squares, count at most N.
        Raises ValueError."""
        *lead, patches, width = tokens.shape
        grid = grid_side(patches)
        if grid is None:
            raise ValueError(f"{patches} tokens of a frame are not a square grid")
        side = math.isqrt(check_tokens_per_frame(count, patches))
        if side == grid:
            return tokens
        planes = tokens.reshape(-1, grid, grid, width).permute(0, 3, 1, 2)  # (F, W, grid, grid)
        planes = self._pool(planes, side)
        return planes.flatten(2).transpose(1, 2).reshape(*lead, count, width)

    def _pool(self, planes: "torch.Tensor", side: int) -> "torch.Tensor":
        raise NotImplementedError


class AreaPooling(GridPooling):
    """Averages over the cells of the new grid; cells of uneven grids share border patches, as
    `adaptive_avg_pool2d` has it."""

    def _pool(self, planes: "torch.Tensor", side: int) -> "torch.Tensor":
        from torch.nn import functional

        # Apple's kernel pools even cells only (pytorch #96056).
        on_cpu = planes.device.type == "mps" and planes.shape[-1] % side != 0
        pooled = functional.adaptive_avg_pool2d(planes.cpu() if on_cpu else planes, side)
        return pooled.to(planes.device)


class BilinearPooling(GridPooling):
    """Samples two patches by two at each new point and drops the rest; right only for weights trained
    with it."""

    def _pool(self, planes: "torch.Tensor", side: int) -> "torch.Tensor":
        from torch.nn import functional

        return functional.interpolate(planes.contiguous(), size=(side, side), mode="bilinear")


POOLINGS: dict[str, Callable[[], GridPooling]] = {
    "area": AreaPooling,
    "bilinear": BilinearPooling,
}


def pool_tokens(tokens: "torch.Tensor", count: int, method: str = "area") -> "torch.Tensor":
    """`GridPooling.pool` by the name of a method in `POOLINGS`."""
    return POOLINGS[method]().pool(tokens, count)
