"""As many tokens as a budget of compute or of seconds allows."""

import json

import pytest

from crosslmm.cost import RECIPES
from crosslmm.cost.budget import frames_at, parse_compute
from crosslmm.cost.profile import profile
from crosslmm.cost.settings import Settings
from crosslmm.errors import UsageError
from crosslmm.merging import TokenBudget


def test_a_budget_of_compute_is_spent_to_the_last_frame() -> None:
    shape = RECIPES["crosslmm-7b"]
    for tokens in (1, 9, 49):
        frames = frames_at(shape, 5e12, budget=TokenBudget(tokens), settings=Settings())
        rows = profile(
            "x", shape=shape, frames=[frames, frames + 1], budgets=[TokenBudget(tokens)]
        ).rows
        assert rows[0].prefill.total <= 5e12 < rows[1].prefill.total
    assert frames_at(shape, 1e9, settings=Settings()) == 0


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("10TFLOP", (5e12, False)),
        ("10 tflops", (5e12, False)),
        ("3GMAC", (3e9, False)),
        ("2s", (2, True)),
        ("500ms", (0.5, True)),
        ("1.5min", (90, True)),
    ],
)
def test_a_budget_is_read(given: str, value: tuple[float, bool]) -> None:
    assert parse_compute(given) == value


@pytest.mark.parametrize("given", ["10", "TFLOP", "0s", "-2s", "1 hour", "1e3s"])
def test_no_budget(given: str) -> None:
    with pytest.raises(UsageError, match="budget"):
        parse_compute(given)


def test_the_budget_table(run) -> None:
    given = ("profile", "-m", "crosslmm-7b", "--budget", "10TFLOP")
    done = run(*given)
    assert done.code == 0
    heading, columns, *lines = done.out.splitlines()
    assert heading == "A prefill of 10 TFLOPs:"
    assert columns.split() == ["tokens", "per", "frame", "frames", "visual", "tokens"]
    cells = [[int(cell.replace(",", "")) for cell in line.split()[:3]] for line in lines]
    assert [tokens for tokens, _, _ in cells] == [side**2 for side in range(1, 15)]
    frames = [count for _, count, _ in cells]
    assert frames == sorted(frames, reverse=True)
    assert all(visual == tokens * count for tokens, count, visual in cells)
    record = json.loads(run(*given, "--json").out)
    assert record["budget"]["frames"] == {str(tokens): count for tokens, count, _ in cells}
    assert record["macs_per_second"] is None


def test_a_budget_in_seconds_says_what_it_was_counted_with(run) -> None:
    done = run("profile", "-m", "crosslmm-2b", "--budget", "20s", "--tokens-per-frame", "9")
    assert done.code == 0
    assert "20 s at the" in " ".join(done.out.split())
    assert done.out.splitlines()[-1].split()[0] == "9"


def test_a_budget_stands_alone(run) -> None:
    done = run("profile", "--budget", "2s", "--frames", "8")
    assert done.code == 2
    assert "--budget finds the frames" in done.err
    assert run("profile", "--budget", "2TFLOP", "--device", "cpu").code == 2
