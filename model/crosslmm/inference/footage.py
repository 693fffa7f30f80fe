"""Whether footage is of the kind that the built-in model was trained on, and how much of it.

It was trained on synthetic clips only, and answers questions about anything else fluently and wrongly.
A linear classifier over what its encoder makes of a frame tells the two apart; `benchmarks/footage.py`
fits it and measures it.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from crosslmm.checkpoints import catalog
from crosslmm.packed_features import unpack_features

TRAINED_FRAMES = 24
"""As many frames of a video the built-in model was trained on."""
UNFAMILIAR = (
    "this footage is unlike the synthetic clips that the built-in model was trained on: "
    "its answers are made up"
)


@dataclass(frozen=True, eq=False)
class FootageCheck:
    """weight: (4 · D + 1,) over `describe`, the bias last; threshold: the mean score of a clip's frames
    above which it is unfamiliar."""

    weight: torch.Tensor
    threshold: float

    def score(self, features: torch.Tensor) -> float:
        """features: (T, N, D) of one clip → the mean score of its frames, higher for stranger ones."""
        frames = torch.stack([describe(frame) for frame in features])  # (T, 4 · D)
        return float((frames @ self.weight[:-1] + self.weight[-1]).mean())

    def warning(self, features: torch.Tensor) -> tuple[str, ...]:
        """What to warn of, nothing for familiar footage."""
        return (UNFAMILIAR,) if self.score(features) > self.threshold else ()


def describe(features: torch.Tensor) -> torch.Tensor:
    """features: (N, D), of the patches of a frame → (4 · D,): their mean, spread, and tenth and
    ninetieth percentile."""
    values = unpack_features(features).float().cpu()
    low, high = values.quantile(torch.tensor([0.1, 0.9]), dim=0)
    return torch.cat([values.mean(0), values.std(0), low, high])


def read_check(folder: Path | None) -> FootageCheck | None:
    """The check of the built-in model; None for any other checkpoint."""
    demo = catalog.demo_folder()
    if folder is None or folder.resolve() != demo.resolve():
        return None
    tensors = load_file(demo.with_name("footage.safetensors"))
    return FootageCheck(tensors["weight"], float(tensors["threshold"]))
