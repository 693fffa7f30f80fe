"""What a benchmark is: rows of questions, how they are read, and how an answer is scored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

# At least `video`, a path below the folder of the videos; `type`, what results are grouped by; and
# `question`. The rest is the task's own, and is kept in what is written.
QuestionRow = Mapping[str, Any]


class Task(Protocol):
    """A benchmark: `name` in the registry; `max_new_tokens`, the longest answer that it needs."""

    name: str
    max_new_tokens: int

    def read(self, path: Path) -> list[QuestionRow]:
        """The rows of a file, all of which can be asked and scored. Raises UsageError."""

    def score(self, row: QuestionRow, said: str) -> bool:
        """Whether `said` answers the row."""
