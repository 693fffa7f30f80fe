"""A command that does not exist suggests the one that was meant."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("aks movie.mp4 q", "ask"),
        ("captoin clips", "caption"),
        ("pull org/name", "models pull"),
        ("ls", "models list"),
        ("models remove demo", "rm"),
        ("models delete demo", "rm"),
        ("models delte demo", "rm"),
        ("models ls", "list"),
        ("models lst", "list"),
        ("models download org/name", "pull"),
        ("models info demo", "show"),
        ("cache delete", "clear"),
        ("cache rm", "clear"),
        ("cache prune", "clear"),
        ("cache list", "info"),
        ("clear", "cache clear"),
    ],
)
def test_the_command_that_was_meant(run: Callable[..., Any], line: str, meant: str) -> None:
    done = run(*line.split())
    assert done.code == 2
    assert f"Did you mean {meant!r}?" in done.err
    assert len(done.err.splitlines()) == 2


@pytest.mark.parametrize("line", ["zzz", "models zzz", "cache pull"])
def test_nothing_is_suggested_for_what_is_like_nothing(run: Callable[..., Any], line: str) -> None:
    assert "Did you mean" not in run(*line.split()).err


def test_the_recipe_that_was_meant(run: Callable[..., Any]) -> None:
    done = run("train", "demo-teache", "--out", "run")
    assert (done.code, done.err) == (
        2,
        "crosslmm: demo-teache: neither a file nor a recipe; did you mean demo-teacher?\n",
    )
    assert "there are demo, demo-teacher, align-2b" in run("train", "zzz", "--out", "run").err
