"""Muon for hidden matrices, AdamW for everything else, in one optimizer.

With minutes of two CPU cores to spend, steps are what is scarce. Orthogonalized momentum (Jordan et
al., 2024) gets out of the plateau before shapes and glyphs are told apart in a fraction of the steps
that AdamW takes. Its own cost, a few small matrix products per step, is negligible in float32; torch's
own Muon computes them in bfloat16, which many a CPU emulates, many times slower.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from crosslmm.gated_attention import GatedCrossAttention


class OutputHead(nn.Linear):
    """A linear head that serves a loss only and is thrown away with it; AdamW trains it."""


@dataclass(frozen=True)
class Rates:
    """Learning rates by kind of parameter.

    - `matrix_rate` is Muon's: all singular values of a matrix move by it, of tall ones by more
      (√(rows/columns)); 0.02 is usual. `learning_rate` is AdamW's.
    - `embedding_factor`, `gate_factor`: what the latter is multiplied by for embeddings and gates.
    - `newton_schulz_steps`: of Muon's orthogonalization.
    """

    learning_rate: float = 2e-3
    matrix_rate: float = 0.02
    embedding_factor: float = 1.0
    gate_factor: float = 1.0
    weight_decay: float = 0.05
    newton_schulz_steps: int = 5


class Float32Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for matrices only; options and state are
    named as those of `torch.optim.Muon`."""

    def __init__(
        self, params: Sequence[dict[str, Any]], *, lr: float, momentum: float, ns_steps: int
    ) -> None:
        super().__init__(
            params, {"lr": lr, "weight_decay": 0.0, "momentum": momentum, "ns_steps": ns_steps}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._step(matrix, matrix.grad, group)
        return loss

    def _step(self, matrix: torch.Tensor, grad: torch.Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[matrix], group["momentum"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        mean = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        update = orthogonalize(grad.lerp(mean, momentum), group["ns_steps"])
        rows, columns = matrix.shape
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(update.to(matrix.dtype), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def orthogonalize(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """About the nearest matrix of which all singular values are one: those that it gives lie around one,
    and it takes a few matrix products (Newton–Schulz, with the quintic of Jordan et al., 2024)."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.float().T if tall else matrix.float()
    x = x / x.norm().clamp(min=1e-7)  # no singular value exceeds the norm
    for _ in range(steps):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.addmm(x, polynomial, x, beta=3.4445)
    return x.T if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """`Float32Muon` and `torch.optim.AdamW` on the same step, sharing groups and state: what a
    scheduler changes or a checkpoint restores reaches both."""

    def __init__(
        self,
        matrices: Sequence[dict[str, Any]],
        others: Sequence[dict[str, Any]],
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        newton_schulz_steps: int = 5,
    ):
        self._muon = Float32Muon(
            matrices, lr=Rates.matrix_rate, momentum=momentum, ns_steps=newton_schulz_steps
        )
        self._adamw = torch.optim.AdamW(others, betas=betas)
        self._matrix_groups = len(matrices)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})
        self._share()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = self._muon.step(closure)
        self._adamw.step()
        return loss

    def _share(self) -> None:
        self._muon.param_groups = self.param_groups[: self._matrix_groups]
        self._adamw.param_groups = self.param_groups[self._matrix_groups :]
        self._muon.state = self._adamw.state = self.state


def make_optimizer(module: nn.Module, rates: Rates) -> MuonAdamW:
    """Steps the trainable parameters of a module: its hidden matrices by Muon, embeddings, heads, norms,
    biases and gates by AdamW. Of the latter only heads decay."""
    matrices, embeddings, gates, heads, vectors = split_parameters(module)
    rate, decay = rates.learning_rate, rates.weight_decay
    others = [
        {"params": embeddings, "lr": rate * rates.embedding_factor, "weight_decay": 0.0},
        {"params": gates, "lr": rate * rates.gate_factor, "weight_decay": 0.0},
        {"params": heads, "lr": rate, "weight_decay": decay},
        {"params": vectors, "lr": rate, "weight_decay": 0.0},
    ]
    return MuonAdamW(
        [{"params": matrices, "lr": rates.matrix_rate, "weight_decay": decay}],
        [group for group in others if group["params"]],
        newton_schulz_steps=rates.newton_schulz_steps,
    )


def split_parameters(module: nn.Module) -> tuple[list[nn.Parameter], ...]:
    """The trainable parameters: hidden matrices, embeddings (the patches' among them), gates, the
    matrices of heads, and vectors (norms, biases). Each once, as its first owner has it."""
    groups: dict[str, list[nn.Parameter]] = {
        kind: [] for kind in ("matrix", "embedding", "gate", "head", "vector")
    }
    seen: set[nn.Parameter] = set()
    for owner in module.modules():
        for parameter in owner.parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                groups[_kind(owner, parameter)].append(parameter)
    return tuple(groups.values())


def _kind(owner: nn.Module, parameter: nn.Parameter) -> str:
    if isinstance(owner, nn.Embedding | nn.Conv2d):  # the convolution embeds patches
        return "embedding"
    if isinstance(owner, GatedCrossAttention) and parameter is owner.gate:
        return "gate"
    if parameter.ndim < 2:
        return "vector"
    return "head" if isinstance(owner, OutputHead) else "matrix"
