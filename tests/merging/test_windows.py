"""Merging in windows of frames as they come."""

import pytest
import torch

from crosslmm.merging import merge_tokens
from crosslmm.window_merging import WindowMerger


def merged_in_windows(given: torch.Tensor, budget: int, *, window: int, chunk: int = 3):
    merger = WindowMerger("folder", frames=len(given), budget=budget, window=window)
    for part in given.split(chunk):
        merger.add(part)
    return merger.finish()


@pytest.mark.parametrize("budget", [1, 2, 5, 13, 40, 90])
@pytest.mark.parametrize("window", [1, 4, 7, 10])
@torch.no_grad()
def test_the_budget_is_met_and_every_token_counted(budget: int, window: int) -> None:
    given = torch.randn(10, 9, 4, generator=torch.Generator().manual_seed(0))
    merged = merged_in_windows(given, budget, window=window)
    assert merged.tokens.shape == (budget, 4)
    assert (merged.place.diff() > 0).all()
    assert merged.member.shape == (90,)
    assert torch.equal(merged.mass.long(), torch.bincount(merged.member, minlength=budget))


@torch.no_grad()
def test_one_window_is_merging_at_once() -> None:
    given = torch.randn(10, 9, 4, generator=torch.Generator().manual_seed(0))
    merged, expected = merged_in_windows(given, 30, window=10), merge_tokens(given, 30, "folder")
    assert torch.equal(merged.tokens, expected.tokens)
    assert torch.equal(merged.member, expected.member)


@torch.no_grad()
def test_fewer_frames_than_expected() -> None:
    """What earlier windows kept stays, so that the count is that of the tokens."""
    given = torch.randn(6, 9, 4, generator=torch.Generator().manual_seed(0))
    merger = WindowMerger("folder", frames=10, budget=20, window=4)
    merger.add(given)
    merged = merger.finish(12)
    assert len(merged.tokens) == 12
    assert int(merged.mass.sum()) == 54
