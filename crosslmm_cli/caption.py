"""`crosslmm caption`: many videos, in bulk; what is done is written down as it is done."""

import codecs
import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from crosslmm.captioning import MAX_NEW_TOKENS, PROMPT, Shard, Summary
from crosslmm.captioning import caption as caption_videos
from crosslmm.captioning.options import MAX_FRAMES, EngineName, Format
from crosslmm.checkpoints import catalog
from crosslmm.errors import UsageError, VideoError
from crosslmm.options import DEADLINE, Sampling
from crosslmm.video.source import regular_file
from crosslmm_cli import interrupt, options
from crosslmm_cli.loading import notice_of_demo
from crosslmm_cli.output import SOME_FAILED, Output, supports_ansi

_LISTED_FAILURES = 20
_LINE_EVERY = 10.0  # seconds between lines of progress where there is no terminal

Globs = list[str]


def caption(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Files and folders; - reads a list on stdin."),
    ] = None,
    from_file: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="A list of files and folders, a line each."),
    ] = None,
    include: Annotated[
        Globs | None,
        typer.Option("--include", metavar="GLOB", help="Only such files in folders; repeatable."),
    ] = None,
    exclude: Annotated[
        Globs | None,
        typer.Option("--exclude", metavar="GLOB", help="No such files or folders; repeatable."),
    ] = None,
    kind: Annotated[
        Format, typer.Option("--format", "-f", help="What is written; see docs/captioning.md.")
    ] = "jsonl",
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", help="The file, or the folder of sidecars; - writes JSONL to stdout."
        ),
    ] = None,
    segments: Annotated[
        float | None,
        typer.Option("--segments", metavar="SECONDS", help="A caption for each so many seconds."),
    ] = None,
    scenes: Annotated[
        bool, typer.Option("--scenes", help="A caption for each scene, between cuts.")
    ] = False,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            help="What to ask; may hold {filename}, {start}, {duration}.",
            show_default=PROMPT,
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", help="The prompt, from a file.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Longest caption, in tokens.")
    ] = MAX_NEW_TOKENS,
    model: options.ModelOption = None,
    frames: options.FramesOption = None,
    fps: options.FpsOption = None,
    max_frames: Annotated[
        int | None,
        typer.Option("--max-frames", min=1, help=f"At most so many; {MAX_FRAMES} with --fps."),
    ] = None,
    seek: options.SeekOption = "auto",
    reader: options.ReaderOption = "auto",
    deadline: Annotated[
        float, typer.Option("--deadline", help="Give a file up after so many seconds of nothing.")
    ] = DEADLINE,
    batch_size: Annotated[
        int, typer.Option("--batch-size", "-b", min=1, help="Videos for the model at once.")
    ] = 8,
    readers: Annotated[
        int | None,
        typer.Option(
            "--readers",
            min=0,
            help="Processes that read ahead; 0 reads in between.",
            show_default="half the cores, up to 8",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed before.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do everything anew, over whatever is there.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Only the I-th of N parts, for N machines."),
    ] = None,
    engine: Annotated[
        EngineName, typer.Option("--engine", help="This process, or a Ray cluster (extra ray).")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Models at work on the cluster; default: the GPUs."),
    ] = None,
    tokens_per_frame: options.TokensPerFrameOption = None,
    quantize: options.QuantizeOption = "auto",
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="The summary as a JSON object on stdout.")
    ] = False,
    quiet: options.QuietOption = False,
) -> None:
    """Caption videos in bulk: files, folders, lists.

    A second run does only what is missing. One bad file never stops the rest: it gets an error
    instead of a caption, and the exit code is 3. Ctrl-C finishes what is under way; twice stops.
    """
    output = Output(as_json=as_json, quiet=quiet)
    if workers is not None and engine != "ray":
        raise UsageError("--workers is for --engine ray")
    if out == "-" and kind != "jsonl":
        raise UsageError(f"--out - writes JSONL, not {kind}")
    if out == "-" and as_json:
        raise UsageError("--out - and --json both write to stdout; give one of them")
    if out == "-" and (retry_failed or overwrite):
        raise UsageError("--retry-failed and --overwrite need a file to go on with, not --out -")
    listed = _listed(paths or [], from_file)
    part = None if shard is None else Shard.parse(shard)
    asked = _prompt(prompt, prompt_file)
    choice = catalog.default_model(model)
    catalog.resolve(choice.name)
    output.progress("load", 0, 0)
    try:
        # It loads the model once everything else has been looked at.
        run = caption_videos(
            listed,
            assistant=choice.name,
            format=None if out == "-" else kind,
            out=None if out == "-" else out,
            include=include or (),
            exclude=exclude or (),
            shard=part,
            prompt=asked,
            max_new_tokens=max_new_tokens,
            segments=segments,
            scenes=scenes,
            sampling=Sampling(
                frames=frames,
                fps=fps,
                max_frames=max_frames,
                seek=seek,
                reader=reader,
                deadline=deadline,
            ),
            batch_size=batch_size,
            readers=readers,
            retry_failed=retry_failed,
            overwrite=overwrite,
            engine=engine,
            workers=workers,
            model_options={
                "device": device,
                "dtype": None if dtype == "auto" else dtype,
                "quantization": quantize,
                "tokens_per_frame": tokens_per_frame,
            },
            on_notice=output.notice,
        )
    finally:
        output.finish_progress()
    notice_of_demo(output, choice)
    if not run.summary.total and part is None:
        raise VideoError(f"{', '.join(map(str, listed)) or 'the list'}: no files to caption there")
    report = _Report(output, run.summary)

    def stopping() -> None:
        run.stop()
        os.write(2, b"crosslmm: finishing what is under way; Ctrl-C again stops at once\n")

    report.begin()
    # What Ray has to say about its workers it prints.
    with run, interrupt.defer_first_interrupt(stopping), redirect_stdout(sys.stderr):
        for result in run:
            if out == "-":
                output.record(result.as_dict())
            report.progress()
    report.end()
    if as_json:
        output.record({"out": run.name, **run.summary.as_dict()})
    elif run.name is not None:
        output.text(run.name)
    if run.summary.stopped:
        raise typer.Exit(interrupt.EXIT_CODE)
    if run.summary.failed or run.summary.kept_failures:
        raise typer.Exit(SOME_FAILED)


class _Report:
    """How it goes, on stderr: a bar on a terminal, else a line now and then; a summary at the end."""

    def __init__(self, output: Output, summary: Summary) -> None:
        self._output = output
        self._summary = summary
        self._supports_ansi = supports_ansi(sys.stderr)
        self._next_line = time.monotonic() + _LINE_EVERY

    def begin(self) -> None:
        if self._supports_ansi:
            self._output.progress("caption", 0, 0, words="looking through the files")

    def progress(self) -> None:
        summary = self._summary
        if self._supports_ansi:
            words = ", ".join(["captioning", *self._exceptions()])
            self._output.progress("caption", summary.fresh, summary.to_do, words=words)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY
            pace = summary.seconds / summary.fresh
            left = (summary.to_do - summary.fresh) * pace
            line = [f"{summary.fresh:,} of {summary.to_do:,} done", *self._exceptions()]
            line += [f"{_pace(60 / pace)} a minute", f"about {_span(left)} left"]
            self._output.notice(", ".join(line))

    def _exceptions(self) -> list[str]:
        summary = self._summary
        skipped = summary.kept + summary.kept_failures + summary.no_videos
        counts = {"failed": summary.failed, "skipped": skipped}
        return [f"{count:,} {what}" for what, count in counts.items() if count]

    def end(self) -> None:
        self._output.finish_progress()
        for line in summary_lines(self._summary):
            self._output.notice(line)


def summary_lines(summary: Summary) -> list[str]:
    """A run in words."""
    new = summary.captioned + summary.failed
    rate = f", {_pace(60 * new / summary.seconds)} a minute" if new and summary.seconds else ""
    counts = [f"{summary.captioned:,} captioned in {_span(summary.seconds)}{rate}"]
    if summary.copies:
        counts.append(f"{summary.copies:,} of them as copies of others")
    if summary.failed:
        counts.append(f"{summary.failed:,} failed")
    if summary.kept:
        counts.append(f"{summary.kept:,} were done before")
    if summary.kept_failures:
        counts.append(f"{summary.kept_failures:,} failed before (--retry-failed tries them again)")
    if summary.no_videos:
        counts.append(f"{summary.no_videos:,} other files, which are no videos, passed over")
    lines = ["; ".join(counts)]
    if summary.shares is not None and new:
        shares = summary.shares
        lines.append(
            f"model busy {shares.busy:.0%} of the time (encode {shares.encode:.0%}, "
            f"generate {shares.generate:.0%}), idle {shares.idle:.0%}; "
            f"decode {shares.decode:.0%} in the readers together"
        )
    shown = summary.failures[:_LISTED_FAILURES]
    lines += [f"failed: {reason}" for _, reason in shown]
    if len(summary.failures) > len(shown):
        lines.append(f"and {len(summary.failures) - len(shown):,} more")
    return lines


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{minutes} min" if minutes < 100 else f"{hours:.1f} h"


def _listed(paths: list[str], from_file: str | None) -> list[str]:
    """The paths given, those of a list put in its place; a list may end its names with NUL."""
    if paths.count("-") + (from_file == "-") > 1:
        raise UsageError("-: stdin holds one list only")
    if not paths and from_file is None:
        raise UsageError("give files or folders to caption, or a list of them with --from FILE")
    listed: list[str] = []
    for path in paths:
        if path == "-":
            listed += _names(sys.stdin.buffer.read())
        elif not os.path.lexists(path):
            if "://" in path:
                regular_file(path)  # which says that it is an address
            raise VideoError(f"{path}: there is no such file or folder")
        else:
            listed.append(path)
    if from_file is not None:
        data = sys.stdin.buffer.read() if from_file == "-" else Path(from_file).read_bytes()
        listed += _names(data)
    return listed


def _pace(number: float) -> str:
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def _names(data: bytes) -> list[str]:
    data = data.removeprefix(codecs.BOM_UTF8)
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [os.fsdecode(name) for name in names if name.strip()]


def _prompt(prompt: str | None, file: Path | None) -> str:
    if prompt is not None and file is not None:
        raise UsageError("--prompt and --prompt-file exclude each other; give one of them")
    if file is not None:
        try:
            return file.read_text("utf-8").strip()
        except UnicodeDecodeError:
            raise UsageError(f"{file}: the prompt is not in UTF-8; save it as such") from None
    return PROMPT if prompt is None else prompt
