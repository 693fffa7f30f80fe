"""`crosslmm eval`: how many questions of a file a model answers rightly, by type."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosslmm.files import check_writable
from crosslmm_cli import options
from crosslmm_cli.loading import load_assistant
from crosslmm_cli.output import SOME_FAILED, Output

if TYPE_CHECKING:
    from crosslmm.evaluation.runner import Report


def evaluate(
    questions: Annotated[
        Path,
        typer.Argument(
            metavar="QUESTIONS", help="JSON lines as `crosslmm synth` writes them.", exists=True
        ),
    ],
    video_folder: Annotated[
        Path | None,
        typer.Option("--video-folder", help="Where the videos are; default: beside it."),
    ] = None,
    model: options.ModelOption = None,
    frames: options.FramesOption = None,
    quantize: options.QuantizeOption = "auto",
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "auto",
    answers: Annotated[
        Path | None, typer.Option("--answers", help="Write every answer here, as JSON lines.")
    ] = None,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Ask a file's questions and count the right answers, by question type.

    A video that cannot be read costs its own questions, and the exit code is 3.
    """
    output = Output(as_json=as_json, quiet=quiet)
    if answers is not None:
        check_writable(answers)
    from crosslmm.evaluation.runner import evaluate as run
    from crosslmm.evaluation.runner import write_answers
    from crosslmm.evaluation.tasks.questions import read_questions

    rows = read_questions(questions)
    assistant = load_assistant(
        output, model=model, device=device, dtype=dtype, quantize=quantize, tokens_per_frame=None
    )
    done = 0

    def count(_: object) -> None:
        nonlocal done
        done += 1
        output.progress("asking", done, len(rows))

    report = run(rows, assistant, video_folder or questions.parent, frames=frames, on_row=count)
    output.finish_progress()
    for video, why in report.failures.items():
        output.notice(f"{video}: {why}")
    if as_json:
        how = {**assistant.settings, "frames": frames or assistant.default_frames,
               "tokens_per_frame": assistant.tokens_per_frame}  # fmt: skip
        output.record(
            {
                **report.summary(),
                "model": assistant.name,
                "settings": how,
                "versions": assistant.versions,
            }
        )
    else:
        output.table(_table(report), right=(1, 2))
    if answers is not None:
        write_answers(report, answers)
    if report.failures:
        output.notice(f"{len(report.failures)} videos failed; their questions count as not right")
        raise typer.Exit(SOME_FAILED)


def _table(report: "Report") -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("type", "right", "count")]
    parts = sorted(report.types.items())
    table += [(name, f"{part.accuracy:.1%}", f"{part.count:,}") for name, part in parts]
    table.append(("all", f"{report.accuracy:.1%}", f"{report.count:,}"))
    return table
