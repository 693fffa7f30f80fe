"""From a video's tokens to the few merged tokens that stand for them.

Pooling makes a smaller square grid of each frame's, as checkpoints were trained (`POOLINGS`); a merger
makes any number of tokens of all frames together, without training (`MERGERS`). Either is one file here
and one line of its registry.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from crosslmm.merging.baselines import RandomMerger, UniformMerger
from crosslmm.merging.budget import TokenBudget, check_merging, choose_budget, parse_share
from crosslmm.merging.cells import AreaMerger, WeightedMerger, cell_of, cells_per_frame
from crosslmm.merging.folder import fold
from crosslmm.merging.grid import (
    POOLINGS,
    check_tokens_per_frame,
    grid_side,
    nearest_cells,
    pool_tokens,
)
from crosslmm.merging.merged import MergedTokens, Merger
from crosslmm.merging.pool import PoolMerger
from crosslmm.merging.runs import RunMerger
from crosslmm.merging.salient import gather
from crosslmm.merging.transport import TransportMerger
from crosslmm.merging.tree import TreeMerger

if TYPE_CHECKING:
    import torch

__all__ = [
    "MERGERS",
    "POOLINGS",
    "MergedTokens",
    "Merger",
    "TokenBudget",
    "cell_of",
    "check_count",
    "check_merging",
    "check_tokens_per_frame",
    "choose_budget",
    "grid_side",
    "merge_tokens",
    "nearest_cells",
    "parse_share",
    "pool_tokens",
]

MERGERS: dict[str, Callable[[], Merger]] = {
    "area": AreaMerger,
    "weighted": WeightedMerger,
    "folder": partial(RunMerger, fold),
    "salient": partial(RunMerger, gather),
    "tree": TreeMerger,
    "pool": PoolMerger,
    "transport": TransportMerger,
    "random": RandomMerger,
    "uniform": UniformMerger,
}


def check_count(budget: TokenBudget, frames: int, *, error: type[Exception] = ValueError) -> None:
    """Raise `error` where the method of a budget cannot merge the tokens of so many frames to what is
    kept of them."""
    if budget.merge is None or not isinstance(MERGERS[budget.merge](), AreaMerger):
        return
    try:
        cells_per_frame(frames, budget.pooled, budget.count(frames))
    except ValueError as problem:
        raise error(
            f"`merge` {budget.merge} keeps a square number of tokens of each frame: {problem}"
        ) from None


def merge_tokens(
    tokens: "torch.Tensor",
    budget: int,
    method: str,
) -> MergedTokens:
    """`Merger.merge` by the name of a method in `MERGERS`. Raises ValueError for a budget below 1 or
    above the number of tokens."""
    count = tokens.shape[0] * tokens.shape[1]
    if not 1 <= budget <= count:
        raise ValueError(f"{count:,} tokens cannot be merged to {budget:,}")
    return MERGERS[method]().merge(tokens, budget)
