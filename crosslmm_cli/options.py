"""Options that several commands share, each defined once."""

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from crosslmm.cost.budget import parse_size
from crosslmm.errors import UsageError
from crosslmm.merging import MERGERS
from crosslmm.options import Dtype, Quantization, ReaderName, Sampler, Seek
from crosslmm_cli import completion

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)")


def seconds(text: str) -> float:
    """A time in seconds from seconds (90, 2.5) or a clock time ([HH:]MM:SS[.ms])."""
    match = _CLOCK.fullmatch(text.strip())
    if match is None or (match[2] and float(match[3]) >= 60) or (match[1] and int(match[2]) >= 60):
        raise typer.BadParameter(f"{text!r} is not a time: use seconds, M:SS or H:MM:SS")
    return float(match[1] or 0) * 3600 + float(match[2] or 0) * 60 + float(match[3])


def numbers(given: str) -> list[int]:
    """Whole numbers separated by commas."""
    try:
        return [int(part) for part in given.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{given!r} is not a list of whole numbers, such as 64,256"
        ) from None


def listed(given: str | None) -> list[str]:
    """What is separated by commas."""
    return given.split(",") if given else []


def memory_size(flag: str, given: str) -> int:
    """Bytes of a size with its unit: nobody means 24 bytes. Raises UsageError."""
    if given.strip().replace(".", "", 1).isdigit():
        raise UsageError(f"{flag} {given}: needs a unit; did you mean {given.strip()}GB?")
    return parse_size(given)


def _above_zero(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{value:g} is not greater than 0")
    return value


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        autocompletion=completion.model_names,
        help="A folder, a Hub id, or a name from `crosslmm models list`.",
    ),
]
FramesOption = Annotated[
    int | None,
    typer.Option(
        "--frames", "-n", metavar="N", min=1, help="Number of frames, evenly spaced in time."
    ),
]
FpsOption = Annotated[
    float | None,
    typer.Option(
        "--fps", metavar="RATE", callback=_above_zero, help="Frames per second; replaces --frames."
    ),
]
MaxFramesOption = Annotated[
    int | None,
    typer.Option("--max-frames", metavar="N", min=1, help="Maximum number of frames."),
]
FramesAtOption = Annotated[
    str | None,
    typer.Option(
        "--frames-at",
        metavar="FILE",
        help="Exactly these frames, one per line: 12.5, 1:05 or #120 (its index); - reads stdin.",
    ),
]
SamplerOption = Annotated[
    Sampler,
    typer.Option(
        "--sampler",
        help="Choose frames evenly in time, some of each scene, the most diverse, or those with most "
        "bytes in the file.",
    ),
]
StaticThresholdOption = Annotated[
    float,
    typer.Option(
        "--static-threshold",
        metavar="0-255",
        help="Encode a frame only where it differs by more than this from the last one: 2 saves most of "
        "the work on slides and screen recordings. 0: where it differs at all.",
    ),
]
StartOption = Annotated[
    float | None,
    typer.Option(
        "--start", parser=seconds, metavar="TIME", help="Start time: seconds or [HH:]MM:SS[.ms]."
    ),
]
EndOption = Annotated[
    float | None, typer.Option("--end", parser=seconds, metavar="TIME", help="End time.")
]
ReaderOption = Annotated[
    ReaderName,
    typer.Option("--reader", help="Decoding library; auto: PyAV, then the others if it fails."),
]
SeekOption = Annotated[
    Seek,
    typer.Option(
        "--seek",
        help="exact frames, the nearest keyframes (faster on long videos), or auto: keyframes where "
        "one is close.",
    ),
]
FileTimeoutOption = Annotated[
    float,
    typer.Option(
        "--file-timeout",
        metavar="SECONDS",
        callback=_above_zero,
        help="Skip a file if reading it takes longer than this in all.",
    ),
]
MaxPixelsOption = Annotated[
    int,
    typer.Option(
        "--max-pixels",
        metavar="N",
        min=1,
        help="Refuse files with more pixels per frame.",
    ),
]
TokensPerFrameOption = Annotated[
    int | None,
    typer.Option(
        "--tokens-per-frame",
        metavar="N",
        min=1,
        help="Merged tokens per frame, a square number: 1, 4, 9, 16, …",
        show_default="the checkpoint's own: 9, or 196 for LLaVA-OneVision",
    ),
]
MergeOption = Annotated[
    str | None,
    typer.Option(
        "--merge",
        metavar="NAME",
        autocompletion=completion.mergers,
        help=f"Merge the tokens of all frames to fewer: {', '.join(MERGERS)}; none: all tokens.",
    ),
]
MergersOption = Annotated[
    str | None,
    typer.Option(
        "--merge",
        metavar="NAME,NAME",
        autocompletion=completion.mergers,
        help=f"Merging methods to compare, each at every budget: {', '.join(MERGERS)}.",
    ),
]
KeepOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="SHARE|N",
        help="With --merge, how many tokens are kept: 10%, or a number for the complete video.",
    ),
]
SharesOption = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="SHARE|N",
        help="With --merge, tokens that are kept: 10%,25%, or numbers for a complete video.",
    ),
]
QuantizeOption = Annotated[
    Quantization,
    typer.Option(
        "--quantize",
        help="Precision of the language model; auto: 4bit on a GPU for models over 1B parameters.",
    ),
]
FeatureBitsOption = Annotated[
    int | None,
    typer.Option(
        "--feature-bits",
        metavar="8",
        help="Keep the features that cross-attention reads in 8 bits, half the memory of bfloat16.",
        show_default="as computed",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1 or mps.",
        show_default="the fastest available",
    ),
]
DtypeOption = Annotated[
    Dtype, typer.Option("--dtype", help="Data type of weights that are not quantized.")
]
MaxNewTokensOption = Annotated[
    int,
    typer.Option("--max-new-tokens", metavar="N", min=1, help="Maximum tokens per answer."),
]
TemperatureOption = Annotated[
    float,
    typer.Option(
        "--temperature", metavar="T", min=0.0, help="Sampling temperature; 0 decodes greedily."
    ),
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        "--top-p",
        metavar="P",
        help="With --temperature, sample from the likeliest tokens that have this probability together.",
        show_default="the checkpoint's own",
    ),
]
StopOption = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End an answer before this text; repeatable."),
]
SystemOption = Annotated[
    str | None,
    typer.Option(
        "--system", metavar="TEXT", help="How to answer, in a system turn before the video."
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Random seed for sampling.")
]
NoCacheOption = Annotated[
    bool,
    typer.Option("--no-cache", help="Neither use nor keep what was encoded of the video."),
]
CacheSizeOption = Annotated[
    str | None,
    typer.Option(
        "--cache-size",
        metavar="SIZE",
        help="Keep at most this much of encoded videos on disk.",
        show_default="10GB",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per result.")]
NoProgressOption = Annotated[bool, typer.Option("--no-progress", help="Hide progress.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Hide notices and progress.")]
SchemaOption = Annotated[
    Path | None,
    typer.Option(
        "--schema", metavar="FILE", help="A JSON Schema that answers fit (extra `schema`)."
    ),
]
AllowNetworkOption = Annotated[
    bool,
    typer.Option(
        "--allow-network",
        help="Download a VIDEO that is an https address, or a page with one (extra `web`).",
    ),
]
ContinueOption = Annotated[
    bool,
    typer.Option(
        "--continue", "-c", help="Go on with the last dialogue; VIDEO is its own, so leave it out."
    ),
]
