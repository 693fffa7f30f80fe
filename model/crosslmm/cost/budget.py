"""How many frames a budget pays for: bytes of memory, or the compute of a prefill."""

import math
import re
from collections.abc import Callable
from dataclasses import asdict

from crosslmm.cost.arithmetic import count_tokens, prefill_macs
from crosslmm.cost.memory import memory_needed
from crosslmm.cost.settings import MOST_FRAMES, Settings
from crosslmm.cost.shape import ModelShape
from crosslmm.errors import UsageError
from crosslmm.merging import TokenBudget

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_MOST_COMPUTE = 1e30
_SECONDS = {"ms": 0.001, "s": 1, "min": 60}


def most_frames(
    shape: ModelShape, memory: int, *, budget: TokenBudget | None = None, settings: Settings
) -> int:
    """The most frames whose run fits in `memory` bytes; 0 where not even the weights do."""
    options = asdict(settings)
    return _most(
        lambda frames: memory_needed(shape, frames=frames, budget=budget, **options).total <= memory
    )


def frames_at(
    shape: ModelShape, macs: float, *, budget: TokenBudget | None = None, settings: Settings
) -> int:
    """The most frames whose prefill, encoding included, takes at most so many multiply-accumulates;
    0 where one takes more."""
    return _most(
        lambda frames: (
            prefill_macs(
                shape,
                frames=frames,
                budget=budget,
                text_tokens=settings.text_tokens,
                batch=settings.batch,
            ).total
            <= macs
        )
    )


def frames_in_context(shape: ModelShape, budget: TokenBudget | None, text_tokens: int) -> int:
    """The most frames whose prompt stays within the language model's context, up to `MOST_FRAMES`."""
    return _most(
        lambda frames: (
            count_tokens(shape, frames=frames, budget=budget, text_tokens=text_tokens).prompt
            <= shape.language.context
        )
    )


def parse_size(text: str) -> int:
    """Bytes: 24GB, 24GiB, 800M, 123456789. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if match is None or (match[3] and not match[2]):
        raise UsageError(f"{text}: not a size; give 24GB, 24GiB or 800MB")
    unit = _BINARY[match[2] + "i"] if match[3] else _UNITS[match[2]]
    size = float(match[1]) * unit
    if math.isinf(size):
        raise UsageError(f"{text}: larger than any memory")
    return int(size)


def parse_compute(text: str) -> tuple[float, bool]:
    """A budget of a prefill, and whether it is in seconds; else in multiply-accumulates, of which one
    is two FLOPs: 2s, 500ms, 10TFLOP, 5TMAC. Raises UsageError."""
    given = text.strip().lower()
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|min)", given):
        value = float(match[1]) * _SECONDS[match[2]]
    elif match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mgtp]?)(flop|mac)s?", given):
        value = float(match[1]) * _UNITS[match[2]] / (2 if match[3] == "flop" else 1)
    else:
        raise UsageError(f"{text}: not a budget; give seconds or compute: 2s, 10TFLOP")
    if not 0 < value < _MOST_COMPUTE:
        raise UsageError(f"{text}: a budget must be above 0 and below 10^30")
    return value, match[2] in _SECONDS


def _most(fits: Callable[[int], bool]) -> int:
    low, high = 0, 1
    while high <= MOST_FRAMES and fits(high):
        low, high = high, 2 * high
    high = min(high, MOST_FRAMES + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
