"""A checkpoint described without loading it: its parts, types and gates, from the headers."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosslmm.checkpoints.adapters import is_adapter, read_adapter, read_adapter_header
from crosslmm.checkpoints.catalog import ADAPTER, find, read_config, size_on_disk
from crosslmm.checkpoints.headers import (
    PARTS,
    Gate,
    PartName,
    TensorInfo,
    part_of,
    read_gates,
    read_headers,
)

_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class PartSummary:
    """The parameters of one part, and their types, that of most parameters first."""

    name: PartName
    parameters: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """`size` is in bytes on disk, as in `StoredModel`; `config` the contents of config.json
    or, of an adapter, of adapter_config.json."""

    name: str
    path: Path
    kind: str
    size: int
    parameters: int
    dtypes: tuple[str, ...]
    parts: tuple[PartSummary, ...]
    gates: tuple[Gate, ...]
    config: dict[str, Any]


def inspect(name: str | Path) -> Inspection:
    """Describe the checkpoint called `name`, of any kind; CheckpointError where it is incomplete."""
    folder = find(name)
    if is_adapter(folder):
        kind, config = ADAPTER, read_adapter(folder).config
        tensors = read_adapter_header(folder)
    else:
        config = read_config(folder)
        kind, tensors = str(config.get("model_type")), read_headers(folder)
    grouped: dict[PartName, list[TensorInfo]] = defaultdict(list)
    for key, tensor in tensors.items():
        grouped[part_of(key)].append(tensor)
    return Inspection(
        name=str(name),
        path=folder,
        kind=kind,
        size=size_on_disk(folder),
        parameters=sum(tensor.count for tensor in tensors.values()),
        dtypes=_dtypes(list(tensors.values())),
        parts=tuple(
            PartSummary(part, sum(tensor.count for tensor in members), _dtypes(members))
            for part in PARTS
            if (members := grouped.get(part))
        ),
        gates=read_gates(tensors),
        config=config,
    )


def _dtypes(tensors: list[TensorInfo]) -> tuple[str, ...]:
    """The types in use, the one with most parameters first."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[_NAMES.get(tensor.dtype, tensor.dtype.lower())] += tensor.count
    return tuple(dtype for dtype, _ in counts.most_common())
