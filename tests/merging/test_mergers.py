"""What every merging method promises."""

import pytest
import torch

from crosslmm.merging import MERGERS, merge_tokens


def tokens(frames: int = 5, places: int = 9, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(frames, places, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=sorted(MERGERS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_token_kept_is_the_identity(method: str) -> None:
    given = tokens()
    merged = merge_tokens(given, 45, method)
    assert torch.equal(merged.tokens, given.flatten(0, 1))
    assert merged.place.tolist() == merged.member.tolist() == list(range(45))


def test_any_budget_is_met_exactly_and_every_token_has_its_place(method: str) -> None:
    for budget in range(1, 46):
        merged = merge_tokens(tokens(seed=budget), budget, method)
        assert merged.tokens.shape == (budget, 16)
        assert (merged.place.diff() > 0).all()
        assert 0 <= merged.place[0] <= merged.place[-1] < 45
        assert merged.member.shape == (45,)
        assert merged.member[merged.place].tolist() == list(range(budget))
        assert torch.equal(merged.mass.long(), torch.bincount(merged.member, minlength=budget))


def test_the_same_tokens_are_merged_alike(method: str) -> None:
    first, second = (merge_tokens(tokens(), 11, method) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.member, second.member)


@pytest.mark.parametrize("budget", [0, -1, 46])
def test_an_impossible_budget_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match="45 tokens cannot be merged to"):
        merge_tokens(tokens(), budget, "random")
