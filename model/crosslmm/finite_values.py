"""NaN and infinity in what is stored: weights, the state of an optimizer, tensors of a cache."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def is_finite(tensor: torch.Tensor) -> bool:
    """Without a copy of it."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def broken_values(state: Any, name: str = "") -> Iterator[str]:
    """The names, with dots in between, of what in nested tables and lists is NaN or infinite, or is a
    tensor that holds it."""
    if isinstance(state, torch.Tensor):
        # Of weights that are divided among processes, what this one has.
        local = state.to_local() if hasattr(state, "to_local") else state
        if not is_finite(local.detach()):
            yield name
    elif isinstance(state, float):
        if not math.isfinite(state):
            yield name
    elif isinstance(state, Mapping | list | tuple):
        items = state.items() if isinstance(state, Mapping) else enumerate(state)
        for key, value in items:
            yield from broken_values(value, f"{name}.{key}" if name else str(key))
