"""SECURITY.md gives the limits that the code has, and docs/security.md the counts of its records."""

import json
import re
from pathlib import Path

import pytest

from crosslmm import limits
from crosslmm.options import Sampling

ROOT = Path(__file__).parents[2]
UNITS = {"": 1, "s": 1, "h": 3600, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

# What is no limit but where a way of working begins.
THRESHOLDS = {"LARGE_PIXELS"}


def rows(text: str, columns: int) -> list[list[str]]:
    """The cells of the rows of a document's tables that have so many columns, headings left out."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:1] == "|"]
    split = [[cell.strip("| ") for cell in line] for line in lines]
    return [cells for cells in split if len(cells) == columns and "---" not in cells[0]][1:]


@pytest.fixture(scope="module")
def stated() -> list[tuple[str, float, str]]:
    """The limits of SECURITY.md: name, value in bytes or seconds, option."""
    text = (ROOT / "SECURITY.md").read_text("utf-8").split("## Limits")[1].split("## ")[0]
    found = []
    for line in text.splitlines():
        match = re.fullmatch(
            r"\|.*\| ([\d,]+) ?([A-Za-z]*) \| (?:`--([a-z-]+)`)? ?\| `([A-Z_]+)` \|", line
        )
        if match:
            number, unit, option, name = match.groups()
            found.append((name, int(number.replace(",", "")) * UNITS[unit], option or ""))
    return found


def test_the_limits_are_those_of_the_code(stated: list[tuple[str, float, str]]) -> None:
    for name, value, _ in stated:
        assert getattr(limits, name) == value, name


def test_no_limit_is_left_out(stated: list[tuple[str, float, str]]) -> None:
    source = Path(limits.__file__).read_text("utf-8")
    names = re.findall(r"^([A-Z_]+) = ", source.split("# Of a file that is read.")[1], re.MULTILINE)
    assert sorted(name for name, _, _ in stated) == sorted(set(names) - THRESHOLDS)


def test_the_options_change_these_limits(stated: list[tuple[str, float, str]]) -> None:
    options = {name: option for name, _, option in stated if option}
    assert len(options) == 3
    for name, option in options.items():
        assert getattr(Sampling(), option.replace("-", "_")) == getattr(limits, name)


def test_the_tests_that_are_named_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text("utf-8").split("## Where each attack")[1]
    named = 0
    for cell in (cells[1] for cells in rows(text, 2)):
        for part in cell.split("; "):
            file, *names = re.findall(r"`([^`]+)`", part)
            path = ROOT / file if "/" in file else ROOT / "tests" / "security" / file
            source = path.read_text("utf-8")
            for name in names:
                assert f"def test_{name}(" in source, (file, name)
                named += 1
    assert named > 60


def test_the_counts_are_those_of_the_records() -> None:
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    results = ROOT / "benchmarks" / "results"
    fuzzed = json.loads((results / "robustness.json").read_text("utf-8"))
    assert f"--files {fuzzed['settings']['files']} --seed {fuzzed['settings']['seed']}" in text
    assert f"commit `{fuzzed['commit']}`" in text
    assert fuzzed["date"] in text
    names = ("container", "files", "reads", "answered", "refused", "over_limit", "crashed")
    expected = [[f"{row[name]:,}" if name != "container" else row[name] for name in names]
                for row in fuzzed["rows"]]  # fmt: skip
    assert [cells[:7] for cells in rows(text, 9)] == expected
    killed = json.loads((results / "kills.json").read_text("utf-8"))
    names = ("killed_while", "kills", "complete", "incomplete", "different")
    assert rows(text, 5) == [[str(row[name]) for name in names] for row in killed["rows"]]
    tried = json.loads((results / "checkpoint_values.json").read_text("utf-8"))
    assert f"{tried['date']}, commit `{tried['commit']}`" in text
    names = ("form", "file", "checkpoints", "answered", "refused", "over_limit", "crashed")
    assert rows(text, 7) == [[str(row[name]) for name in names] for row in tried["rows"]]
    large = json.loads((results / "large.json").read_text("utf-8"))
    assert f"{large['date']}, commit `{large['commit']}`" in text
    names = ("file", "ask", "caption")
    found = [[cells[0], cells[2], cells[5]] for cells in rows(text, 8)]
    assert found == [[row[name] for name in names] for row in large["rows"]]
