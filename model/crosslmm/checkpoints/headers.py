"""What a safetensors checkpoint holds, read from its headers alone.

A header names every tensor with its type, shape and position, so a checkpoint of any size is
described, and a truncated file found out, in milliseconds and without torch. Only the gates,
one number each, are read from the data. What a parameter belongs to is told by its name, here and
nowhere else.
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from crosslmm.errors import CheckpointError

Branch = Literal["v2v", "t2v"]
PartName = Literal[
    "adapters",
    "vision encoder",
    "projector",
    "V2V cross-attention",
    "T2V cross-attention",
    "cross-attention norms",
    "language model",
    "other",
]

# The first that matches a parameter's name. LLaVA-OneVision's names are the same; PEFT puts its own
# words in between.
_PARTS: tuple[tuple[PartName, re.Pattern[str]], ...] = (
    ("adapters", re.compile(r"\.lora_")),
    ("vision encoder", re.compile(r"\bvision_(tower|model)\.")),
    ("projector", re.compile(r"\bmulti_modal_projector\.|\bimage_newline\b")),
    ("V2V cross-attention", re.compile(r"\bcross_attention_layers\..*\bv2v\.")),
    ("T2V cross-attention", re.compile(r"\bcross_attention_layers\..*\bt2v\.")),
    ("cross-attention norms", re.compile(r"\bcross_attention_layers\.|\bfeature_norm\.")),
    ("language model", re.compile(r"\b(language_model|lm_head|model)\b")),
)
PARTS: tuple[PartName, ...] = (*(part for part, _ in _PARTS), "other")
_GATE = re.compile(r"\bcross_attention_layers\.(\d+)\.(?:modules_to_save\.\w+\.)?(v2v|t2v)\.gate$")

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_HEADER_LIMIT = 100_000_000  # bytes; the format's own bound
_SCALARS = {"F64": "<d", "F32": "<f", "F16": "<e"}


class IncompleteCheckpoint(CheckpointError):
    """A checkpoint of which files, or parts of them, are missing."""


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor; `offset` is the position of its first byte in `file`."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int

    @property
    def count(self) -> int:
        return prod(self.shape)

    def scalar(self) -> float:
        """The value of a tensor of one floating-point number."""
        if self.count != 1:
            raise ValueError(f"a tensor of shape {self.shape} is not one number")
        size = 2 if self.dtype == "BF16" else struct.calcsize(_SCALARS[self.dtype])
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            data = stream.read(size)
        if self.dtype == "BF16":  # the upper half of a float32
            return float(struct.unpack("<f", b"\0\0" + data)[0])
        return float(struct.unpack(_SCALARS[self.dtype], data)[0])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, each known to be there.

    Raises CheckpointError for a folder whose weights are absent, pickled or half-downloaded.
    """
    index = folder / INDEX
    if index.exists():
        try:
            named = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index}: not a readable index of weights") from error
        if outside := [name for name in named if Path(str(name)).name != name]:
            raise CheckpointError(f"{index}: names a file outside its folder, {outside[0]!r}")
    else:
        found = sorted(path.name for path in folder.glob("*.safetensors"))  # broken links too
        named = ["model.safetensors"] if "model.safetensors" in found else found
        if any("-of-" in name for name in named):
            raise IncompleteCheckpoint(f"{folder}: half-downloaded: shards without their {INDEX}")
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        if pickles and not named:
            raise CheckpointError(
                f"{folder}: only pickled weights ({pickles[0]}), which can run code when opened "
                "and are refused; save the model as safetensors"
            )
        if not named:
            raise IncompleteCheckpoint(f"{folder}: no weights (no *.safetensors file)")
    absent = [name for name in named if not (folder / name).exists()]
    if absent:
        raise IncompleteCheckpoint(
            f"{folder}: half-downloaded: {len(absent)} of {len(named)} weight files are missing "
            f"({absent[0]})"
        )
    return [folder / name for name in named]


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file; CheckpointError where it is malformed or truncated."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size - 8, _HEADER_LIMIT):
                raise ValueError("header longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        start = 8 + length
        tensors = {
            name: TensorInfo(
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                file=file,
                offset=start + entry["data_offsets"][0],
            )
            for name, entry in header.items()
        }
        end = max((start + entry["data_offsets"][1] for entry in header.values()), default=start)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error) as error:
        raise CheckpointError(f"{file}: not a readable safetensors file") from error
    if size < end:
        raise IncompleteCheckpoint(
            f"{file}: half-downloaded: {size:,} of {end:,} bytes; fetch it again"
        )
    return tensors


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint folder by name."""
    return {name: info for file in weight_files(folder) for name, info in read_header(file).items()}


@dataclass(frozen=True)
class Gate:
    """One branch after decoder layer `layer` (from 0); `value` is tanh of the stored number."""

    layer: int
    branch: Branch
    value: float

    @property
    def is_open(self) -> bool:
        return self.value != 0


def part_of(name: str) -> PartName:
    """The part of the model that a parameter of this name belongs to."""
    return next((part for part, pattern in _PARTS if pattern.search(name)), "other")


def parse_gate(name: str) -> tuple[int, Branch] | None:
    """The decoder layer and the branch of a gate, by its parameter's name; None for any other."""
    match = _GATE.search(name)
    return (int(match[1]), "v2v" if match[2] == "v2v" else "t2v") if match else None


def read_gates(tensors: Mapping[str, TensorInfo]) -> tuple[Gate, ...]:
    """The gates of a checkpoint, layer by layer, V2V first."""
    gates = [
        Gate(*gate, math.tanh(tensor.scalar()))
        for name, tensor in tensors.items()
        if (gate := parse_gate(name)) and tensor.count == 1
    ]
    return tuple(sorted(gates, key=lambda gate: (gate.layer, gate.branch != "v2v")))
