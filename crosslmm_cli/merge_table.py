"""The merge table of `crosslmm eval --merge`: methods of merging side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from crosslmm.errors import UsageError
from crosslmm.merging import MERGERS, TokenBudget, check_merging
from crosslmm_cli.errors import SOME_FAILED
from crosslmm_cli.output import Output

if TYPE_CHECKING:
    from crosslmm.evaluation.mergers import MergeRow


def merge_ways(
    merges: Sequence[str],
    *,
    counts: Sequence[int],
    keep: Sequence[str],
    patches: int | None = None,
) -> list[dict[str, Any]]:
    """Every method with every budget, as arguments of `choose_budget`. patches: of a frame, where
    known. Raises UsageError."""
    if keep and counts:
        raise UsageError("--keep and --tokens-per-frame exclude each other: give one of them")
    budgets: list[dict[str, Any]] = [{"tokens_per_frame": count} for count in counts]
    budgets += [{"keep": share} for share in keep]
    methods: list[str | None] = [*merges] or [None]
    ways = [{"merge": merge, **budget} for budget in budgets or [{}] for merge in methods]
    for way in ways:
        check_merging(methods=MERGERS, patches=patches, error=UsageError, **way)
    return ways


def merge_budgets(assistant: Any, ways: Sequence[dict[str, Any]]) -> list[TokenBudget]:
    """All tokens of the checkpoint, then each way to make fewer. Raises UsageError."""
    chosen = [assistant.runtime.choose_budget(**way) for way in ways]
    return [TokenBudget(assistant.model.config.tokens_per_frame), *chosen]


def show_merge_table(
    output: Output,
    assistant: Any,
    rows: Sequence[Any],
    folder: Path,
    budgets: Sequence[TokenBudget],
    *,
    task: Any,
    frames: int | None,
) -> None:
    """Run every budget, and print a row of each, as JSON as it is done."""
    from crosslmm.evaluation.mergers import compare_mergers

    done = 0

    def on_row(_: object) -> None:
        nonlocal done
        done += 1
        output.progress("evaluating", done, len(rows) * len(budgets))

    output.finish_progress()
    output.progress("evaluating", 0, len(rows) * len(budgets))
    found = []
    failures: dict[str, str] = {}
    for row in compare_mergers(
        rows, assistant, folder, budgets, task=task, frames=frames, on_row=on_row
    ):
        found.append(row)
        failures |= row.report.failures
        if output.as_json:
            output.record(
                {**row.as_dict(), "model": assistant.name, "settings": assistant.settings}
            )
    output.finish_progress()
    for video, why in failures.items():
        output.notice(f"{video}: {why}")
    if not output.as_json:
        output.table([_HEAD, *map(_cells, found)], right=range(2, len(_HEAD)))
    if failures:
        output.notice("videos could not be decoded; those questions count as wrong")
        raise typer.Exit(SOME_FAILED)


_HEAD = ("merge", "budget", "accuracy", "95 %", "tokens", "encode, s", "prefill, s")


def _cells(row: "MergeRow") -> tuple[str, ...]:
    budget = row.budget
    low, high = row.interval
    if budget.keep is not None:
        wanted = str(budget.keep)
    else:
        wanted = f"{budget.tokens_per_frame or budget.pooled} per frame"
    return (
        budget.merge or "none",
        wanted,
        f"{row.report.accuracy:.1%}",
        f"{low:.1%}-{high:.1%}",
        f"{row.kept:,.0f}",
        f"{row.encode:.3g}",
        f"{row.prefill:.3g}",
    )
