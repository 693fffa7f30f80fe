"""Whether a model fits: its memory estimated before anything is loaded."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch

from crosslmm.checkpoints.headers import TensorInfo
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.cost import Memory, ModelShape, memory_needed
from crosslmm.device import free_memory
from crosslmm.errors import CheckpointError, OutOfMemory
from crosslmm.inference.runtime import Notice
from crosslmm.modeling_crosslmm import CrossLMMModel


def estimate_memory(
    config: CrossLMMConfig,
    headers: Mapping[str, TensorInfo],
    *,
    frames: int,
    tokens_per_frame: int,
    dtype: torch.dtype,
    quantization: Literal["4bit", "8bit", "none"],
) -> Memory | None:
    """What a run will take at its peak; None for a kind of model whose cost is not known."""
    gates = {
        branch: sum(
            tensor.count == 1 and tensor.scalar() != 0
            for name, tensor in headers.items()
            if name.endswith(f"{branch}.gate")
        )
        for branch in ("v2v", "t2v")
    }
    try:
        shape = replace(
            ModelShape.from_config(config.to_dict()),
            open_v2v=gates["v2v"],
            open_t2v=gates["t2v"],
        )
        return memory_needed(
            shape,
            frames=frames,
            tokens_per_frame=tokens_per_frame,
            dtype=str(dtype).removeprefix("torch."),
            quantization=quantization,
            frames_per_chunk=CrossLMMModel.frames_per_chunk,
        )
    except CheckpointError:
        return None


def check_memory(name: str, needed: Memory, device: torch.device, on_notice: Notice | None) -> None:
    """Raises OutOfMemory where the weights alone cannot fit; gives a notice where frames may not."""
    free = free_memory(device)
    if needed.weights > free:
        raise OutOfMemory(
            f"{name}: its weights need {_gigabytes(needed.weights)} and {device} has "
            f"{_gigabytes(free)} free; set `quantization` to 4bit, or use a smaller model"
        )
    if needed.total > free and on_notice:
        on_notice(
            f"this may need {_gigabytes(needed.total)} and {device} has {_gigabytes(free)} free; "
            "fewer frames will be used if it runs out"
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
