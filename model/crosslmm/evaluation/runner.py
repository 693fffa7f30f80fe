"""Accuracy on a JSONL of questions: each video is watched once and asked everything about it."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslmm.errors import CrossLMMError, OutOfMemory, UsageError
from crosslmm.evaluation.scoring import is_right
from crosslmm.files import atomic_write
from crosslmm.synthetic.questions import QUESTION_TYPES

if TYPE_CHECKING:
    from crosslmm.inference.assistant import Assistant
    from crosslmm.inference.session import VideoSession

MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Outcome:
    """One row with what was answered; with the `error`, and not right, where the video or the
    answering failed."""

    row: Mapping[str, Any]
    said: str
    right: bool
    error: str | None = None


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

    @property
    def failures(self) -> dict[str, str]:
        """Videos that could not be asked about, and why; their questions count as not right."""
        return {o.row["video"]: o.error for o in self.outcomes if o.error is not None}

    def summary(self) -> dict[str, Any]:
        """`{accuracy, count, types: {NAME: {accuracy, count}}, failures: {count, reasons}}`, ready for
        JSON; failures counts questions, and gives the reason by video."""
        return {
            "accuracy": round(self.accuracy, 4),
            "count": self.count,
            "types": {
                name: {"accuracy": round(part.accuracy, 4), "count": part.count}
                for name, part in self.types.items()
            },
            "failures": {
                "count": sum(outcome.error is not None for outcome in self.outcomes),
                "reasons": self.failures,
            },
        }


def read_questions(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL of questions, each with at least video, type, question and answer.

    Raises UsageError.
    """
    rows = []
    try:
        lines = path.read_text("utf-8").split("\n")  # JSON may hold the other ends of lines
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {number}: not JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number}: not a JSON object")
        missing = {"video", "type", "question", "answer"} - set(row)
        if missing:
            raise UsageError(f"{path}, line {number}: lacks {', '.join(sorted(missing))}")
        if row["type"] not in QUESTION_TYPES:
            raise UsageError(
                f"{path}, line {number}: type {row['type']!r} is not one of {', '.join(QUESTION_TYPES)}"
            )
        needed = {"when": "tolerance", "multiple_choice": "options"}.get(row["type"])
        if needed and needed not in row:
            raise UsageError(f"{path}, line {number}: lacks {needed}")
        if fault := _fault(row):
            raise UsageError(f"{path}, line {number}: {fault}")
        rows.append(row)
    if not rows:
        raise UsageError(f"{path}: holds no questions")
    return rows


def write_outcomes(report: Report, path: Path) -> None:
    """Every row with what was `said`, whether it was `right`, and any `error`, as JSONL."""
    lines = []
    for outcome in report.outcomes:
        row = {**outcome.row, "said": outcome.said, "right": outcome.right}
        if outcome.error is not None:
            row["error"] = outcome.error
        lines.append(json.dumps(row))
    atomic_write(path, "".join(f"{line}\n" for line in lines).encode())


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
    """Ask every row's question about its video, greedily; `watch_options` go to `Assistant.open_video`.

    A video that fails costs its own questions only; see `Report.failures`.
    """
    by_video: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_video.setdefault(row["video"], []).append(row)
    outcomes: list[Outcome] = []
    for video, asked in by_video.items():
        watched = None  # the last one's memory is needed
        try:
            watched = assistant.open_video(Path(video_folder) / video, **watch_options)
            answers = _answers(watched, [row["question"] for row in asked])
        except UsageError:
            raise
        except CrossLMMError as error:
            done = [Outcome(row, "", False, str(error)) for row in asked]
        else:
            done = [
                Outcome(row, said, score(row, said))
                for row, said in zip(asked, answers, strict=True)
            ]
        for outcome in done:
            outcomes.append(outcome)
            if on_row is not None:
                on_row(outcome)
    return Report(tuple(outcomes))


def _answers(watched: "VideoSession", questions: list[str]) -> list[str]:
    """All in one batch, or in halves where memory does not suffice for that."""
    try:
        return watched.ask_all(questions, max_new_tokens=MAX_NEW_TOKENS)
    except OutOfMemory:
        if len(questions) == 1:
            raise
    from crosslmm.inference.encoding import release_memory

    # Out here, since the exception's frames hold the memory that was taken.
    release_memory()
    middle = len(questions) // 2
    return _answers(watched, questions[:middle]) + _answers(watched, questions[middle:])


def _fault(row: Mapping[str, Any]) -> str | None:
    """What would keep a row from being asked or scored."""
    for name, kinds in (("video", str), ("question", str), ("answer", str | int | float)):
        if not isinstance(row[name], kinds) or not str(row[name]).strip():
            return f"{name} {row[name]!r} is empty or no text"
    try:
        row["question"].encode()
        scores = is_right(row, str(row["answer"])) and not is_right(row, "")
    except UnicodeEncodeError:
        return "the question is not valid Unicode"
    except (AttributeError, LookupError, TypeError, ValueError):
        scores = False
    return None if scores else f"answer {row['answer']!r} cannot be scored as {row['type']}"


def _share(outcomes: tuple[Outcome, ...]) -> float:
    return sum(outcome.right for outcome in outcomes) / len(outcomes) if outcomes else 0.0
