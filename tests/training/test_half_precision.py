"""Training from a LLaVA-OneVision checkpoint in half precision, as the published ones are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from crosslmm.checkpoints.loading import load_config
from crosslmm.cost.distillation import distill_memory
from crosslmm.cost.shape import ModelShape
from crosslmm.training.distillation import Distillation
from crosslmm.training.recipe import Stage
from crosslmm.training.run import RunPlan
from tests.checkpoints.test_llava_onevision import write_checkpoint
from tests.support.training_runs import run_training
from tests.training.test_distillation import CPU, distil, logged, recipe, weights

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(scope="module", params=HALVES)
def half(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half") / request.param
    model = write_checkpoint(folder, image_size=49, layers=8)
    model.to(HALVES[request.param]).save_pretrained(folder)
    return folder


def test_frozen_weights_stay_in_half_precision(half: Path) -> None:
    """They are as many bytes as the command says."""
    prepared = Distillation(recipe(precision="bf16"), teacher=half).prepare(half, CPU)
    frozen = [weight for weight in prepared.model.parameters() if not weight.requires_grad]
    assert {weight.dtype for weight in frozen} == {torch.bfloat16}
    shape = ModelShape.from_config(json.loads(load_config(half).to_json_string()))
    counted = distill_memory(
        shape, frames=2, student_tokens=9, answer_tokens=8, dtype="bfloat16"
    )  # fmt: skip
    unread = [n for n, w in prepared.model.named_parameters() if ".7.v2v." in n]
    held = sum(w.nbytes for n, w in prepared.model.named_parameters()
               if not w.requires_grad and n not in unread)  # fmt: skip
    assert held == pytest.approx(counted.frozen, rel=0.02)


def test_a_run_computes_and_keeps_what_the_checkpoint_has(
    half: Path, videos: Path, tmp_path: Path
) -> None:
    plans: list[RunPlan] = []
    chosen = recipe({"progressive": 0.5}, precision="bf16", steps=4, gradient_checkpointing=True)
    trained, _ = distil(half, videos, tmp_path / "run", chosen, on_start=plans.append)
    losses = [entry["loss"] for entry in logged(tmp_path / "run") if "loss" in entry]
    assert len(losses) == 4
    assert all(0 < loss < 10 for loss in losses)
    assert re.search("estimated memory per device: .* frozen weights", plans[0].notes[1])
    after = weights(trained.folder)
    assert {tensor.dtype for tensor in after.values()} == {HALVES[half.name]}
    before = weights(half)
    kept = [name for name in after if "vision_tower.encoder" in name]
    assert kept
    for name in kept:
        assert torch.equal(after[name], before[name.removeprefix("model.")]), name


@pytest.mark.parametrize("stage", ["align", "tune"])
def test_the_papers_stages_keep_its_precision_too(
    half: Path, stage: Stage, lessons: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"stage": stage, "steps": 2, "precision": "bf16"}
    trained, _ = run_training(half, lessons, tmp_path / "run", learning_rate=1e-3, **options)
    after, before = weights(trained.folder), weights(half)
    assert {tensor.dtype for tensor in after.values()} == {HALVES[half.name]}
    same = [
        torch.equal(after[name], before[name.removeprefix("model.")])
        for name in after
        if "vision_tower.encoder.layers.0" in name
    ]
    assert all(same) == (stage == "align")
