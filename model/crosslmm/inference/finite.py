"""Logits that are not numbers, found at the step that made them.

Damaged weights, or activations beyond the range of their type, turn what follows into NaN or infinity.
The token chosen from that is arbitrary, often the one that ends an answer, which would then be empty.
"""

from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from crosslmm.errors import ModelError


def not_finite(dtype: torch.dtype) -> ModelError:
    """What to raise of a model that computes in `dtype`, or to report of one of its answers."""
    advice = "its weights may be damaged; fetch them again"
    if dtype == torch.float16:
        advice = "float16 may be too narrow for it; use another `dtype`"
    name = str(dtype).removeprefix("torch.")
    return ModelError(f"the model computed NaN or infinity (in {name}): {advice}")


class FiniteLogits(LogitsProcessor):
    """Raises ModelError at the first logits that are not numbers."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if bool(_broken(scores).any()):
            raise not_finite(self._dtype)
        return scores


class BrokenRows(LogitsProcessor):
    """Notes the rows of a batch whose logits are not numbers; `stop` ends these alone."""

    def __init__(self) -> None:
        self.found: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        broken = _broken(scores)
        self.found = broken if self.found is None else self.found | broken
        return scores

    @property
    def stop(self) -> StoppingCriteria:
        return _StopBroken(self)

    def rows(self) -> list[bool]:
        """Of each row whether it was broken; empty before the first step."""
        return [] if self.found is None else [bool(row) for row in self.found.tolist()]


class _StopBroken(StoppingCriteria):
    def __init__(self, rows: BrokenRows) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: object) -> Any:
        return self._rows.found  # a processor is called before, at every step


def _broken(scores: torch.Tensor) -> torch.Tensor:
    """(B, vocabulary) → (B,). A maximum keeps NaN and +inf; at -inf single tokens are excluded by
    other processors, and are no fault."""
    return ~scores.amax(dim=-1).isfinite()
