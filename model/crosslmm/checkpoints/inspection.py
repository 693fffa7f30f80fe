"""A checkpoint described without loading it: its parts, types and gates, from the headers."""

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosslmm.checkpoints.catalog import find, read_config
from crosslmm.checkpoints.headers import TensorInfo, read_headers

# The first that matches a tensor's name; LLaVA-OneVision's names are ours too.
_PARTS = (
    ("vision encoder", re.compile(r"(^|\.)vision_(tower|model)\.")),
    ("projector", re.compile(r"(^|\.)multi_modal_projector\.|(^|\.)image_newline$")),
    ("V2V cross-attention", re.compile(r"cross_attention_layers\.\d+\.v2v")),
    ("T2V cross-attention", re.compile(r"cross_attention_layers\.\d+\.t2v")),
    ("cross-attention norms", re.compile(r"cross_attention_layers\.|(^|\.)feature_norm\.")),
    ("language model", re.compile(r"(^|\.)(language_model|lm_head|model)(\.|$)")),
)
_GATE = re.compile(r"cross_attention_layers\.(\d+)\.(v2v|t2v)\.gate$")
_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Part:
    name: str
    parameters: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Gate:
    """One branch after decoder layer `layer` (from 0); `value` is tanh of the stored number."""

    layer: int
    branch: str
    value: float

    @property
    def is_open(self) -> bool:
        return self.value != 0


@dataclass(frozen=True)
class Inspection:
    """`size` is the bytes of the weights; `config` the whole config.json."""

    name: str
    path: Path
    kind: str
    size: int
    parameters: int
    dtypes: tuple[str, ...]
    parts: tuple[Part, ...]
    gates: tuple[Gate, ...]
    config: dict[str, Any]


def inspect(name: str | Path) -> Inspection:
    """Describe the checkpoint called `name`, of any kind; CheckpointError where it is not whole."""
    folder = find(name)
    config = read_config(folder)
    tensors = read_headers(folder)
    grouped: dict[str, list[TensorInfo]] = defaultdict(list)
    for key, tensor in tensors.items():
        grouped[_part_of(key)].append(tensor)
    order = [*(part for part, _ in _PARTS), "other"]
    return Inspection(
        name=str(name),
        path=folder,
        kind=str(config.get("model_type")),
        size=sum(file.stat().st_size for file in {tensor.file for tensor in tensors.values()}),
        parameters=sum(tensor.count for tensor in tensors.values()),
        dtypes=_dtypes(list(tensors.values())),
        parts=tuple(
            Part(part, sum(tensor.count for tensor in members), _dtypes(members))
            for part in order
            if (members := grouped.get(part))
        ),
        gates=tuple(sorted(_gates(tensors), key=lambda gate: (gate.layer, gate.branch != "v2v"))),
        config=config,
    )


def _part_of(name: str) -> str:
    return next((part for part, pattern in _PARTS if pattern.search(name)), "other")


def _gates(tensors: dict[str, TensorInfo]) -> list[Gate]:
    return [
        Gate(int(match[1]), match[2], math.tanh(tensor.scalar()))
        for name, tensor in tensors.items()
        if (match := _GATE.search(name))
    ]


def _dtypes(tensors: list[TensorInfo]) -> tuple[str, ...]:
    """The types in use, the one with most parameters first."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[_NAMES.get(tensor.dtype, tensor.dtype.lower())] += tensor.count
    return tuple(dtype for dtype, _ in counts.most_common())
