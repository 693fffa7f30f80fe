"""`crosslmm eval`: a model's accuracy on a file of questions, by question type."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crosslmm.cost.chart import check_chart_path
from crosslmm.errors import UsageError
from crosslmm.evaluation.tasks import TASKS, get_task
from crosslmm.files import check_writable
from crosslmm_cli import completion, options
from crosslmm_cli.amounts import counted
from crosslmm_cli.errors import SOME_FAILED
from crosslmm_cli.loading import load_assistant
from crosslmm_cli.merge_table import merge_budgets, merge_ways, show_merge_table
from crosslmm_cli.merging import NONE, Merging, choose_merging
from crosslmm_cli.output import Output

if TYPE_CHECKING:
    from crosslmm.evaluation.runner import Report


def evaluate(
    questions: Annotated[
        Path,
        typer.Argument(
            metavar="QUESTIONS",
            help="File in the task's format; for `questions`, as `crosslmm synth` writes it.",
            exists=True,
        ),
    ],
    video_folder: Annotated[
        Path | None,
        typer.Option(
            "--video-folder",
            metavar="DIR",
            help="Folder of the videos.",
            show_default="the folder of QUESTIONS",
        ),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            metavar="NAME",
            autocompletion=completion.tasks,
            help=f"Benchmark: how questions are read and scored ({', '.join(TASKS)}).",
        ),
    ] = "questions",
    model: options.ModelOption = None,
    frames: options.FramesOption = None,
    tokens_per_frame: Annotated[
        Any,
        typer.Option(
            "--tokens-per-frame",
            parser=options.numbers,
            metavar="N,N",
            help="Merged tokens per frame; several make a table.",
            show_default="the checkpoint's own",
        ),
    ] = None,
    merge: options.MergersOption = None,
    keep: options.SharesOption = None,
    quantize: options.QuantizeOption = "auto",
    feature_bits: options.FeatureBitsOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "auto",
    answers: Annotated[
        Path | None,
        typer.Option("--answers", metavar="FILE", help="Write every answer to this JSONL file."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Of the needle test, draw accuracy by length and depth (.png, .svg or .pdf).",
        ),
    ] = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Measure a model's accuracy on a file of questions, by question type.

    Questions about a video that cannot be decoded count as wrong; the exit code is then 3.
    """
    output = Output(as_json=as_json, quiet=quiet, progress=not no_progress)
    if answers is not None:
        check_writable(answers)
    if plot is not None:
        check_chart_path(plot)
    from crosslmm.evaluation.runner import evaluate as run
    from crosslmm.evaluation.runner import is_needle, write_answers

    chosen = get_task(task)
    rows = chosen.read(questions)
    if plot is not None and not all(map(is_needle, rows)):
        raise UsageError("--plot is for the needle test: these questions have no length and depth")
    counts: list[int] = tokens_per_frame or []
    merges = [] if merge == NONE else options.listed(merge)
    ways = merge_ways(merges, counts=counts, keep=options.listed(keep))
    table = bool(merges) or len(counts) > 1
    one = Merging(tokens_per_frame=None, merge=None, keep=None)
    if not table:
        count = counts[0] if counts else None
        one = choose_merging(output, model, tokens_per_frame=count, merge=merge, keep=keep)
    assistant = load_assistant(
        output,
        model=model,
        device=device,
        dtype=dtype,
        quantize=quantize,
        feature_bits=feature_bits,
        **one,
    )
    if table:
        for flag, given in (("--answers", answers), ("--plot", plot)):
            if given is not None:
                raise UsageError(f"{flag} needs one way to merge, not a table of several")
        budgets = merge_budgets(assistant, ways)
        folder = video_folder or questions.parent
        show_merge_table(output, assistant, rows, folder, budgets, task=chosen, frames=frames)
        return
    done = 0

    def on_row(_: object) -> None:
        nonlocal done
        done += 1
        output.progress("evaluating", done, len(rows))

    output.finish_progress()
    output.progress("evaluating", 0, len(rows))
    folder = video_folder or questions.parent
    report = run(rows, assistant, folder, task=chosen, frames=frames, on_row=on_row)
    output.finish_progress()
    for video, why in report.failures.items():
        output.notice(f"{video}: {why}")
    if as_json:
        settings = {
            **assistant.settings,
            "frames": frames or assistant.default_frames,
            **assistant.runtime.budget.settings,
        }
        output.record(
            {
                **report.summary(),
                "task": task,
                "model": assistant.name,
                "settings": settings,
                "versions": assistant.versions,
            }
        )
    else:
        output.table(_table(report), right=(1, 2))
        if report.depths:
            output.text("")
            depths = _depth_table(report)
            output.table(depths, right=range(1, len(depths[0])))
    if answers is not None:
        write_answers(report, answers)
    if plot is not None:
        from crosslmm.evaluation.heat_map import draw_heat_map  # Matplotlib

        count = frames or assistant.default_frames
        draw_heat_map(plot, report, title=f"{assistant.name}, {count} frames")
        output.notice(f"wrote {plot}")
    if report.failures:
        videos = counted(len(report.failures), "video")
        output.notice(f"{videos} could not be decoded; those questions count as wrong")
        raise typer.Exit(SOME_FAILED)


def _table(report: "Report") -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("type", "accuracy", "questions")]
    parts = sorted(report.types.items())
    table += [(name, f"{part.accuracy:.1%}", f"{part.count:,}") for name, part in parts]
    table.append(("all", f"{report.accuracy:.1%}", f"{report.count:,}"))
    return table


def _depth_table(report: "Report") -> list[tuple[str, ...]]:
    """The needle test: a line for each length, a column for each depth."""
    depths = sorted({depth for _, depth in report.depths})
    table: list[tuple[str, ...]] = [("frames", *(f"at {depth:.0%}" for depth in depths), "all")]
    for length in dict.fromkeys(length for length, _ in report.depths):
        parts = [report.depths.get((length, depth)) for depth in depths]
        cells = ["" if part is None else f"{part.accuracy:.0%}" for part in parts]
        known = [part for part in parts if part is not None]
        right = sum(part.accuracy * part.count for part in known)
        table.append((f"{length:,}", *cells, f"{right / sum(part.count for part in known):.1%}"))
    return table
