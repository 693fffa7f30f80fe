"""A video's tokens in runs of consecutive frames, each reduced to its share of the budget.

A run is a frame wherever the budget has a token for each; with fewer, several frames make a run. So
memory is bounded by a run's, whatever the number of frames.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from crosslmm.merging.merged import MergedTokens

if TYPE_CHECKING:
    import torch

# Runs of equal length to equal budgets: (R, n, W), b → tokens (R, b, W), places in the run (R, b),
# rising, and for every token the merged one that it went into (R, n).
Reduce = Callable[["torch.Tensor", int], tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]]
RUNS_AT_ONCE = 64


def share(total: int, parts: int) -> list[int]:
    """`total` shared out over `parts` as evenly as whole numbers can be, spread over all of them."""
    ends = [total * part // parts for part in range(parts + 1)]
    return [end - start for start, end in pairwise(ends)]


@dataclass(frozen=True)
class RunMerger:
    """Merges each run by itself, by `reduce`."""

    reduce: Reduce

    def merge(
        self,
        tokens: "torch.Tensor",
        budget: int,
    ) -> MergedTokens:
        """tokens: (T, M, W) → `budget` means of their members, at the place of one of them."""
        import torch

        frames, places, width = tokens.shape
        lengths = share(frames, min(frames, budget))
        budgets = share(budget, len(lengths))
        starts = [sum(lengths[:run]) * places for run in range(len(lengths))]
        firsts = [sum(budgets[:run]) for run in range(len(budgets))]
        flat = tokens.flatten(0, 1)
        merged = flat.new_empty(budget, width)
        place = torch.empty(budget, dtype=torch.long, device=flat.device)
        member = torch.empty(len(flat), dtype=torch.long, device=flat.device)
        alike: dict[tuple[int, int], list[int]] = {}
        for run, key in enumerate(zip(lengths, budgets, strict=True)):
            alike.setdefault(key, []).append(run)
        for (length, kept), found in alike.items():
            for at in range(0, len(found), RUNS_AT_ONCE):
                runs = found[at : at + RUNS_AT_ONCE]
                start = torch.tensor([starts[run] for run in runs], device=flat.device)[:, None]
                first = torch.tensor([firsts[run] for run in runs], device=flat.device)[:, None]
                of_runs = start + torch.arange(length * places, device=flat.device)
                slots = first + torch.arange(kept, device=flat.device)
                values, where, into = self.reduce(flat[of_runs], kept)
                merged[slots] = values.to(merged.dtype)
                place[slots] = where + start
                member[of_runs] = into + first
        return MergedTokens(merged, place, member, torch.bincount(member, minlength=budget))
