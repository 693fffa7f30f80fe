"""`crosslmm caption`: caption many videos; each result is on disk before the next batch begins."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from threading import Thread
from typing import Annotated

import typer

from crosslmm.captioning import MAX_NEW_TOKENS, PROMPT, Shard
from crosslmm.captioning import caption as caption_videos
from crosslmm.captioning.options import MAX_FRAMES, EngineName, Format
from crosslmm.errors import UsageError, VideoError
from crosslmm.limits import DEADLINE, FILE_TIMEOUT, MAX_PIXELS
from crosslmm.options import Sampling
from crosslmm_cli import interrupt, options
from crosslmm_cli.caption_report import CaptionReport
from crosslmm_cli.errors import SOME_FAILED
from crosslmm_cli.inputs import read_paths, read_prompt
from crosslmm_cli.loading import check_model, demo_refusal, model_options
from crosslmm_cli.merging import choose_merging
from crosslmm_cli.output import Output

Globs = list[str]


def caption(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH", help="Files and folders; - reads a list from stdin."),
    ] = None,
    from_file: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="Read files and folders from a list."),
    ] = None,
    include: Annotated[
        Globs | None,
        typer.Option(
            "--include", metavar="GLOB", help="Only matching files in folders (repeatable)."
        ),
    ] = None,
    exclude: Annotated[
        Globs | None,
        typer.Option(
            "--exclude", metavar="GLOB", help="Exclude matching files and folders (repeatable)."
        ),
    ] = None,
    kind: Annotated[
        Format, typer.Option("--format", "-f", help="Output format; see docs/captioning.md.")
    ] = "jsonl",
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="Output file, or folder for one file per video; - writes JSONL to stdout.",
        ),
    ] = None,
    segments: Annotated[
        float | None,
        typer.Option("--segments", metavar="SECONDS", help="Caption every segment of this length."),
    ] = None,
    scenes: Annotated[bool, typer.Option("--scenes", help="Caption every scene.")] = False,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            metavar="TEXT",
            help="Prompt; may contain {filename}, {start}, {duration}.",
            show_default=PROMPT,
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option("--prompt-file", metavar="FILE", help="Read the prompt from a file."),
    ] = None,
    max_new_tokens: Annotated[
        int,
        typer.Option("--max-new-tokens", metavar="N", min=1, help="Maximum tokens per caption."),
    ] = MAX_NEW_TOKENS,
    model: options.ModelOption = None,
    frames: options.FramesOption = None,
    fps: options.FpsOption = None,
    max_frames: Annotated[
        int | None,
        typer.Option(
            "--max-frames",
            metavar="N",
            min=1,
            help=f"Maximum number of frames; with --fps, {MAX_FRAMES} by default.",
        ),
    ] = None,
    static_threshold: options.StaticThresholdOption = 0.0,
    seek: options.SeekOption = "auto",
    reader: options.ReaderOption = "auto",
    deadline: Annotated[
        float,
        typer.Option(
            "--deadline",
            metavar="SECONDS",
            help="Skip a file if decoding makes no progress for this many seconds.",
        ),
    ] = DEADLINE,
    file_timeout: options.FileTimeoutOption = FILE_TIMEOUT,
    max_pixels: options.MaxPixelsOption = MAX_PIXELS,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", metavar="N", min=1, help="Videos per batch.")
    ] = 8,
    readers: Annotated[
        int | None,
        typer.Option(
            "--readers",
            metavar="N",
            min=0,
            help="Decoding processes; 0 decodes in the main process.",
            show_default="half the cores, up to 8",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry videos that failed in an earlier run.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard existing results and start over.")
    ] = False,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="Write model, prompt and settings to a file of their own."),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="Process shard I of N, to split work across machines."
        ),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option("--engine", help="local, or ray for a Ray cluster (needs the ray extra)."),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            help="Model workers on the Ray cluster.",
            show_default="one per GPU",
        ),
    ] = None,
    tokens_per_frame: options.TokensPerFrameOption = None,
    merge: options.MergeOption = None,
    keep: options.KeepOption = None,
    quantize: options.QuantizeOption = "auto",
    feature_bits: options.FeatureBitsOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as a JSON object.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print a line per video to stderr.")
    ] = False,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Caption many videos: files, folders or lists.

    Run again, it captions only what is missing; if nothing is, no model is loaded. A video that
    fails is recorded with its error and the others go on; the exit code is then 3. Ctrl-C finishes
    the current batch and stops; a second Ctrl-C stops immediately.
    """
    output = Output(as_json=as_json, quiet=quiet, progress=not no_progress)
    if workers is not None and engine != "ray":
        raise UsageError("--workers needs --engine ray")
    to_stdout = out == "-"
    if to_stdout:
        _check_stdout(kind, as_json=as_json, resumes=retry_failed or overwrite)
    found = read_paths(paths or [], from_file)
    part = None if shard is None else Shard.parse(shard)
    text = read_prompt(prompt, prompt_file)
    choice = check_model(model, device=device, tokens_per_frame=tokens_per_frame)
    if choice.origin == "built-in":
        raise UsageError(demo_refusal("no model is chosen"))
    merging = choose_merging(
        output, model, tokens_per_frame=tokens_per_frame, merge=merge, keep=keep
    )
    run = caption_videos(
        found,
        assistant=choice.name,
        format=None if to_stdout else kind,
        out=None if to_stdout else out,
        include=include or (),
        exclude=exclude or (),
        shard=part,
        prompt=PROMPT if text is None else text,
        max_new_tokens=max_new_tokens,
        segments=segments,
        scenes=scenes,
        merge=merging["merge"],
        keep=merging["keep"],
        sampling=Sampling(
            frames=frames,
            fps=fps,
            max_frames=max_frames,
            static_threshold=static_threshold,
            seek=seek,
            reader=reader,
            deadline=deadline,
            file_timeout=file_timeout,
            max_pixels=max_pixels,
        ),
        batch_size=batch_size,
        readers=readers,
        retry_failed=retry_failed,
        overwrite=overwrite,
        compact=compact,
        engine=engine,
        workers=workers,
        model_options=model_options(
            device=device, dtype=dtype, quantize=quantize, tokens_per_frame=tokens_per_frame
        )
        | ({} if feature_bits is None else {"feature_bits": feature_bits}),
        on_notice=output.notice,
        on_start=lambda: report.draw(),
    )
    if not run.summary.total and part is None:
        raise VideoError(f"{', '.join(found) or 'the list'}: no files to caption")
    report = CaptionReport(output, run.summary, verbose=verbose)

    def stop() -> None:
        if not run.captioning:
            raise KeyboardInterrupt  # there is no batch to finish
        run.stop()
        # A thread, since the code that Ctrl-C interrupted may be writing at this moment.
        line = "crosslmm: finishing the current batch; Ctrl-C again stops immediately"
        Thread(target=output.notice, args=[line], kwargs={"always": True}, daemon=True).start()

    interrupt.before_exit(run.unlock)
    report.begin()
    # Ray prints what its workers say.
    with run, interrupt.defer_first_interrupt(stop), redirect_stdout(sys.stderr):
        for result in run:
            if to_stdout:
                output.record(result.as_dict())
            report.progress(result)
    report.end()
    if as_json:
        output.record({"out": run.name, **run.summary.as_dict()})
    elif run.name is not None:
        output.text(run.name)
    if run.summary.stopped:
        if run.name is not None:
            output.notice("the same command captions the rest")
        raise typer.Exit(interrupt.EXIT_CODE)
    if run.summary.failed or run.summary.kept_failures:
        raise typer.Exit(SOME_FAILED)


def _check_stdout(kind: Format, *, as_json: bool, resumes: bool) -> None:
    """What `--out -` excludes: other formats, a second writer to stdout, a record to go on from."""
    if kind != "jsonl":
        raise UsageError(f"--out - writes JSONL, not {kind}")
    if as_json:
        raise UsageError("--out - and --json both write to stdout; give one of them")
    if resumes:
        raise UsageError("--retry-failed and --overwrite need an output file, not --out -")
