"""Options that several commands share, each defined once."""

import math
import re
from typing import Annotated

import typer

from crosslmm.options import Dtype, Quantization, ReaderName, Seek

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)")


def seconds(text: str) -> float:
    """A time: seconds (90, 2.5) or a clock reading ([HH:]MM:SS[.ms])."""
    match = _CLOCK.fullmatch(text.strip())
    if match is None or (match[2] and float(match[3]) >= 60) or (match[1] and int(match[2]) >= 60):
        raise typer.BadParameter(f"{text!r} is no time; give seconds (90, 2.5) or [HH:]MM:SS[.ms]")
    return int(match[1] or 0) * 3600 + int(match[2] or 0) * 60 + float(match[3])


def _rate(value: float | None) -> float | None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{value:g} is not above zero")
    return value


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A folder, a Hub id, or a name from `crosslmm models list`.",
    ),
]
FramesOption = Annotated[
    int | None,
    typer.Option(
        "--frames", "-n", metavar="N", min=1, help="Frames to look at, spread evenly in time."
    ),
]
FpsOption = Annotated[
    float | None,
    typer.Option(
        "--fps", metavar="RATE", callback=_rate, help="Frames per second, instead of --frames."
    ),
]
MaxFramesOption = Annotated[
    int | None,
    typer.Option("--max-frames", metavar="N", min=1, help="At most so many frames with --fps."),
]
StartOption = Annotated[
    float | None,
    typer.Option(
        "--start", parser=seconds, metavar="TIME", help="From here: seconds or [HH:]MM:SS[.ms]."
    ),
]
EndOption = Annotated[
    float | None, typer.Option("--end", parser=seconds, metavar="TIME", help="Up to here.")
]
ReaderOption = Annotated[
    ReaderName, typer.Option("--reader", help="The library that decodes; auto tries one by one.")
]
SeekOption = Annotated[
    Seek,
    typer.Option("--seek", help="exact frames, nearest keyframes (fast on long films), or auto."),
]
TokensPerFrameOption = Annotated[
    int | None,
    typer.Option(
        "--tokens-per-frame",
        metavar="N",
        min=1,
        help="Merged tokens per frame: 1, 4, 9, 16, … a square.",
    ),
]
QuantizeOption = Annotated[
    Quantization,
    typer.Option(
        "--quantize",
        help="Bits of the language model's weights; auto: 4 on a GPU for models over 1B.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps; default: the best there is."
    ),
]
DtypeOption = Annotated[
    Dtype, typer.Option("--dtype", help="Number format of the weights that are not quantized.")
]
MaxNewTokensOption = Annotated[
    int | None,
    typer.Option("--max-new-tokens", metavar="N", min=1, help="Longest answer, in tokens."),
]
TemperatureOption = Annotated[
    float,
    typer.Option(
        "--temperature", metavar="T", min=0.0, help="0 answers greedily; above it, sampled."
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Makes a sampled answer repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per result on stdout.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No notices and no progress on stderr.")
]
