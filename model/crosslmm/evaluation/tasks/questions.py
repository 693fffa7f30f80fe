"""JSON lines of questions with exact answers, as `crosslmm synth` writes them."""

from pathlib import Path
from typing import Any

from crosslmm.errors import UsageError
from crosslmm.evaluation.scoring import is_right
from crosslmm.evaluation.tasks.task import QuestionRow
from crosslmm.files import parse_json, read_text
from crosslmm.synthetic.questions import QUESTION_TYPES

_FORMS = (
    "; each line is a JSON object with video, type, question and answer, as `crosslmm synth` writes "
    "them, and options for multiple_choice or tolerance for when"
)
_COLUMNS = {"video", "type", "question", "answer"}
_COLUMNS_OF_TYPES = {"when": "tolerance", "multiple_choice": "options"}


class Questions:
    """Each row has at least video, type, question and answer."""

    name = "questions"
    max_new_tokens = 1024  # the built-in model lists 32 frames before it answers

    def read(self, path: Path) -> list[QuestionRow]:
        return read_questions(path)

    def score(self, row: QuestionRow, said: str) -> bool:
        return is_right(row, said)


def read_questions(path: Path) -> list[QuestionRow]:
    """The rows of a JSONL of questions. Raises UsageError, which names the line."""
    rows: list[QuestionRow] = []
    try:
        lines = read_text(path).split("\n")  # JSON may hold the other ends of lines
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            reason = getattr(error, "msg", error)
            raise UsageError(f"{path}, line {number}: not JSON ({reason}){_FORMS}") from None
        if fault := _fault(row):
            raise UsageError(f"{path}, line {number}: {fault}")
        rows.append(row)
    if not rows:
        raise UsageError(f"{path}: holds no questions")
    return rows


def _fault(row: Any) -> str | None:
    """What would keep a row from being asked or scored."""
    if not isinstance(row, dict):
        return f"not a JSON object{_FORMS}"
    if missing := _COLUMNS - set(row):
        return f"lacks {', '.join(sorted(missing))}{_FORMS}"
    kind = row["type"]
    if kind not in QUESTION_TYPES:
        return f"type {kind!r} is not one of {', '.join(QUESTION_TYPES)}"
    needed = _COLUMNS_OF_TYPES.get(kind)
    if needed and needed not in row:
        return f"lacks {needed}"
    if needed == "tolerance" and not _is_seconds(row[needed]):
        return f"tolerance {row[needed]!r} is not a number of seconds of at least 0"
    for name, types in (("video", str), ("question", str), ("answer", str | int | float)):
        if not isinstance(row[name], types) or not str(row[name]).strip():
            return f"{name} {row[name]!r} is empty or no text"
    try:
        row["question"].encode()
        scores = is_right(row, str(row["answer"])) and not is_right(row, "")
    except UnicodeEncodeError:
        return "the question is not valid Unicode"
    except (AttributeError, LookupError, TypeError, ValueError):
        scores = False
    return None if scores else f"answer {row['answer']!r} cannot be scored as {kind}"


def _is_seconds(value: Any) -> bool:
    """Infinity and NaN, which Python reads in JSON, are none: any answer is right within the former."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < 1e9
