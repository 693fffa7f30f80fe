"""`crosslmm profile`: the cost of a run, estimated from a configuration or measured."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from crosslmm.checkpoints import catalog
from crosslmm.cost import profile as cost
from crosslmm.cost.budget import parse_compute
from crosslmm.cost.chart import check_chart_path, draw
from crosslmm.cost.measured import MEASURED_FRAMES, Measured
from crosslmm.cost.profile import FRAMES, find_shape, reshape
from crosslmm.cost.published import PublishedComparison, compare_with_paper
from crosslmm.cost.settings import Settings
from crosslmm.cost.shape import ModelShape
from crosslmm.cost.tables import (
    as_record,
    budget_text,
    comparison_text,
    csv_text,
    fits_text,
    measured_text,
    paper_text,
    text,
)
from crosslmm.errors import UsageError
from crosslmm.limits import FRAMES_PER_CHUNK
from crosslmm.merging import MERGERS, TokenBudget, choose_budget
from crosslmm.options import CrossKV, Sampling, V2VScope, check_feature_bits
from crosslmm_cli import completion, options
from crosslmm_cli.inputs import check_video
from crosslmm_cli.loading import check_model, load_assistant
from crosslmm_cli.merge_table import merge_ways
from crosslmm_cli.output import Output


def profile(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            autocompletion=completion.shapes,
            help="crosslmm-2b, crosslmm-7b, llava-onevision-0.5b, llava-onevision-7b, demo, a "
            "folder or a Hub id (only its config.json is read).",
            show_default="the default model",
        ),
    ] = None,
    frames: Annotated[
        Any,
        typer.Option("--frames", "-n", parser=options.numbers, metavar="N,N", help="Frame counts."),
    ] = None,
    tokens_per_frame: Annotated[
        Any,
        typer.Option(
            "--tokens-per-frame",
            parser=options.numbers,
            metavar="N,N",
            help="Merged tokens per frame, square numbers.",
            show_default="the model's own",
        ),
    ] = None,
    merge: options.MergersOption = None,
    keep: options.SharesOption = None,
    text_tokens: Annotated[
        int,
        typer.Option("--text-tokens", metavar="N", min=0, help="Text tokens of the prompt."),
    ] = 64,
    interval: Annotated[
        int | None,
        typer.Option(
            "--interval", metavar="N", min=1, help="Cross-attention after every N decoder layers."
        ),
    ] = None,
    cross_kv: Annotated[
        CrossKV | None,
        typer.Option(
            "--cross-kv",
            help="Keys and values of the features for each cross-attention layer, or shared by all.",
        ),
    ] = None,
    v2v_scope: Annotated[
        V2VScope | None,
        typer.Option(
            "--v2v-scope",
            help="Merged tokens attend to all frames, those up to their own, their own, or the patches "
            "they stand for.",
        ),
    ] = None,
    t2v_cache: Annotated[
        Literal["projected", "features"] | None,
        typer.Option(
            "--t2v-cache", help="T2V caches keys and values per layer, or shared features."
        ),
    ] = None,
    quantize: Annotated[
        Literal["none", "4bit", "8bit"],
        typer.Option("--quantize", help="Precision of the language model."),
    ] = "none",
    feature_bits: options.FeatureBitsOption = None,
    dtype: options.DtypeOption = "auto",
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", min=1, help="Videos per batch.")
    ] = 1,
    chunk: Annotated[
        int, typer.Option("--chunk", metavar="N", min=1, help="Frames encoded at a time.")
    ] = FRAMES_PER_CHUNK,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="MODEL",
            help="Compare with another model, with `unmerged` (this model with one token per "
            "patch) or with `paper` (the published figures).",
        ),
    ] = None,
    fits: Annotated[
        str | None,
        typer.Option("--fits", metavar="SIZE", help="Find how many frames fit: 24GB, 16GiB."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="COMPUTE",
            help="Find frames and tokens per frame of equal cost: 10TFLOP, or seconds on this "
            "device: 2s.",
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also run the model: seconds per stage, peak memory.")
    ] = False,
    video: Annotated[
        Path | None,
        typer.Option(
            "--video",
            metavar="FILE",
            help="Video for --measure.",
            show_default="a generated clip",
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            "--repeats",
            metavar="N",
            min=1,
            help="Runs per measurement, 3 by default; the median is shown.",
        ),
    ] = None,
    device: options.DeviceOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Save a stacked bar chart (.png, .svg or .pdf)."
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Estimate tokens, multiply-accumulates and memory of a run, per stage and frame count.

    Only a configuration is read, unless --measure is given.
    """
    output = Output(as_json=as_json, quiet=quiet, progress=not no_progress)
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other: give one of them")
    if measure and (interval or cross_kv or batch > 1):
        raise UsageError(
            "--measure runs the unmodified model on one video: it excludes --interval, "
            "--cross-kv and --batch"
        )
    if not measure and (video is not None or repeats is not None):
        raise UsageError("--video and --repeats need --measure")
    compute, in_seconds = parse_compute(budget) if budget is not None else (None, False)
    if not (measure or in_seconds) and device is not None:
        raise UsageError("--device needs --measure, or --budget in seconds")
    if budget is not None and (measure or as_csv or fits or compare or plot or frames):
        raise UsageError(
            "--budget finds the frames: it excludes --frames, --compare, --fits, --plot, --csv and "
            "--measure"
        )
    if as_csv and (measure or fits or compare == "paper"):
        raise UsageError(
            "--csv prints estimates only; use --json with --measure, --fits or --compare paper"
        )
    name = catalog.default_model(model).name
    shape = reshape(
        find_shape(name),
        interval=interval,
        cross_kv=cross_kv,
        v2v_scope=v2v_scope,
        t2v_cache=t2v_cache,
    )
    settings = Settings(
        text_tokens=text_tokens,
        batch=batch,
        dtype=None if dtype == "auto" else dtype,
        quantization=quantize,
        frames_per_chunk=chunk,
        feature_bits=check_feature_bits(feature_bits),
    )
    counted = tokens_per_frame or ()
    if compute is not None and not counted and not merge and shape.chunked:
        squares = {side**2 for side in range(1, 15) if side**2 <= shape.vision.patches}
        counted = sorted({*squares, shape.tokens_per_frame})
    counts: dict[str, Any] = {
        "frames": frames or (MEASURED_FRAMES if measure else FRAMES),
        "budgets": _budgets(shape, merge, keep, counted),
    }
    memory = options.memory_size("--fits", fits) if fits is not None else None
    if plot:
        check_chart_path(plot)
    if measure:
        check_model(model, device=device, tokens_per_frame=None)
    if video is not None:
        check_video(str(video), Sampling())
    if compute is not None:
        counts["frames"] = [1]  # they are what is found
        _show_budget(
            output,
            cost.profile(name, shape=shape, settings=settings, **counts),
            compute,
            in_seconds=in_seconds,
            device=device,
        )
        return
    estimates = _estimate(name, compare, shape=shape, settings=settings, **counts)
    measured: list[Measured] = []
    if measure:
        from crosslmm.inference.measurement import measure_profile

        assistant = load_assistant(
            output,
            model=model,
            device=device,
            dtype=dtype,
            quantize=quantize,
            feature_bits=feature_bits,
        )
        settings = replace(settings, dtype=assistant.settings["dtype"])
        estimates = _estimate(name, compare, shape=shape, settings=settings, **counts)
        measured = measure_profile(
            assistant, estimates.first, video, repeats=repeats or 3, on_progress=output.progress
        )
        output.finish_progress()

    first, other, paper = estimates
    if as_json:
        output.record(as_record(first, other or paper, measured, memory))
    elif as_csv:
        output.text(csv_text([first, *([other] if other else [])]), end="")
    else:
        output.text(_text(estimates, measured, memory))
    for note in [*first.notes, *(other.notes if other else [])]:
        output.notice(note)
    if plot:
        draw(plot, first, other)
        output.notice(f"wrote {plot}")


def _budgets(
    shape: ModelShape, merge: str | None, keep: str | None, counts: Sequence[int]
) -> list[TokenBudget]:
    """Every method with every number of tokens; the model's own where nothing is asked for."""
    own, patches = TokenBudget(shape.tokens_per_frame), shape.vision.patches
    merges, kept = options.listed(merge), options.listed(keep)
    ways = merge_ways(merges, counts=counts, keep=kept, patches=patches)
    return [
        choose_budget(
            own,
            trained=own.pooled,
            patches=patches,
            methods=MERGERS,
            error=UsageError,
            **way,
        )
        for way in ways
    ]


def _show_budget(
    output: Output,
    profile: cost.Profile,
    compute: float,
    *,
    in_seconds: bool,
    device: str | None,
) -> None:
    """Frames and tokens per frame at equal compute, with nothing else of the profile."""
    rate = None
    if in_seconds:
        from crosslmm.inference.measurement import matrix_rate

        rate = matrix_rate(device, profile.settings.dtype)
        compute *= rate
    if output.as_json:
        record = as_record(profile, macs=compute)
        output.record({**record, "rows": [], "macs_per_second": rate})
    else:
        output.text(budget_text(profile, compute, rate))


class _Estimates(NamedTuple):
    """The model's cost and, where requested, another model's or the paper's."""

    first: cost.Profile
    other: cost.Profile | None
    paper: PublishedComparison | None


def _estimate(name: str, compare: str | None, **options: Any) -> _Estimates:
    first = cost.profile(name, **options)
    if compare == "paper":
        return _Estimates(first, None, compare_with_paper(first))
    return _Estimates(first, cost.compare(first, compare) if compare else None, None)


def _text(estimates: _Estimates, measured: list[Measured], memory: int | None) -> str:
    first, other, paper = estimates
    blocks = [text(first)]
    blocks += [comparison_text(first, other)] if other else []
    blocks += [paper_text(first, paper)] if paper else []
    blocks += [measured_text(measured)] if measured else []
    blocks += [fits_text(first, memory)] if memory is not None else []
    return "\n\n".join(blocks)
