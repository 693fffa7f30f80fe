"""Help speaks of videos and questions, not of Python's types, and fits its terminal."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any

import pytest
import typer

from crosslmm_cli.commands import COMMANDS, Command, load
from tests.conftest import Finished

Run = Callable[..., Finished]

LINES: list[tuple[str, ...]] = [("--help",)]
for _name in COMMANDS:
    LINES.append((_name, "--help"))
    LINES += [(_name, each, "--help") for each in getattr(load(_name, rich=False), "commands", {})]


@pytest.mark.parametrize("columns", [80, 100, 120])
@pytest.mark.parametrize("rich", [False, True], ids=["plain", "rich"])
@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_no_python_and_no_long_lines(
    run: Run, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...], rich: bool, columns: int
) -> None:
    monkeypatch.setattr("crosslmm_cli.main.supports_ansi", lambda stream: rich)
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", columns)
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = run(*line)
    assert shown.code == 0
    usage = next(line for line in shown.out.splitlines() if "Usage:" in line)
    assert "{" not in usage
    for text in (r"<\S", r"list\[", r"\bbool\b", r"\bstr\b", r"\bx\s*[<>]", r"[<>]="):
        assert not re.search(text, shown.out)
    examples = shown.out.partition("Examples:")[0]  # commands, which are not broken
    assert max(map(len, examples.splitlines())) <= columns
    assert max(map(len, shown.out.splitlines())) <= max(columns, 100)
    prose = shown.out.partition(usage)[2].partition("╭" if rich else ":\n")[0].splitlines()
    for upper, lower in pairwise(prose):  # no line ends where the source's did
        if upper.strip() and lower.strip():
            assert len(f"{upper.rstrip()} {lower.split()[0]}") >= min(columns, 80) - 2


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(1, None, "at least 1"), (None, 0.5, "at most 0.5"), (0.0, 9, "0 to 9"), (None, None, "")],
)
def test_ranges_in_words(low: float | None, high: float | None, words: str) -> None:
    app = typer.Typer(add_completion=False)

    @app.command(cls=Command)
    def count(number: Annotated[float, typer.Option(min=low, max=high)] = 0) -> None: ...

    help_of = typer.main.get_command(app).params[0].get_help_record
    record = help_of(typer.Context(typer.main.get_command(app)))
    assert record is not None
    assert record[1] == f"[default: 0{'; ' * bool(words)}{words}]"


def test_defaults_as_they_are_written(run: Run) -> None:
    text = " ".join(run("ask", "--help").out.split())
    for shown in ("the fastest available", "10GB", "0", "14400"):
        assert re.search(rf"\[default: {shown}[];]", text), shown


def test_panels_by_theme_on_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosslmm_cli.main.supports_ansi", lambda stream: True)
    shown = run("ask", "--help").out
    titles = [line.split()[1] for line in shown.splitlines() if line.startswith("╭─")]
    assert titles == ["Arguments", "Model", "Video", "Answer", "Output"]
    video = shown[shown.index("─ Video") : shown.index("─ Answer")]
    assert "--start" in video
    assert "--model" not in video
    assert "Usage: crosslmm ask [OPTIONS] VIDEO [QUESTION...]" in shown


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["ask", "--model", "d"], {"demo"}),
        (["models", "show", "d"], {"demo"}),
        (["models", "init", "cross"], {"crosslmm-2b", "crosslmm-7b"}),
        (["profile", "--model", "crosslmm-7"], {"crosslmm-7b"}),
        (["train", "align"], {"align-2b", "align-7b"}),
        (["caption", "--format", "j"], {"jsonl"}),
    ],
)
def test_completion_of_values(words: list[str], completed: set[str]) -> None:
    environment: dict[str, Any] = {
        **os.environ,
        "_CROSSLMM_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["crosslmm", *words]),
        "COMP_CWORD": str(len(words)),
    }
    code = (
        "import sys; sys.argv = ['crosslmm']; from crosslmm_cli.main import execute; execute([])\n"
        "assert 'torch' not in sys.modules"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert finished.stderr == ""
    assert set(finished.stdout.split()) == completed
