"""How far a student is from its teacher, over a batch of answers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from crosslmm.limits import LOGITS_TOGETHER


@dataclass(frozen=True)
class Predictions:
    """What teacher or student makes of a batch.

    - head: to logits. states: (A, H), those that the tokens of the answers are predicted from.
    - merged: (R, H), last states of the student's merged tokens; a teacher's is the mean of those that
      the merged token stands for.
    - weights: (R,), of the merged tokens in the loss; None for the same for all, 1 together.
    """

    head: nn.Module
    states: torch.Tensor
    merged: torch.Tensor
    weights: torch.Tensor | None = None

    def logits(self, part: slice) -> torch.Tensor:
        """Of some of the states, in float32."""
        weight: Any = self.head.weight
        logits: torch.Tensor = self.head(self.states[part].to(weight.dtype)).float()
        return logits


def distillation_terms(
    student: Predictions, teacher: Predictions, answer: torch.Tensor, temperature: float
) -> dict[str, torch.Tensor]:
    """The terms of the loss, the first two summed over the tokens `answer` (A,), the last over the
    student's merged tokens by their weights.

    The divergence is multiplied with the square of the temperature, which keeps its gradient's size
    (arXiv 1503.02531). A vocabulary is wide: logits are made for a few tokens at a time, and again
    for the gradients.
    """

    def of(part: slice) -> torch.Tensor:
        logits = student.logits(part)
        with torch.no_grad():
            target = F.log_softmax(teacher.logits(part) / temperature, dim=-1)
        own = F.log_softmax(logits / temperature, dim=-1)
        divergence = F.kl_div(own, target, reduction="sum", log_target=True) * temperature**2
        return torch.stack([divergence, F.cross_entropy(logits, answer[part], reduction="sum")])

    sums = student.states.new_zeros(2, dtype=torch.float32)
    for first in range(0, max(len(answer), 1), LOGITS_TOGETHER):
        part = slice(first, first + LOGITS_TOGETHER)
        sums = sums + checkpoint(of, part, use_reentrant=False, preserve_rng_state=False)
    cosine = F.cosine_similarity(student.merged.float(), teacher.merged.float(), dim=-1)
    distance = 1 - cosine
    hidden = distance.mean() if student.weights is None else (distance * student.weights).sum()
    return {"divergence": sums[0], "answer": sums[1], "hidden": hidden}
