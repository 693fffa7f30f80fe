"""What merging itself takes: the products of a method, and the memory that it works in.

A line for each method of `merging.MERGERS` whose work is known from its numbers of tokens, read off its
code; the tests compare them with torch's own counter and the allocator's record. What `pool` takes
depends on the video, too: the most is counted.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

from crosslmm.errors import UsageError
from crosslmm.limits import MERGED_FRAMES
from crosslmm.merging import TokenBudget
from crosslmm.merging.pool import BLOCK, CLUSTERED
from crosslmm.merging.pool import SHARE as POOL_SHARE
from crosslmm.merging.runs import RUNS_AT_ONCE, share


@dataclass(frozen=True)
class MergeWindow:
    """Frames that are merged together: `tokens` of each, `width` numbers of `size` bytes, to `kept`."""

    frames: int
    tokens: int
    kept: int
    width: int
    size: int

    @property
    def values(self) -> int:
        """Numbers of all tokens."""
        return self.frames * self.tokens * self.width


def merging_macs(budget: TokenBudget, *, frames: int, width: int) -> int:
    """Multiply-accumulates of merging the tokens of a video, of width W. Raises UsageError."""
    if budget.merge is None:
        return 0
    products = _method(budget.merge).macs
    return sum(
        count * products(window)
        for window, count in _windows(budget, frames=frames, width=width, size=0)
    )


def merging_bytes(budget: TokenBudget, *, frames: int, width: int, size: int) -> int:
    """The most that is alive beside the tokens of a window, before and after merging."""
    if budget.merge is None:
        return 0
    workspace = _method(budget.merge).workspace
    return max(
        (
            workspace(window)
            for window, _ in _windows(budget, frames=frames, width=width, size=size)
        ),
        default=0,
    )


def _windows(
    budget: TokenBudget, *, frames: int, width: int, size: int
) -> Iterator[tuple[MergeWindow, int]]:
    """The windows of a video as `WindowMerger` makes them, and how many there are of each kind."""
    kept = budget.count(frames)
    complete, rest = divmod(frames, MERGED_FRAMES)
    of_complete = kept * MERGED_FRAMES // max(frames, 1)  # give or take one
    if complete:
        yield MergeWindow(MERGED_FRAMES, budget.pooled, of_complete, width, size), complete
    if rest:
        yield MergeWindow(rest, budget.pooled, kept - complete * of_complete, width, size), 1


@dataclass(frozen=True)
class _Method:
    macs: Callable[[MergeWindow], int]
    workspace: Callable[[MergeWindow], int]


def _nothing(window: MergeWindow) -> int:
    return 0


def _float_copy(window: MergeWindow) -> int:
    """Bytes of a number where tokens are copied to float32 first."""
    return 0 if window.size == 4 else 4


def _runs(window: MergeWindow) -> Counter[tuple[int, int]]:
    """Tokens of each run of `merging.runs` and those kept of it, with how many such runs there are."""
    lengths = share(window.frames, min(window.frames, max(window.kept, 1)))
    budgets = share(window.kept, len(lengths))
    return Counter(
        (length * window.tokens, kept) for length, kept in zip(lengths, budgets, strict=True)
    )


def _most_of_runs(window: MergeWindow, taken: Callable[[int, int, int], int]) -> int:
    """taken: what some runs take that are merged together, by their number, the tokens of each and those
    kept of it → the most that any of them take."""
    return max(
        (
            taken(min(runs, RUNS_AT_ONCE), count, kept)
            for (count, kept), runs in _runs(window).items()
        ),
        default=0,
    )


def _folder_macs(window: MergeWindow) -> int:
    """Cosines of even with odd tokens, round by round."""
    total = 0
    for (count, kept), runs in _runs(window).items():
        while count > max(kept, 1):
            total += runs * ((count + 1) // 2) * (count // 2) * window.width
            count -= min(count - kept, max((count - 1) // 2, 1))
    return total


def _folder_workspace(window: MergeWindow) -> int:
    """Of the runs that are merged together: their tokens, and in float32 the means, these normalised,
    their sums before and after half of them are added, and all cosines."""

    def taken(together: int, count: int, kept: int) -> int:
        tokens = count * window.width * (window.size + _float_copy(window) + 14)
        return together * (tokens + (count // 2) ** 2 * 4)

    return _most_of_runs(window, taken)


def _salient_macs(window: MergeWindow) -> int:
    """Cosines of all tokens with those that stay."""
    return sum(runs * count * kept * window.width for (count, kept), runs in _runs(window).items())


def _salient_workspace(window: MergeWindow) -> int:
    """Of the runs that are merged together, in float32: their tokens, these weighted, and what they are
    the difference from; before, the cosines."""

    def taken(together: int, count: int, kept: int) -> int:
        own = count * window.width * (window.size + _float_copy(window) + 8)
        return together * (own + kept * window.width * 4 + count * kept * 4)

    return _most_of_runs(window, taken)


def _weighted_workspace(window: MergeWindow) -> int:
    """In float32: the tokens, their distances from the mean of their cell, and the squares of these."""
    return window.values * (8 + _float_copy(window))


def _clustered(window: MergeWindow) -> Counter[tuple[int, int]]:
    """Groups of tokens that `tree` clusters, by their size, and how many of them at once."""
    groups = Counter({(window.tokens, min(window.frames, RUNS_AT_ONCE)): window.frames})
    if window.kept < window.frames:  # then also what it keeps of all frames
        groups[window.frames, 1] += 1
    return groups


def _cluster_workspace(count: int, together: int, window: MergeWindow) -> int:
    """In float32: the tokens, twice more as `torch.cdist` prepares them, then all distances, those to
    others, and these sorted, with their order in int64."""
    tokens = together * count * (window.width + 2) * 4
    pairs = together * count**2
    return max(3 * tokens + 4 * pairs, tokens + 22 * pairs)


def _tree_macs(window: MergeWindow) -> int:
    """Distances of what is clustered; before, the cosines in each frame and with the one before it."""
    clustered = sum(many * count**2 for (count, _), many in _clustered(window).items())
    cosines = (2 * window.frames - 1) * window.tokens**2
    return (clustered + cosines) * window.width


def _tree_workspace(window: MergeWindow) -> int:
    """The tokens of the trees, and what clustering takes of them."""
    clustering = max(_cluster_workspace(*each, window) for each in _clustered(window))
    return window.values * window.size + clustering


def _pool_blocks(window: MergeWindow) -> tuple[int, int]:
    """Blocks of tokens that `pool` clusters, and how many tokens each holds at most."""
    count = window.frames * window.tokens
    blocks = max(min(ceil(count / CLUSTERED), window.kept), 1)
    return blocks, ceil(count / blocks)


def _pool_macs(window: MergeWindow) -> int:
    """At most, since it depends on the video how soon the pool is full: cosines with the block and with
    the pool, and distances of what is clustered."""
    count, pool = window.frames * window.tokens, int(POOL_SHARE * window.kept)
    blocks, each = _pool_blocks(window)
    return (count * (BLOCK + pool) + blocks * each**2) * window.width


def _pool_workspace(window: MergeWindow) -> int:
    """At most: the pool, and what clustering takes of a block."""
    _, each = _pool_blocks(window)
    return _cluster_workspace(each, 1, window)


_METHODS = {
    "area": _Method(_nothing, _nothing),
    "weighted": _Method(_nothing, _weighted_workspace),
    "folder": _Method(_folder_macs, _folder_workspace),
    "salient": _Method(_salient_macs, _salient_workspace),
    "tree": _Method(_tree_macs, _tree_workspace),
    "pool": _Method(_pool_macs, _pool_workspace),
    "random": _Method(_nothing, _nothing),
    "uniform": _Method(_nothing, _nothing),
}
COUNTED = tuple(_METHODS)


def _method(name: str) -> _Method:
    if name not in _METHODS:
        raise UsageError(
            f"what `merge` {name} takes is not counted; what {', '.join(COUNTED)} take is"
        )
    return _METHODS[name]
