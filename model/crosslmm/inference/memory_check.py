"""Whether a model fits: its memory estimated before anything is loaded."""

from collections.abc import Mapping
from typing import Literal

import torch

from crosslmm.checkpoints.headers import TensorInfo, read_gates
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.cost import Memory, ModelShape, memory_needed
from crosslmm.device import free_memory
from crosslmm.errors import CheckpointError, OutOfMemory
from crosslmm.files import gigabytes
from crosslmm.inference.runtime import Notice


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
    try:
        return memory_needed(
            ModelShape.from_config(config.to_dict()).with_gates(read_gates(headers)),
            frames=frames,
            tokens_per_frame=tokens_per_frame,
            dtype=str(dtype).removeprefix("torch."),
            quantization=quantization,
        )
    except CheckpointError:
        return None


def check_memory(name: str, needed: Memory, device: torch.device, on_notice: Notice | None) -> None:
    """Raises OutOfMemory where the weights alone cannot fit; gives a notice where frames may not."""
    free = free_memory(device)
    if needed.weights > free:
        raise OutOfMemory(
            f"{name}: its weights need {gigabytes(needed.weights)} and {device} has "
            f"{gigabytes(free)} free; set `quantization` to 4bit, or use a smaller model"
        )
    if needed.total > free and on_notice:
        on_notice(
            f"this may need {gigabytes(needed.total)} and {device} has {gigabytes(free)} free; "
            "fewer frames will be used if it runs out"
        )
