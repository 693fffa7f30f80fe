"""Accuracy on a JSONL of questions: each video is watched once and asked everything about it."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslmm.errors import UsageError
from crosslmm.synthetic.answers import is_right

if TYPE_CHECKING:
    from crosslmm.assistant import Assistant

MAX_NEW_TOKENS = 160


@dataclass(frozen=True)
class Outcome:
    """One row with what was answered."""

    row: Mapping[str, Any]
    said: str
    right: bool


@dataclass(frozen=True)
class Report:
    """Everything asked, and how it went; `accuracy` is over all rows, `types` by question type."""

    outcomes: tuple[Outcome, ...]

    @property
    def count(self) -> int:
        return len(self.outcomes)

    @property
    def accuracy(self) -> float:
        return _share(self.outcomes)

    @property
    def types(self) -> dict[str, "Report"]:
        names = dict.fromkeys(outcome.row["type"] for outcome in self.outcomes)
        return {
            name: Report(tuple(o for o in self.outcomes if o.row["type"] == name)) for name in names
        }

    def summary(self) -> dict[str, Any]:
        """`{accuracy, count, types: {NAME: {accuracy, count}}}`, ready for JSON."""
        return {
            "accuracy": round(self.accuracy, 4),
            "count": self.count,
            "types": {
                name: {"accuracy": round(part.accuracy, 4), "count": part.count}
                for name, part in self.types.items()
            },
        }


def read_questions(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL of questions, each with at least id, video, type, question and answer.

    Raises UsageError.
    """
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number}: not JSON ({error.msg})") from None
        missing = {"video", "type", "question", "answer"} - set(row)
        if missing:
            raise UsageError(f"{path}, line {number}: lacks {', '.join(sorted(missing))}")
        rows.append(row)
    if not rows:
        raise UsageError(f"{path}: holds no questions")
    return rows


def write_outcomes(report: Report, path: Path) -> None:
    """Every row with what was `said` and whether it was `right`, as JSONL."""
    lines = [json.dumps({**o.row, "said": o.said, "right": o.right}) for o in report.outcomes]
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text("\n".join(lines) + "\n", "utf-8")
    os.replace(scratch, path)


def score(row: Mapping[str, Any], said: str) -> bool:
    """Whether `said` answers `row`."""
    return is_right(row, said)


def evaluate(
    rows: Iterable[Mapping[str, Any]],
    assistant: "Assistant",
    video_folder: Path,
    *,
    on_row: Callable[[Outcome], None] | None = None,
    **watch_options: Any,
) -> Report:
    """Ask every row's question about its video, greedily; `watch_options` go to `Assistant.watch`."""
    outcomes: list[Outcome] = []
    for video, group in groupby(rows, key=lambda row: row["video"]):
        asked = list(group)
        watched = assistant.watch(Path(video_folder) / video, **watch_options)
        questions = [row["question"] for row in asked]
        answers = watched.ask_all(questions, max_new_tokens=MAX_NEW_TOKENS)
        for row, said in zip(asked, answers, strict=True):
            outcomes.append(Outcome(row, said, score(row, said)))
            if on_row is not None:
                on_row(outcomes[-1])
    return Report(tuple(outcomes))


def _share(outcomes: tuple[Outcome, ...]) -> float:
    return sum(outcome.right for outcome in outcomes) / len(outcomes) if outcomes else 0.0
