"""The merge table: accuracy and cost of merging methods at several budgets, on the same questions."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from crosslmm.evaluation.runner import Report, ScoredAnswer, evaluate
from crosslmm.evaluation.tasks import QuestionRow, Task
from crosslmm.merging import TokenBudget

if TYPE_CHECKING:
    from crosslmm.inference.assistant import Assistant
    from crosslmm.inference.session import VideoSession


@dataclass(frozen=True)
class MergeRow:
    """One method at one budget. `kept` tokens, `encode` and `prefill` seconds are means over the videos;
    encoding includes merging."""

    budget: TokenBudget
    report: Report
    kept: float
    encode: float
    prefill: float

    @property
    def interval(self) -> tuple[float, float]:
        """Of the accuracy, 95 %."""
        right = sum(answer.right for answer in self.report.answers)
        return wilson_interval(right, self.report.count)

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.budget.settings,
            "accuracy": round(self.report.accuracy, 4),
            "interval": [round(end, 4) for end in self.interval],
            "count": self.report.count,
            "kept_tokens": round(self.kept, 1),
            "encode_seconds": round(self.encode, 4),
            "prefill_seconds": round(self.prefill, 4),
        }


def compare_mergers(
    rows: Sequence[QuestionRow],
    assistant: "Assistant",
    video_folder: Path,
    budgets: Sequence[TokenBudget],
    *,
    task: Task | None = None,
    frames: int | None = None,
    on_row: Callable[[ScoredAnswer], None] | None = None,
) -> Iterator[MergeRow]:
    """Every budget on all rows, one after another; see `evaluate`."""

    def measure(budget: TokenBudget) -> MergeRow:
        sessions: list[tuple[int, float, float]] = []

        def note(session: "VideoSession") -> None:
            timing = session.timing
            sessions.append((session.visual_tokens, timing.encode, timing.prefill))

        options: Any = budget.settings
        report = evaluate(
            rows,
            assistant,
            video_folder,
            task=task,
            on_row=on_row,
            on_session=note,
            frames=frames,
            **options,
        )
        kept, encode, prefill = map(fmean, zip(*sessions or [(0, 0.0, 0.0)], strict=True))
        return MergeRow(budget, report, kept, encode, prefill)

    yield from map(measure, budgets)


def wilson_interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share by Wilson's score, 95 % by default; (0, 1) of nothing."""
    if not count:
        return 0.0, 1.0
    share = right / count
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    return max(middle - half, 0.0), min(middle + half, 1.0)
