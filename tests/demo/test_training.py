"""The demo's training: resumable, repeatable, and it learns."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SiglipVisionModel

from crosslmm.demo.encoder import ImageBatches, PatchClassifier, init_position_embeddings
from crosslmm.demo.model import demo_config, demo_processor
from crosslmm.demo.run import SHORT, demo_recipe, train_demo
from crosslmm.demo.stage import StageOptions, run_stage
from crosslmm.errors import CheckpointError, UsageError
from crosslmm.inference.footage import TRAINED_FRAMES
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.training.checkpoints import (
    TrainingDiverged,
    latest_checkpoint,
    list_checkpoints,
)


def test_the_encoder_learns_what_covers_a_patch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = demo_config(demo_processor()).vision_config
    config.num_hidden_layers = 1
    encoder = SiglipVisionModel(config)
    init_position_embeddings(encoder)
    log = run_stage(
        PatchClassifier(encoder),
        ImageBatches(batch=4, image_size=96, patch_size=8, seed=0),
        StageOptions(steps=30, warmup_steps=5, log_steps=5, save_steps=100),
        folder=tmp_path,
    )
    losses = [record["loss"] for record in log if "loss" in record]
    assert losses[-1] < 0.85 * losses[0]
    position = [record["position"] for record in log if "position" in record]
    assert position[-1] < 0.5 * position[0]


def _losses(out: Path, stage: str) -> list[float]:
    last = latest_checkpoint(out / stage)
    assert last is not None
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return [record["loss"] for record in history if "loss" in record]


def test_killed_and_started_again_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_demo(whole, short=True)

    class Killed(BaseException):
        pass

    def kill(line: str) -> None:
        if line.startswith("2-clips: step 3 "):
            raise Killed

    with pytest.raises(Killed):
        train_demo(parts, short=True, report=kill)
    assert not (parts / "demo").exists()
    told: list[str] = []
    finished = train_demo(parts, short=True, report=told.append)
    assert finished is not None
    assert [line for line in told if line.startswith("1-encoder")] == [
        "1-encoder: already complete"
    ]
    assert "2-clips: resuming from step 2" in told
    assert sum(" loss " in f" {line} " for line in told) <= 3  # it went on, not from the beginning
    for stage in ("1-encoder", "2-clips"):
        assert _losses(parts, stage) == pytest.approx(_losses(whole, stage), abs=2e-3)
    assert (finished / "model.safetensors").stat().st_size < 15_000_000
    restored = CrossLMMForConditionalGeneration.from_pretrained(finished)
    assert restored.dtype == torch.bfloat16
    assert restored.config.default_frames == 16


@pytest.mark.timeout(600)
def test_one_process_takes_the_steps_of_two(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "crosslmm_cli", "train", "demo", "--out", tmp_path / "two", "--set", "short=true",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, check=False, env=environment, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    train_demo(tmp_path / "one", short=True)
    for stage in ("1-encoder", "2-clips"):
        two, one = (_losses(tmp_path / each, stage) for each in ("two", "one"))
        assert two == pytest.approx(one, rel=5e-3)
        assert len({*two}) == len(two) == 4
    assert train_demo(tmp_path / "two", short=True) == tmp_path / "two" / "demo"


def test_a_stage_that_is_lost_stops_and_keeps_no_such_checkpoint(tmp_path: Path) -> None:
    class Lost(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.steps = torch.nn.Linear(2, 2), 0

        def forward(self, value: torch.Tensor) -> dict[str, torch.Tensor]:
            self.steps += 1
            loss = self.layer(value).square().mean()
            return {"loss": loss * float("nan") if self.steps > 4 else loss}

    class Ones:
        def at(self, number: int) -> dict[str, Any]:
            return {"value": torch.ones(2, 2)}

    options = StageOptions(steps=6, batches=1, save_steps=3, log_steps=100)
    with pytest.raises(TrainingDiverged, match=r"of step 6 is not a finite number.*\n.*point-3"):
        run_stage(Lost(), Ones(), options, folder=tmp_path)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-3"]


def test_processes_that_cannot_share_a_step_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    images = ImageBatches(batch=1, image_size=96, patch_size=8, seed=0)
    with pytest.raises(UsageError, match="3 processes cannot share the 2 batches"):
        run_stage(torch.nn.Identity(), images, StageOptions(steps=1), folder=tmp_path / "run")


def test_what_is_not_a_run_of_the_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    mine = tmp_path / "demo" / "holidays.mp4"
    mine.touch()
    with pytest.raises(UsageError, match="holds no run"):
        train_demo(tmp_path, short=True)
    with pytest.raises(UsageError, match="is a file"):
        train_demo(mine, short=True)
    assert {*tmp_path.rglob("*")} == {mine.parent, mine}


def test_the_command_takes_its_own_settings_and_no_others(
    tmp_path: Path, run: Callable[..., Any]
) -> None:
    refused = run("train", "demo", "--out", tmp_path / "run", "--model", "demo")
    assert refused.code == 2
    assert "takes only --set" in refused.err
    unknown = run("train", "demo", "--out", tmp_path / "run", "--set", "sed=1")
    assert unknown.code == 2
    assert "unknown option 'sed'; did you mean seed?" in unknown.err
    assert not (tmp_path / "run").exists()
    done = run("train", "demo", "--out", tmp_path / "run", "--set", "short=true", "--set", "seed=3")
    assert (done.code, done.out) == (0, f"{tmp_path / 'run' / 'demo'}\n"), done.err
    assert "2-clips: step 4 of 4" in done.err
    assert (tmp_path / "run" / "demo" / "model.safetensors").is_file()


def test_another_seed_is_another_model(tmp_path: Path) -> None:
    recipe = replace(SHORT, encoder=replace(SHORT.encoder, steps=2), stages=())
    losses = []
    for seed in (0, 0, 1):
        out = tmp_path / str(len(losses))
        train_demo(out, seed=seed, recipe=recipe)
        losses.append(_losses(out, "1-encoder"))
    assert losses[0] == losses[1] != losses[2]
    last = latest_checkpoint(tmp_path / "0" / "1-encoder")
    assert last is not None
    weights = load_file(last / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "bias" not in k}, last / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not fit its model"):
        train_demo(tmp_path / "0", seed=0, recipe=recipe)
    for other in ({"seed": 1, "recipe": recipe}, {"seed": 0, "short": True}):
        with pytest.raises(UsageError, match="a different recipe or `seed`"):
            train_demo(tmp_path / "0", **other)


def test_the_full_recipe_ends_on_the_frames_it_is_used_with() -> None:
    last = demo_recipe().stages[-1]
    fewest, most = last.clips.frames
    assert fewest <= demo_config(demo_processor()).default_frames <= most
    assert most == TRAINED_FRAMES  # with more, the built-in model warns
    assert last.options.final_rate < 0.1
