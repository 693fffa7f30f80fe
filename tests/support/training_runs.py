"""Runs of training on a tiny model."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from crosslmm.training.recipe import Recipe
from crosslmm.training.run import TrainingResult, train
from crosslmm.training.trainer import TrainingProgress

Weights = dict[str, torch.Tensor]


def recipe(**options: Any) -> Recipe:
    defaults = {
        "stage": "tune", "learning_rate": 3e-3, "frames": 4, "batch_size": 4, "device_batch_size": 2,
        "steps": 12, "log_every": 1, "save_every": 4, "workers": 0, "precision": "fp32",
        "gradient_checkpointing": False,
    }  # fmt: skip
    return Recipe(**defaults | options)


def run_training(
    start: Path, data: Path, out: Path, *, report: Any = None, **options: Any
) -> tuple[TrainingResult, list[TrainingProgress]]:
    seen: list[TrainingProgress] = []
    own = {key: options.pop(key) for key in ("eval_data", "on_start") if key in options}
    trained = train(
        recipe(**options), model=start, data=data, out=out, on_progress=seen.append, **own
    )
    assert trained is not None
    return trained, seen


def weights(folder: Path) -> Weights:
    return load_file(folder / "model.safetensors")


def read_lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()
