"""Recipes and mixes of data in YAML whose few lines stand for very much: an error in words, at once."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crosslmm.errors import UsageError
from crosslmm.training.recipe import load_recipe
from crosslmm.training.records import Records
from crosslmm.training.yaml_text import parse_yaml

LEVELS = range(1, 12)
LISTS = ["&a0 [x, x, x, x, x, x, x, x, x]"]
LISTS += [f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in LEVELS]
LAUGHS = f"[{', '.join(LISTS)}]"  # over 10^11 letters
TABLES = ["&b0 {k: v}"] + [f"&b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 9)}]}}" for n in LEVELS]
MERGED = f"[{', '.join(TABLES)}]"

HOSTILE = {
    "a list of lists": (LAUGHS, "it holds over 1,048,576 values"),
    "tables that are merged": (MERGED, "it holds over 1,048,576 values"),
    "a list that holds itself": ("&a [*a]", "a value in it holds itself"),
    "a number without an end": ("9" * 900_000, "a number in it has 900,000 characters"),
    "a number of minutes": ("1:" * 400_000 + "1", "a number in it has 800,001 characters"),
    "depth": ("[" * 100_000, "nested too deeply"),
    "a tag": ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
}


@pytest.mark.parametrize(("text", "words"), HOSTILE.values(), ids=HOSTILE)
def test_what_takes_all_memory_or_time_is_refused(text: str, words: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ValueError, match=words):
        parse_yaml(f"datasets: {text}")
    assert time.perf_counter() - began < 20


def test_recipes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"stage: tune\nlearning_rate: {LAUGHS}\n")
    with pytest.raises(UsageError, match="not YAML: it holds over 1,048,576 values"):
        load_recipe(str(path), [])


@pytest.mark.parametrize("key", ["json_path", "sampling_strategy", "media_folder"])
def test_mixes(tmp_path: Path, key: str) -> None:
    path = tmp_path / "mix.yaml"
    entry = {"json_path": "a.json"} | {key: LAUGHS}
    path.write_text("datasets: [{" + ", ".join(f"{k}: {v}" for k, v in entry.items()) + "}]")
    with pytest.raises(UsageError, match="a mix of data is YAML"):
        Records(str(path))


READ: dict[str, Callable[[], object]] = {
    "a: 1\nb: [1, 2.5, x, null, true]\n": lambda: {"a": 1, "b": [1, 2.5, "x", None, True]},
    "d: &d {x: 1}\ne: {<<: *d, y: 2}\n": lambda: {"d": {"x": 1}, "e": {"x": 1, "y": 2}},
    "": lambda: None,
    "1e-4": lambda: "1e-4",
}


@pytest.mark.parametrize("text", READ)
def test_everything_else_is_read_as_by_the_library(text: str) -> None:
    assert parse_yaml(text) == READ[text]()
