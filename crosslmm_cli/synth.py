"""`crosslmm synth`: synthetic clips and their questions, as files."""

import re
from pathlib import Path
from typing import Annotated

import typer

from crosslmm.errors import UsageError
from crosslmm_cli import options
from crosslmm_cli.output import Output


def _range(text: str) -> tuple[float, float]:
    """`A-B`, or one number for both."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?", text.strip())
    if match is None:
        raise UsageError(f"--seconds {text}: give a range A-B, for example 2-60")
    return float(match[1]), float(match[2] or match[1])


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if match is None:
        raise UsageError(f"--size {text}: give WIDTHxHEIGHT, for example 256x256")
    return int(match[1]), int(match[2])


def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.")],
    clips: Annotated[int, typer.Option("--clips", min=1, help="How many clips.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, other clips.")] = 0,
    seconds: Annotated[
        str, typer.Option("--seconds", metavar="A-B", help="Shortest and longest clip.")
    ] = "2-60",
    size: Annotated[
        str, typer.Option("--size", metavar="WxH", help="Width and height in pixels.")
    ] = "256x256",
    fps: Annotated[float, typer.Option("--fps", help="Frames per second.")] = 24.0,
    codec: Annotated[
        str, typer.Option("--codec", help="An encoder of FFmpeg: libx264, libx265, libvpx-vp9, …")
    ] = "libx264",
    questions: Annotated[
        int, typer.Option("--questions", min=1, help="Questions about each clip, at most.")
    ] = 8,
    quiet: options.QuietOption = False,
) -> None:
    """Write synthetic clips with questions and exact answers, for `crosslmm eval`.

    The same seed and frame shape give the same scenes at every size, frame rate and codec. No clip
    that this writes is ever trained on, whatever its seed.
    """
    from crosslmm.synthetic import write_clips

    output = Output(quiet=quiet)
    path = write_clips(
        folder,
        clips=clips,
        seed=seed,
        seconds=_range(seconds),
        size=_size(size),
        fps=fps,
        codec=codec,
        questions_per_clip=questions,
        on_clip=lambda done: output.progress("writing clips", done, clips),
    )
    output.text(str(path))
