"""What a safetensors checkpoint holds, read from its headers alone.

A header names every tensor with its type, shape and position, so a checkpoint of any size is
described, and a truncated file found out, in milliseconds and without torch. Only the gates,
one number each, are read from the data. What a parameter belongs to is told by its name, here and
nowhere else.
"""

import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from crosslmm.errors import CheckpointError
from crosslmm.files import open_readable, parse_json, read_json

Branch = Literal["v2v", "t2v"]
PartName = Literal[
    "adapters",
    "vision encoder",
    "projector",
    "V2V cross-attention",
    "T2V cross-attention",
    "shared keys and values",
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
    ("shared keys and values", re.compile(r"\bcross_attention_kv\.")),
    ("cross-attention norms", re.compile(r"\bcross_attention_layers\.|\bfeature_norm\.")),
    ("language model", re.compile(r"\b(language_model|lm_head|model)\b")),
)
PARTS: tuple[PartName, ...] = (*(part for part, _ in _PARTS), "other")
_GATE = re.compile(r"\bcross_attention_layers\.(\d+)\.(?:modules_to_save\.\w+\.)?(v2v|t2v)\.gate$")

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_HEADER_LIMIT = 100_000_000  # bytes; the format's own bound
_MOST_FILES = 10_000  # of weights; the largest models have hundreds
_SCALARS = {"F64": "<d", "F32": "<f", "F16": "<e"}
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


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
        with open_readable(self.file) as stream:
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
    # As transformers chooses, so that what is examined is what is loaded.
    if index.exists() and not os.path.lexists(folder / SINGLE):
        try:
            named = sorted(set(read_json(index)["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index}: not a readable index of weights") from error
        if len(named) > _MOST_FILES:
            raise CheckpointError(
                f"{index}: names {len(named):,} files; no checkpoint has that many"
            )
        if outside := [name for name in named if Path(str(name)).name != name]:
            raise CheckpointError(f"{index}: names a file outside its folder, {outside[0]!r}")
    else:
        found = sorted(path.name for path in folder.glob("*.safetensors"))  # broken links too
        named = [SINGLE] if SINGLE in found else found
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
    absent = [name for name in named if not os.path.exists(folder / name)]
    if absent:
        raise IncompleteCheckpoint(
            f"{folder}: half-downloaded: {len(absent)} of {len(named)} weight files are missing "
            f"({absent[0]})"
        )
    return [folder / name for name in named]


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file; CheckpointError where it is malformed or truncated."""
    try:
        with open_readable(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size - 8, _HEADER_LIMIT):
                raise ValueError("header longer than the file")
            header = parse_json(stream.read(length))
        header.pop("__metadata__", None)
        start = 8 + length
        tensors = {}
        end = start
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            first, last = entry["data_offsets"]
            if start + first != end:
                raise ValueError(f"the data of {name} overlaps others, or leaves a hole")
            tensor = TensorInfo(entry["dtype"], tuple(entry["shape"]), file, start + first)
            if any(type(side) is not int or side < 0 for side in tensor.shape):
                raise ValueError(f"the shape of {name} is not made of sizes")
            if _BITS[tensor.dtype] * tensor.count != 8 * (last - first):
                raise ValueError(f"{name} has more or less data than its shape")
            tensors[name] = tensor
            end = start + last
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error) as error:
        reason = f" ({error})" if type(error) is ValueError else ""
        raise CheckpointError(f"{file}: not a readable safetensors file{reason}") from error
    if size < end:
        raise IncompleteCheckpoint(
            f"{file}: half-downloaded: {size:,} of {end:,} bytes; fetch it again"
        )
    if size > end:
        raise CheckpointError(f"{file}: has {size - end:,} bytes that belong to no tensor")
    return {name: tensors[name] for name in header}


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
    """The gates of a checkpoint, layer by layer, V2V first; of two with one place the later counts."""
    gates = {
        gate: Gate(*gate, math.tanh(tensor.scalar()))
        for name, tensor in tensors.items()
        if (gate := parse_gate(name)) and tensor.count == 1
    }
    return tuple(sorted(gates.values(), key=lambda gate: (gate.layer, gate.branch != "v2v")))
