"""`crosslmm profile`: what a run costs, before anything is loaded, or measured with `--measure`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from crosslmm.checkpoints import catalog
from crosslmm.cost import profile as cost
from crosslmm.cost.chart import check_chart_path, draw
from crosslmm.cost.measurement import MEASURED_FRAMES, Measured, measure_profile
from crosslmm.cost.profile import FRAMES, Settings, find_shape, parse_size, reshape
from crosslmm.cost.published import PublishedComparison, compare_with_paper
from crosslmm.cost.tables import (
    as_record,
    comparison_text,
    csv_text,
    fits_text,
    measured_text,
    paper_text,
    text,
)
from crosslmm.errors import UsageError
from crosslmm.limits import FRAMES_PER_CHUNK
from crosslmm.video.source import regular_file
from crosslmm_cli import options
from crosslmm_cli.loading import load_assistant
from crosslmm_cli.output import Output


def numbers(given: str) -> list[int]:
    """Whole numbers separated by commas."""
    try:
        return [int(part) for part in given.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{given!r}: give whole numbers separated by commas") from None


def profile(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="crosslmm-2b, crosslmm-7b, llava-onevision-0.5b, llava-onevision-7b, a folder, "
            "a Hub id (only its config is read) or demo; default: the model that `ask` uses.",
        ),
    ] = None,
    frames: Annotated[
        Any,
        typer.Option("--frames", "-n", parser=numbers, metavar="N,N", help="Numbers of frames."),
    ] = None,
    tokens_per_frame: Annotated[
        Any,
        typer.Option(
            "--tokens-per-frame",
            parser=numbers,
            metavar="N,N",
            help="Merged tokens per frame: squares; default: the model's own.",
        ),
    ] = None,
    text_tokens: Annotated[
        int, typer.Option("--text-tokens", min=0, help="Tokens of the prompt besides the frames'.")
    ] = 64,
    interval: Annotated[
        int | None,
        typer.Option(
            "--interval", min=1, help="Cross-attention after every so many decoder layers."
        ),
    ] = None,
    v2v_scope: Annotated[
        Literal["video", "frame"] | None,
        typer.Option("--v2v-scope", help="What merged tokens read: the whole video, their frame."),
    ] = None,
    t2v_cache: Annotated[
        Literal["projected", "features"] | None,
        typer.Option("--t2v-cache", help="What text reads: keys and values, shared features."),
    ] = None,
    quantize: Annotated[
        Literal["none", "4bit", "8bit"],
        typer.Option("--quantize", help="Bits of the language model's weights."),
    ] = "none",
    dtype: options.DtypeOption = "auto",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Videos at once.")] = 1,
    chunk: Annotated[
        int, typer.Option("--chunk", min=1, help="Frames encoded at a time.")
    ] = FRAMES_PER_CHUNK,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="MODEL",
            help="Another model, `unmerged` (this one, every patch a token) or `paper`.",
        ),
    ] = None,
    fits: Annotated[
        str | None,
        typer.Option("--fits", metavar="SIZE", help="The most frames that fit: 24GB, 16GiB."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run it too: seconds per stage and peak memory.")
    ] = False,
    video: Annotated[
        Path | None,
        typer.Option("--video", help="The clip that --measure reads; default: one it makes."),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            "--repeats", min=1, help="Runs that --measure takes the median of; default: 3."
        ),
    ] = None,
    device: options.DeviceOption = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Stacked bars, as .png, .svg or .pdf."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="One line per row, plain numbers.")] = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Tokens, multiply-accumulates and memory of a run, per stage and number of frames.

    Nothing is loaded but a configuration, unless --measure is given.
    """
    output = Output(as_json=as_json, quiet=quiet)
    _check(as_json, as_csv, measure, interval, batch)
    if not measure and (video is not None or repeats is not None or device is not None):
        raise UsageError("--video, --repeats and --device are for --measure; give it too")
    if as_csv and (measure or fits or compare == "paper"):
        raise UsageError(
            "--csv has rows of estimates only: leave --measure, --fits and --compare paper out, "
            "or give --json"
        )
    name = catalog.default_model(model).name
    shape = reshape(find_shape(name), interval=interval, v2v_scope=v2v_scope, t2v_cache=t2v_cache)
    settings = Settings(
        text_tokens=text_tokens,
        batch=batch,
        dtype=None if dtype == "auto" else dtype,
        quantization=quantize,
        frames_per_chunk=chunk,
    )
    counts: dict[str, Any] = {
        "frames": frames or (MEASURED_FRAMES if measure else FRAMES),
        "tokens_per_frame": tokens_per_frame or (),
    }
    budget = parse_size(fits) if fits is not None else None
    if plot:
        check_chart_path(plot)
    if video is not None:
        regular_file(video)
    first, other, paper = _estimates(name, compare, shape=shape, settings=settings, **counts)
    measured: list[Measured] = []
    if measure:
        assistant = load_assistant(
            output,
            model=model,
            device=device,
            dtype=dtype,
            quantize=quantize,
            tokens_per_frame=None,
        )
        settings = replace(settings, dtype=assistant.settings["dtype"])
        first, other, paper = _estimates(name, compare, shape=shape, settings=settings, **counts)
        measured = measure_profile(
            assistant, first, video, repeats=repeats or 3, on_progress=output.progress
        )
        output.finish_progress()

    if as_json:
        output.record(as_record(first, other or paper, measured, budget))
    elif as_csv:
        output.text(csv_text([first, *([other] if other else [])]), end="")
    else:
        blocks = [text(first)]
        blocks += [comparison_text(first, other)] if other else []
        blocks += [paper_text(first, paper)] if paper else []
        blocks += [measured_text(measured)] if measured else []
        blocks += [fits_text(first, budget)] if budget is not None else []
        output.text("\n\n".join(blocks))
    for note in [*first.notes, *(other.notes if other else [])]:
        output.notice(note)
    if plot:
        draw(plot, first, other)
        output.notice(f"drew {plot}")


def _estimates(
    name: str, compare: str | None, **options: Any
) -> tuple[cost.Profile, cost.Profile | None, PublishedComparison | None]:
    """The model's cost, another model's, and the paper's, as far as asked for."""
    first = cost.profile(name, **options)
    if compare == "paper":
        return first, None, compare_with_paper(first)
    return first, cost.compare(first, compare) if compare else None, None


def _check(as_json: bool, as_csv: bool, measure: bool, interval: int | None, batch: int) -> None:
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other; give one of them")
    if measure and (interval or batch > 1):
        raise UsageError(
            "--measure runs the model as it is, one video at a time: "
            "leave --interval and --batch out"
        )
