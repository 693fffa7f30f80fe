"""What differs between training on given answers and distilling; `run` does what does not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.training.dataset import Samples, VideoDataset
from crosslmm.training.trainer import CrossLMMTrainer

MODEL = "model"
ADAPTER = "adapter"


@dataclass(frozen=True)
class Prepared:
    """A model ready to be trained: `module` is what the trainer steps, `model` the CrossLMM in it with
    its configuration, `dtype` that of its checkpoint, `notes` are for the user."""

    module: nn.Module
    model: CrossLMMForConditionalGeneration
    config: CrossLMMConfig
    dtype: torch.dtype
    notes: tuple[str, ...] = ()


class Method(Protocol):
    """In the order of the calls. All are made on every process; UsageError and CheckpointError say
    what cannot be."""

    def identity(self) -> dict[str, Any]:
        """What a run depends on besides recipe, model and data."""
        ...

    def read_samples(self, data: str | Path, *, held_out: bool) -> Samples: ...

    def prepare(self, source: Path, device: torch.device) -> Prepared: ...

    def begin(self, *, datasets: list[VideoDataset], folder: Path) -> None:
        """What comes before the first step, in a run's folder that is there."""
        ...

    def make_trainer(self, **arguments: Any) -> CrossLMMTrainer: ...

    def export(
        self, trainer: CrossLMMTrainer, source: Path, folder: Path, prepared: Prepared
    ) -> None:
        """Write the trained model as an ordinary checkpoint, in the dtype of the one it started from."""
        ...
