"""Merging methods: from the patch tokens of a frame to the few merged tokens that stand for them.

A method is one file here and one line of `MERGERS`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from crosslmm.merging.grid import (
    AreaMerger,
    BilinearMerger,
    check_tokens_per_frame,
    grid_side,
)

if TYPE_CHECKING:
    import torch

__all__ = ["MERGERS", "Merger", "check_tokens_per_frame", "grid_side", "merge_tokens"]


class Merger(Protocol):
    """A merging method."""

    def merge(self, tokens: "torch.Tensor", budget: int) -> "torch.Tensor":
        """tokens: (..., N, W), those of a frame → merged tokens (..., budget, W). Raises ValueError
        for a budget that the method cannot meet exactly."""
        ...


MERGERS: dict[str, Callable[[], Merger]] = {
    "area": AreaMerger,
    "bilinear": BilinearMerger,
}


def merge_tokens(tokens: "torch.Tensor", budget: int, method: str = "area") -> "torch.Tensor":
    """`Merger.merge` by the name of a method in `MERGERS`."""
    return MERGERS[method]().merge(tokens, budget)
