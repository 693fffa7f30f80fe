"""Whether a model fits: its memory estimated before anything is loaded."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, cast

import torch

from crosslmm.checkpoints.headers import TensorInfo, read_gates
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.cost import Memory, ModelShape, memory_needed
from crosslmm.cost.budget import frames_in_context, most_frames
from crosslmm.cost.settings import TEXT_TOKENS, Settings
from crosslmm.device import free_memory
from crosslmm.errors import CheckpointError, OutOfMemory, UsageError
from crosslmm.files import gigabytes
from crosslmm.inference.runtime import Notice, Runtime
from crosslmm.merging import TokenBudget
from crosslmm.options import ResolvedQuantization

_TEXT_TOKENS = TEXT_TOKENS + 512  # a question, and an answer of the usual limit
_KEPT_FREE = 0.1  # of the memory: what allocators hold beside the tensors


def estimate_memory(
    config: CrossLMMConfig,
    headers: Mapping[str, TensorInfo],
    *,
    frames: int,
    budget: TokenBudget,
    dtype: torch.dtype,
    quantization: Literal["4bit", "8bit", "none"],
    feature_bits: int | None = None,
) -> Memory | None:
    """What a run will take at its peak; None for a model or a merging whose cost is unknown."""
    try:
        return memory_needed(
            ModelShape.from_config(config.to_dict()).with_gates(read_gates(headers)),
            frames=frames,
            budget=budget,
            dtype=str(dtype).removeprefix("torch."),
            quantization=quantization,
            feature_bits=feature_bits,
        )
    except (CheckpointError, UsageError):
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


def frames_that_fit(
    runtime: Runtime, memory: int | None = None, *, budget: TokenBudget | None = None
) -> int:
    """The most frames whose run fits into `memory` bytes, weights included, and into the model's
    context; into what is free on the device where no memory is given. `budget` is of the visual
    tokens, the runtime's unless given.

    Raises UsageError where not one does, or the cost of this kind of model is not known.
    """
    model, budget = runtime.model, budget or runtime.budget
    try:
        shape = ModelShape.from_config(model.config.to_dict())
    except CheckpointError as error:
        raise UsageError(f"{runtime.name}: its memory cannot be estimated: {error}") from None
    layers = list(model.model.dual_layers)
    shape = replace(
        shape,
        open_v2v=sum(layer.v2v.is_open for layer in layers),
        open_t2v=sum(layer.t2v.is_open for layer in layers),
    )
    settings = Settings(
        text_tokens=_TEXT_TOKENS,
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=cast(ResolvedQuantization, runtime.quantization),
        feature_bits=model.model.feature_bits,
    )
    if memory is None:
        weights = memory_needed(
            shape, frames=1, dtype=settings.dtype, quantization=settings.quantization
        ).weights
        memory = weights + int(free_memory(runtime.device) * (1 - _KEPT_FREE))
    fitting = most_frames(shape, memory, budget=budget, settings=settings)
    in_context = frames_in_context(shape, budget, _TEXT_TOKENS)
    if not min(fitting, in_context):
        where = "its context" if fitting else gigabytes(memory)
        tokens = budget.count(1)
        raise UsageError(
            f"{runtime.name}: not even one frame of {tokens:,} token{'s' if tokens != 1 else ''} fits "
            f"in {where}"
        )
    return min(fitting, in_context)
