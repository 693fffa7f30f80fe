"""`crosslmm synth`: synthetic clips and questions about them, as files."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from crosslmm.errors import UsageError
from crosslmm_cli import options
from crosslmm_cli.output import Output


def _parse_range(text: str) -> tuple[float, float]:
    """`A-B`, or one number for both."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?", text.strip())
    if match is None:
        raise UsageError(f"--seconds {text}: not a range; use A-B, for example 2-60")
    return float(match[1]), float(match[2] or match[1])


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if match is None:
        raise UsageError(f"--size {text}: not a size; use WIDTHxHEIGHT, for example 256x256")
    return int(match[1]), int(match[2])


def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder.")],
    clips: Annotated[
        int,
        typer.Option(
            "--clips", metavar="N", min=1, help="Number of clips; with --needles, of each length."
        ),
    ] = 10,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Seed of the generator.")
    ] = 0,
    seconds: Annotated[
        str | None,
        typer.Option(
            "--seconds",
            metavar="A-B",
            help="Shortest and longest clip, in seconds.",
            show_default="2-60",
        ),
    ] = None,
    needles: Annotated[
        bool,
        typer.Option(
            "--needles",
            help="Clips in which one thing is seen for four frames, which the questions are about.",
        ),
    ] = False,
    lengths: Annotated[
        Any,
        typer.Option(
            "--lengths",
            parser=options.numbers,
            metavar="N,N",
            help="With --needles, frames of the clips, 32 to 4,096.",
            show_default="32,128,512",
        ),
    ] = None,
    size: Annotated[
        str, typer.Option("--size", metavar="WxH", help="Frame width and height in pixels.")
    ] = "256x256",
    fps: Annotated[float, typer.Option("--fps", metavar="RATE", help="Frames per second.")] = 24.0,
    codec: Annotated[
        str,
        typer.Option(
            "--codec", metavar="NAME", help="FFmpeg encoder: libx264, libx265, libvpx-vp9, …"
        ),
    ] = "libx264",
    questions: Annotated[
        int | None,
        typer.Option(
            "--questions",
            metavar="N",
            min=1,
            help="Maximum number of questions per clip.",
            show_default="8; with --needles 4",
        ),
    ] = None,
    quiet: options.QuietOption = False,
    no_progress: options.NoProgressOption = False,
) -> None:
    """Write synthetic clips with questions and exact answers, for `crosslmm eval`.

    A seed gives the same scenes at every frame rate and codec, and at every size of the same aspect
    ratio. Training never uses these clips, whatever the seed.

    The clips of --needles are for finding something short in long videos.
    """
    if needles and seconds is not None:
        raise UsageError("--needles and --seconds exclude each other: --lengths gives frames")
    if lengths is not None and not needles:
        raise UsageError("--lengths belongs to --needles")
    from crosslmm.synthetic import write_clips, write_needles
    from crosslmm.synthetic.needles import LENGTHS

    output = Output(quiet=quiet, progress=not no_progress)
    lengths = lengths or LENGTHS
    total = clips * len(lengths) if needles else clips

    def on_clip(done: int) -> None:
        output.progress("writing clips", done, total)

    common: Any = {
        "clips": clips,
        "seed": seed,
        "size": _parse_size(size),
        "fps": fps,
        "codec": codec,
        "on_clip": on_clip,
    }
    if questions is not None:
        common["questions_per_clip"] = questions
    if needles:
        path = write_needles(folder, lengths=lengths, **common)
    else:
        path = write_clips(folder, seconds=_parse_range(seconds or "2-60"), **common)
    output.text(str(path))
