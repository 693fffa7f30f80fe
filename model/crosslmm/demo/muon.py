"""Muon for hidden matrices, AdamW for everything else, in one optimizer.

With minutes of two CPU cores to spend, steps are what is scarce. Orthogonalised momentum (Jordan et
al., 2024) gets out of the plateau before shapes and glyphs are told apart in a fraction of the steps
that AdamW takes; its own cost, a few small matrix products per step, is not felt.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """Roughly U·Vᵀ of the singular value decomposition, by Newton-Schulz iterations; (m, n), bfloat16
    inside."""
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = (x / (x.norm() + 1e-7)).bfloat16()
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class MuonAdamW(torch.optim.Optimizer):
    """Groups with `muon=True` hold matrices and take Muon steps, the others AdamW steps.

    The learning rate of a Muon group is that of a matrix whose singular values all move by it, tall
    ones by more (√(rows/columns)); 0.02 is usual.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
    ):
        super().__init__(
            list(groups),
            {"lr": 1e-3, "weight_decay": 0.0, "muon": False, "momentum": momentum, "betas": betas},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                step = self._muon if group["muon"] else self._adam
                step(parameter, gradient, group)
        return loss

    def _muon(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(average, group["momentum"])  # Nesterov
        rows, columns = parameter.shape
        scale = max(1.0, rows / columns) ** 0.5
        parameter.add_(orthogonalise(ahead), alpha=-group["lr"] * scale)

    def _adam(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
        first, second = group["betas"]
        state["step"] += 1
        count = float(state["step"])
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].lerp_(gradient.square(), 1 - second)
        size = (square / (1 - second**count)).sqrt_().add_(1e-8)
        parameter.addcdiv_(mean, size, value=-group["lr"] / (1 - first**count))
