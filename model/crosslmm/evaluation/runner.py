"""Accuracy on a task: each video is prefilled once and asked every question about it."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from crosslmm.errors import CrossLMMError, ModelError, OutOfMemory, UsageError
from crosslmm.evaluation.tasks import QuestionRow, Task, get_task
from crosslmm.files import atomic_write

if TYPE_CHECKING:
    from crosslmm.inference.assistant import Assistant
    from crosslmm.inference.opening import VideoKeywords
    from crosslmm.inference.session import VideoSession


@dataclass(frozen=True)
class ScoredAnswer:
    """One row with what was answered; with the `error`, and not right, where the video or the
    answering failed."""

    row: QuestionRow
    said: str
    right: bool
    error: str | None = None


@dataclass(frozen=True)
class Report:
    """Every question asked, and how it was answered; `accuracy` is over all of them, `types` by
    question type, `depths` of the needle test by length and depth."""

    answers: tuple[ScoredAnswer, ...]

    @property
    def count(self) -> int:
        return len(self.answers)

    @property
    def accuracy(self) -> float:
        return sum(answer.right for answer in self.answers) / max(self.count, 1)

    @property
    def types(self) -> dict[str, "Report"]:
        return self._grouped(lambda row: row["type"])

    @property
    def depths(self) -> "dict[tuple[int, float], Report]":
        """By the length of a clip in frames and the depth of what is asked about, 0 to 1; empty where
        some rows are of another test."""
        if not all(is_needle(answer.row) for answer in self.answers):
            return {}
        found = self._grouped(lambda row: (row["length"], row["depth"]))
        return dict(sorted(found.items()))

    @property
    def failures(self) -> dict[str, str]:
        """Videos that could not be asked about, and why; their questions count as not right."""
        return {each.row["video"]: each.error for each in self.answers if each.error is not None}

    def summary(self) -> dict[str, Any]:
        """`{accuracy, count, types: {NAME: {accuracy, count}}, failures: {count, reasons}}`, ready for
        JSON; failures counts questions, and gives the reason by video. Of the needle test also `depths`:
        `[{length, depth, accuracy, count}]`."""
        summary: dict[str, Any] = {
            "accuracy": round(self.accuracy, 4),
            "count": self.count,
            "types": {
                name: {"accuracy": round(part.accuracy, 4), "count": part.count}
                for name, part in self.types.items()
            },
            "failures": {
                "count": sum(answer.error is not None for answer in self.answers),
                "reasons": self.failures,
            },
        }
        if self.depths:
            summary["depths"] = [
                {
                    "length": length,
                    "depth": depth,
                    "accuracy": round(part.accuracy, 4),
                    "count": part.count,
                }
                for (length, depth), part in self.depths.items()
            ]
        return summary

    def _grouped(self, key: Callable[[QuestionRow], Any]) -> "dict[Any, Report]":
        groups: dict[Any, list[ScoredAnswer]] = {}
        for answer in self.answers:
            groups.setdefault(key(answer.row), []).append(answer)
        return {name: Report(tuple(answers)) for name, answers in groups.items()}


def is_needle(row: QuestionRow) -> bool:
    """Whether a question says how long its clip is, and at which depth what it asks about."""
    length, depth = row.get("length"), row.get("depth", -1)
    return type(length) is int and isinstance(depth, int | float) and 0 <= depth <= 1


def evaluate(
    rows: Iterable[QuestionRow],
    assistant: "Assistant",
    video_folder: Path,
    *,
    task: Task | None = None,
    on_row: Callable[[ScoredAnswer], None] | None = None,
    on_session: "Callable[[VideoSession], None] | None" = None,
    **video_options: "Unpack[VideoKeywords]",
) -> Report:
    """Ask every row's question about its video, greedily; `video_options` go to
    `Assistant.open_video`. `task` is `questions` unless given.

    `on_session` is called with each video that was prefilled. A video that fails costs its own
    questions only; see `Report.failures`.
    """
    task = task or get_task("questions")
    by_video: dict[str, list[QuestionRow]] = {}
    for row in rows:
        by_video.setdefault(row["video"], []).append(row)
    answers: list[ScoredAnswer] = []
    for video, asked in by_video.items():
        session = None  # frees the memory of the last one
        try:
            session = assistant.open_video(Path(video_folder) / video, **video_options)
            if on_session is not None:
                on_session(session)
            texts = _ask(session, [row["question"] for row in asked], task.max_new_tokens)
        except UsageError:
            raise
        except CrossLMMError as error:
            scored = [ScoredAnswer(row, "", False, str(error)) for row in asked]
        else:
            scored = [
                ScoredAnswer(row, "", False, str(said))
                if isinstance(said, ModelError)
                else ScoredAnswer(row, said, task.score(row, said))
                for row, said in zip(asked, texts, strict=True)
            ]
        for answer in scored:
            answers.append(answer)
            if on_row is not None:
                on_row(answer)
    return Report(tuple(answers))


def write_answers(report: Report, path: Path) -> None:
    """Every row with what was `said`, whether it was `right`, and any `error`, as JSONL."""
    lines = []
    for answer in report.answers:
        row = {**answer.row, "said": answer.said, "right": answer.right}
        if answer.error is not None:
            row["error"] = answer.error
        lines.append(json.dumps(row))
    atomic_write(path, "".join(f"{line}\n" for line in lines).encode())


def _ask(
    session: "VideoSession", questions: list[str], max_new_tokens: int
) -> list[str | ModelError]:
    """All in one batch, or in halves where memory does not suffice for that, or one has no answer."""
    try:
        return [*session.ask_all(questions, max_new_tokens=max_new_tokens)]
    except ModelError as error:
        if len(questions) == 1:
            return [error.with_traceback(None)]
    except OutOfMemory:
        if len(questions) == 1:
            raise
    from crosslmm.inference.encoding import release_memory

    # Out here, since the exception's frames hold the memory that was taken.
    release_memory()
    middle = len(questions) // 2
    halves = questions[:middle], questions[middle:]
    return [text for half in halves for text in _ask(session, half, max_new_tokens)]
