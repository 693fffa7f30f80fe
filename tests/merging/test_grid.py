"""The square grid: which counts of merged tokens it allows, and pooling against plain loops."""

import math

import pytest
import torch

from crosslmm.errors import UsageError
from crosslmm.merging import POOLINGS, check_tokens_per_frame, grid_side, pool_tokens
from crosslmm.merging.grid import GridPooling
from tests.support.tiny import tiny_config, tiny_model


@pytest.mark.parametrize(
    ("grid", "side"), [(6, 3), (6, 2), (5, 2), (5, 3), (27, 3), (4, 4), (7, 1)]
)
def test_area_merge_equals_a_loop_over_cells(grid: int, side: int) -> None:
    features = torch.randn(2, 3, grid * grid, 8, dtype=torch.float64)
    merged = pool_tokens(features, side * side)
    planes = features.view(2, 3, grid, grid, 8)
    for row in range(side):
        for column in range(side):
            rows = slice(row * grid // side, math.ceil((row + 1) * grid / side))
            columns = slice(column * grid // side, math.ceil((column + 1) * grid / side))
            cell = planes[:, :, rows, columns].mean(dim=(2, 3))
            torch.testing.assert_close(merged[:, :, row * side + column], cell)


def test_plain_bilinear_merge_drops_what_area_keeps() -> None:
    features = torch.zeros(1, 81, 1)
    features[0, 40 + 2] = 1.0  # beside the centre, where bilinear 9x9 → 1 does not look
    assert pool_tokens(features, 1, "bilinear").item() == 0
    assert pool_tokens(features, 1, "area").item() == pytest.approx(1 / 81)


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        (0, "is not a perfect square from 1 to 25"),
        (2, "is not a perfect square from 1 to 25"),
        (36, "is too many: the model has 25 patches per frame"),
    ],
)
def test_merging_to_no_square_or_to_more_is_refused(tokens: int, problem: str) -> None:
    with pytest.raises(ValueError, match=f"`tokens_per_frame` {tokens} {problem}"):
        pool_tokens(torch.zeros(25, 4), tokens)


@pytest.mark.parametrize("method", sorted(POOLINGS))
def test_every_patch_kept_is_the_identity(method: str) -> None:
    features = torch.randn(2, 25, 4)
    assert torch.equal(pool_tokens(features, 25, method), features)


def test_tokens_that_are_no_square_are_refused() -> None:
    with pytest.raises(ValueError, match="24 tokens of a frame are not a square grid"):
        pool_tokens(torch.zeros(24, 4), 4)


class MaxPooling(GridPooling):
    def _pool(self, planes: torch.Tensor, side: int) -> torch.Tensor:
        return torch.nn.functional.adaptive_max_pool2d(planes, side)


def test_a_registered_method_merges_to_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POOLINGS, "max", MaxPooling)
    model = tiny_model(merge_mode="max", tokens_per_frame=4)
    pixels = torch.randn(2, 3, 30, 30)
    for tokens in (4, 1):
        merged, _ = model.model.encode_frames(pixels, tokens)
        model.config.merge_mode = "area"
        averaged, _ = model.model.encode_frames(pixels, tokens)
        model.config.merge_mode = "max"
        assert merged.shape == averaged.shape
        assert not torch.equal(merged, averaged)


def test_only_bilinear_is_replaced_away_from_the_trained_number() -> None:
    bilinear = tiny_config(merge_mode="bilinear", tokens_per_frame=4)
    assert [bilinear.merge_mode_for(tokens) for tokens in (4, 1)] == ["bilinear", "area"]


def test_a_configuration_names_registered_methods() -> None:
    with pytest.raises(Exception, match="merge_mode='nearest' is not one of area, bilinear"):
        tiny_config(merge_mode="nearest")


def test_a_count_is_checked_with_one_wording() -> None:
    assert [grid_side(tokens) for tokens in (-1, 0, 1, 2, 9, 10)] == [None, None, 1, None, 3, None]
    assert grid_side(36, patches=25) is None
    assert check_tokens_per_frame(9, 9) == 9
    with pytest.raises(UsageError) as refusal:
        check_tokens_per_frame(8, 9, error=UsageError)
    assert str(refusal.value) == (
        "`tokens_per_frame` 8 is not a perfect square from 1 to 9, such as 1, 4, 9"
    )
    with pytest.raises(UsageError) as refusal:
        check_tokens_per_frame(16, 9, trained=4, error=UsageError)
    assert str(refusal.value) == (
        "`tokens_per_frame` 16 is too many: the model has 9 patches per frame and was trained with "
        "4 tokens"
    )
    with pytest.raises(ValueError, match=r"is not a perfect square, such as 1, 4, 9, 16, 25$"):
        check_tokens_per_frame(3)
