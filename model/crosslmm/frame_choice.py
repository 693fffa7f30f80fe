"""The frames that T2V goes on reading while an answer is decoded: those that the end of the prompt
attends to most, so that a token's cost does not grow with the video.

Legend: k frames that are chosen; others as in `modeling_crosslmm.py`.
"""

from collections.abc import Callable

import torch


class FrameChoice:
    """What each layer's T2V attended to in the last pass of several tokens, and what is read by it."""

    def __init__(self, count: int, patches: int) -> None:
        """count: k; patches: N."""
        self._count = count
        self._patches = patches
        self._scores: dict[int, torch.Tensor] = {}  # (B, T) of each layer
        self._frames: torch.Tensor | None = None  # (B, k)
        self._held: dict[str, torch.Tensor] = {}

    def score(self, layer: int, weights: torch.Tensor) -> None:
        """weights: (B, T·N), of the last token, in any measure that all layers share."""
        self._scores[layer] = weights.unflatten(1, (-1, self._patches)).sum(dim=-1)
        self._frames = None
        self._held.clear()

    def is_needed(self, read: torch.Tensor | None) -> bool:
        """Whether there are more than k frames to read: read (…, T·N, D)."""
        return read is not None and read.shape[-2] > self._count * self._patches

    @property
    def is_made(self) -> bool:
        """Whether it is known what was attended to."""
        return bool(self._scores)

    def take(self, name: str, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """`tensor`, with T·N entries along `dim`, with those of the k frames in their order; kept by its
        name until the next choice."""
        if name not in self._held:
            self._held[name] = self.select(tensor, dim)
        return self._held[name].to(tensor.device)

    def select(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """As `take`, not kept."""
        if self._frames is None:
            device = next(iter(self._scores.values())).device
            total = torch.stack([each.to(device) for each in self._scores.values()]).sum(dim=0)
            self._frames = total.topk(self._count, dim=1).indices.sort(dim=1).values
        split = tensor.unflatten(dim, (-1, self._patches))
        rows = [
            row.index_select(dim - 1, frames)
            for row, frames in zip(split, self._frames.to(tensor.device), strict=True)
        ]
        return torch.stack(rows).flatten(dim, dim + 1)

    def change_rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Of a cache whose rows change: of all that is known of them."""
        self._scores = {layer: change(scores) for layer, scores in self._scores.items()}
        self._held = {name: change(tensor) for name, tensor in self._held.items()}
        self._frames = None if self._frames is None else change(self._frames)
