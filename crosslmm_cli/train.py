"""`crosslmm train`: train a model by a recipe."""

from contextlib import ExitStack
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crosslmm.checkpoints import catalog
from crosslmm.errors import UsageError
from crosslmm_cli import completion, interrupt, options
from crosslmm_cli.amounts import counted
from crosslmm_cli.output import Output

if TYPE_CHECKING:
    from crosslmm.training.answers import AnswerProgress
    from crosslmm.training.run import RunPlan
    from crosslmm.training.trainer import TrainingProgress

_RESUMES = "the same command resumes the run from its last checkpoint, if one has been saved"
_KEEPS = "the teacher's answers so far are kept; "


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            autocompletion=completion.training_recipes,
            help="align-2b, tune-2b, align-7b, tune-7b, distill, a YAML file; demo, which trains the "
            "built-in model from scratch, or demo-teacher, which makes a teacher for distill of it.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="Folder of the run; an interrupted run resumes there."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            autocompletion=completion.model_names,
            help="Model to start from: a folder or a Hub id. For distill, the teacher unless given.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FILE", help="LLaVA JSON, JSON lines, or a YAML mix of such files."
        ),
    ] = None,
    eval_data: Annotated[
        Path | None,
        typer.Option(
            "--eval-data",
            metavar="FILE",
            help="Evaluate on this data during training; for distill, on a folder of videos.",
        ),
    ] = None,
    video_folder: Annotated[
        Path | None,
        typer.Option(
            "--video-folder",
            metavar="DIR",
            help="Folder that paths in the data are relative to.",
            show_default="the folder of the data file",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="MODEL",
            autocompletion=completion.model_names,
            help="distill: the model whose answers are learned, such as LLaVA-OneVision.",
        ),
    ] = None,
    videos: Annotated[
        Path | None,
        typer.Option("--videos", metavar="DIR", help="distill: folder of videos, without labels."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="distill: what the teacher is asked, one prompt per line.",
            show_default="50 general prompts",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a recipe option (repeatable); those of the demo have seed and short.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be trained, then exit.")
    ] = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Train a model with the paper's two stages or your own recipe."""
    output = Output(as_json=as_json, quiet=quiet, progress=not no_progress)
    if recipe in completion.DEMO_RECIPES:
        if model or data or eval_data or video_folder or dry_run or teacher or videos or prompts:
            raise UsageError(
                f"{recipe}: trains on generated data; besides --out it takes only --set"
            )
        _train_demo(output, out, changes or [], recipe)
        return
    from crosslmm.training.recipe import load_recipe

    if not Path(recipe).is_file() and recipe not in (names := completion.training_recipes("")):
        close = get_close_matches(recipe, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
        raise UsageError(f"{recipe}: neither a file nor a recipe; {hint}")
    chosen = load_recipe(recipe, changes or [])
    if chosen.stage == "distill":
        if data or video_folder:
            raise UsageError(f"{recipe}: takes videos, by --videos, in place of --data")
        if teacher is None or videos is None:
            raise UsageError(
                f"{recipe}: needs --teacher, a model, and --videos, a folder of videos"
            )
        model, data = model or teacher, videos
    elif teacher or videos or prompts:
        raise UsageError("--teacher, --videos and --prompts are for the distill stage")
    elif model is None or data is None:
        raise UsageError(
            f"{recipe}: needs --model, the model to start from, and --data, the training data"
        )
    _check_given(model, data, eval_data, prompts)
    output.progress("load", 0, 0)
    from crosslmm.training.run import train as run

    with ExitStack() as remarks:

        def begin(plan: "RunPlan") -> None:
            _show_plan(output, plan)
            if not dry_run:
                kept = _KEEPS if chosen.distill else ""
                remarks.enter_context(interrupt.remark(kept + _RESUMES))

        trained = run(
            chosen,
            model=model,
            data=data,
            out=out,
            eval_data=eval_data,
            media_folder=video_folder,
            teacher=teacher,
            prompts=prompts,
            on_start=begin,
            on_answers=lambda progress: _show_answers(output, progress),
            on_progress=lambda progress: _show_progress(output, progress),
            dry_run=dry_run,
        )
    output.finish_progress()
    if trained is None:
        return
    if trained.skipped:
        output.notice(f"{counted(trained.skipped, 'sample')} skipped; see {out / 'skipped.jsonl'}")
    if chosen.distill and chosen.distill.merge:
        output.notice(
            f"its tokens were merged in training: ask it with --merge {chosen.distill.merge} and "
            "--tokens-per-frame"
        )
    if as_json:
        output.record({**vars(trained), "folder": str(trained.folder)})
    else:
        output.text(str(trained.folder))


def _check_given(model: str, *files: Path | None) -> None:
    """What is missing is said before torch is imported."""
    catalog.resolve(model)
    for path in files:
        is_pattern = path is not None and "{" in str(path)
        if path is not None and not is_pattern and not path.exists():
            raise UsageError(f"{path}: no such file or folder")


def _show_plan(output: Output, plan: "RunPlan") -> None:
    output.finish_progress()
    recipe = plan.recipe
    counts = [(str(part.name), part.trained, part.total) for part in plan.parts]
    counts.append(("total", sum(count[1] for count in counts), sum(count[2] for count in counts)))
    rows = [(name, f"{trained:,}", f"{total:,}") for name, trained, total in counts]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    output.notice(f"stage {recipe.stage}: trainable parameters")
    for name, trained, total in rows:
        output.notice(f"  {name:<{widths[0]}}  {trained:>{widths[1]}}  of {total:>{widths[2]}}")
    output.notice(
        f"{counted(plan.samples, 'sample')}, {counted(plan.steps, 'step')}, batch size "
        f"{recipe.batch_size} ({recipe.device_batch_size} per device × {plan.accumulation} accumulation "
        f"steps × {plan.devices} {plan.device.partition(':')[0]}), computed in {recipe.precision}"
    )
    if plan.eval_samples:
        every = counted(recipe.evaluate_every, "step")
        output.notice(f"evaluated on {counted(plan.eval_samples, 'sample')} after every {every}")
    for note in plan.notes:
        output.notice(note)
    if plan.resumed_at >= plan.steps:
        output.notice("already complete")
    elif plan.resumed_at:
        output.notice(f"resuming from step {plan.resumed_at:,}")


def _show_answers(output: Output, progress: "AnswerProgress") -> None:
    output.progress("answers", progress.done, progress.total, label="the teacher answers")
    if progress.done == progress.total:
        output.finish_progress()
    if progress.cut:
        output.notice(
            f"{progress.cut:,} of {progress.total:,} answers of the teacher were cut: "
            "`--set distill.answer_tokens=N` allows longer ones, in another run"
        )


def _show_progress(output: Output, progress: "TrainingProgress") -> None:
    line = [f"step {progress.step:,} of {progress.steps:,}"]
    if progress.loss is not None:
        line.append(f"loss {progress.loss:.4f}")
    if progress.eval_loss is not None:
        line.append(f"evaluation loss {progress.eval_loss:.4f}")
    if progress.learning_rate is not None:
        line.append(f"learning rate {progress.learning_rate:.2e}")
    for branch, values in progress.gates.items():
        if values:
            line.append(f"largest {branch.upper()} gate {max(map(abs, values)):.3f}")
    if progress.skipped:
        line.append(f"{progress.skipped:,} skipped")
    output.notice(", ".join(line))
    output.progress("training", progress.step, progress.steps)


def _train_demo(output: Output, out: Path, changes: list[str], recipe: str) -> None:
    from crosslmm.training.recipe import demo_settings

    settings = demo_settings(changes)
    output.progress("load", 0, 0, label="preparing")
    if recipe == "demo-teacher":
        from crosslmm.demo.teacher import LLAVA_ONEVISION
        from crosslmm.demo.teacher import train_teacher as run
    else:
        from crosslmm.demo.run import train_demo as run

    def report(line: str) -> None:
        output.finish_progress()
        output.notice(line)

    with interrupt.remark(_RESUMES):
        folder = run(out, seed=settings.seed, short=settings.short, report=report)
    output.finish_progress()
    if folder is None:
        return
    if recipe == "demo-teacher":
        output.notice(f"as a LLaVA-OneVision for transformers: {out / LLAVA_ONEVISION}")
    if output.as_json:
        output.record({"folder": str(folder), "seed": settings.seed})
    else:
        output.text(str(folder))
