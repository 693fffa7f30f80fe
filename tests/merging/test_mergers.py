"""What every merging method promises."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from crosslmm.merging import MERGERS, merge_tokens, nearest_cells, pool_tokens


def tokens(frames: int = 5, places: int = 9, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(frames, places, width, generator=torch.Generator().manual_seed(seed))


GRIDS = ("area", "weighted")  # a square number of tokens in each frame


@pytest.fixture(params=sorted(MERGERS))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def budgets(method: str) -> list[int]:
    return [5, 20, 45] if method in GRIDS else list(range(1, 46))


def test_every_token_kept_is_the_identity(method: str) -> None:
    given = tokens()
    merged = merge_tokens(given, 45, method)
    assert torch.equal(merged.tokens, given.flatten(0, 1))
    assert merged.place.tolist() == merged.member.tolist() == list(range(45))


def test_any_budget_is_met_exactly_and_every_token_has_its_place(method: str) -> None:
    for budget in budgets(method):
        merged = merge_tokens(tokens(seed=budget), budget, method)
        assert merged.tokens.shape == (budget, 16)
        assert (merged.place.diff() > 0).all()
        assert 0 <= merged.place[0] <= merged.place[-1] < 45
        assert merged.member.shape == (45,)
        assert torch.equal(merged.mass.long(), torch.bincount(merged.member, minlength=budget))


def test_the_same_tokens_are_merged_alike(method: str) -> None:
    first, second = (merge_tokens(tokens(), 20, method) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.member, second.member)


@pytest.mark.parametrize("budget", [0, -1, 46])
def test_an_impossible_budget_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match="45 tokens cannot be merged to"):
        merge_tokens(tokens(), budget, "random")


@pytest.mark.parametrize("method", [*GRIDS, "folder", "salient", "tree", "pool", "transport"])
def test_scaling_changes_nothing(method: str) -> None:
    given = tokens()
    merged, scaled = merge_tokens(given, 20, method), merge_tokens(8 * given, 20, method)
    torch.testing.assert_close(scaled.tokens, 8 * merged.tokens)
    assert torch.equal(merged.member, scaled.member)


def test_a_grid_takes_square_numbers_only() -> None:
    for method in GRIDS:
        with pytest.raises(ValueError, match="not a perfect square from 1 to 9"):
            merge_tokens(tokens(), 10, method)
        with pytest.raises(ValueError, match="not the same number for each of 5 frames"):
            merge_tokens(tokens(), 21, method)


def test_area_is_the_pooling_of_the_same_name() -> None:
    given = tokens(places=36)
    for cells in (1, 4, 9, 16):
        merged = merge_tokens(given, 5 * cells, "area")
        assert torch.equal(merged.tokens, pool_tokens(given, cells).flatten(0, 1))
        assert merged.place.tolist() == [
            frame * 36 + cell for frame in range(5) for cell in nearest_cells(cells, 36)
        ]


def test_folder_gives_the_means_of_its_members() -> None:
    given = tokens(frames=4, places=36, width=8)
    for budget in (2, 4, 7, 16, 37, 143):
        merged = merge_tokens(given, budget, "folder")
        means = torch.stack(
            [given.flatten(0, 1)[merged.member == slot].mean(dim=0) for slot in range(budget)]
        )
        torch.testing.assert_close(merged.tokens, means)
        assert (merged.member[merged.place] == torch.arange(budget)).all()
        if budget >= 4:
            assert torch.equal(merged.place[merged.member] // 36, torch.arange(144) // 36)


def fold_slowly(tokens: torch.Tensor, budget: int) -> list[tuple[torch.Tensor, list[int]]]:
    """The merged tokens of a frame (M, W) and their members, by plain loops."""
    groups = [(token, [index]) for index, token in enumerate(tokens)]
    while len(groups) > budget:
        removed = min(len(groups) - budget, max((len(groups) - 1) // 2, 1))
        pairs = []
        for even in range(0, len(groups), 2):
            cosines = [
                (float(torch.cosine_similarity(groups[even][0], groups[odd][0], dim=0)), odd)
                for odd in range(1, len(groups), 2)
            ]
            best, odd = max(cosines)
            pairs.append((-best, even, odd))
        members = [list(group[1]) for group in groups]
        gone = set()
        for _, even, odd in sorted(pairs)[:removed]:
            members[odd] += groups[even][1]
            gone.add(even)
        groups = [
            (tokens[group].mean(dim=0), group)
            for index, group in enumerate(members)
            if index not in gone
        ]
    return groups


def gather_slowly(tokens: torch.Tensor, budget: int) -> list[tuple[torch.Tensor, list[int]]]:
    """The salient tokens of one frame, (M, W) → the mean and the members of each, by place."""
    count = len(tokens)
    unit = [token / token.norm() for token in tokens]
    mean = torch.stack(unit).mean(dim=0)
    distance = [1 - float(token @ mean) for token in unit]
    even = budget // 3
    stays = {(2 * step + 1) * count // (2 * even) for step in range(even)}
    for index in sorted(range(count), key=lambda index: -distance[index]):
        if len(stays) < budget:
            stays.add(index)
    groups: dict[int, list[int]] = {index: [index] for index in sorted(stays)}
    for index in set(range(count)) - stays:
        cosine = {
            place: float(torch.cosine_similarity(tokens[index], tokens[place], dim=0))
            for place in stays
        }
        groups[max(cosine, key=lambda place: cosine[place])].append(index)
    return [
        (
            sum(distance[index] * tokens[index] for index in group)
            / sum(distance[index] for index in group),
            group,
        )
        for group in groups.values()
    ]


@pytest.mark.parametrize(
    ("method", "slowly"), [("folder", fold_slowly), ("salient", gather_slowly)]
)
def test_a_method_equals_plain_loops(method: str, slowly: Callable[..., Any]) -> None:
    given = tokens(frames=2, places=25, width=6).double()
    for each in (1, 4, 9, 13, 24):
        merged = merge_tokens(given, 2 * each, method)
        for frame in range(2):
            for slot, (mean, members) in enumerate(slowly(given[frame], each)):
                at = frame * each + slot
                torch.testing.assert_close(merged.tokens[at], mean, atol=1e-5, rtol=1e-5)
                found = (merged.member == at).nonzero().flatten() - frame * 25
                assert found.tolist() == sorted(members)


@pytest.mark.parametrize("method", ["folder", "salient"])
def test_a_frame_of_equal_tokens(method: str) -> None:
    merged = merge_tokens(torch.ones(2, 9, 4), 6, method)
    assert torch.equal(merged.tokens, torch.ones(6, 4))


@pytest.mark.parametrize(
    ("method", "survives"),
    [
        ("area", 0.5),
        ("weighted", 0.9),
        ("folder", 1),
        ("salient", 1),
        ("tree", 1),
        ("pool", 1),
        ("transport", 0.5),
    ],
)
def test_an_odd_patch(method: str, survives: float) -> None:
    """How much of a patch unlike all others of its frame is left: less than this where it is lost."""
    common, odd = torch.eye(16)[:2]
    given = common.repeat(3, 36, 1)
    given[1, 20] = odd
    merged = merge_tokens(given, 12, method)
    cosine = torch.cosine_similarity(merged.tokens, odd[None], dim=-1).max()
    assert cosine >= survives - 1e-5 if survives > 0.5 else cosine < survives


def test_ten_thousand_frames_take_no_more_memory_than_their_tokens() -> None:
    given = tokens(frames=10_000, places=9, width=4)
    merged = merge_tokens(given, 30_000, "folder")
    assert merged.tokens.shape == (30_000, 4)
    assert int(merged.mass.sum()) == 90_000


@pytest.mark.parametrize("method", ["folder", "salient", "tree", "pool", "transport"])
def test_a_window_is_merged_to_very_few(method: str) -> None:
    given = tokens(frames=64, places=36, width=4)
    for budget in (1, 40):
        assert len(merge_tokens(given, budget, method).tokens) == budget
