"""The built-in model tuned on for more frames and other numbers of tokens."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.headers import part_of
from crosslmm.checkpoints.loading import load_model
from crosslmm.demo.batches import ClipBatches, ClipOptions
from crosslmm.demo.model import demo_processor
from crosslmm.demo.run import frames_stage

CPU = torch.device("cpu")


def test_each_batch_has_its_own_frames_and_tokens() -> None:
    processor = demo_processor()
    options = ClipOptions(clips=1, questions=2, frames=(2, 5), tokens=(9, 4))
    seen = set()
    for number in range(12):
        batch = ClipBatches(processor, options, seed=0, name="x").at(number)
        frames = batch["pixel_values_videos"].shape[1]
        merged = int((batch["input_ids"] == processor.video_token_id).sum())
        assert batch["dense_colour"].shape == (1, merged)
        seen.add((frames, merged // frames))
    assert {frames for frames, _ in seen} == {2, 3, 4, 5}
    assert {tokens for _, tokens in seen} == {9, 4}
    plain = ClipBatches(processor, replace(options, tokens=()), seed=0, name="x").at(0)
    merged = plain["input_ids"] == processor.video_token_id
    assert int(merged.sum()) == 9 * plain["pixel_values_videos"].shape[1]


def test_batches_of_one_step_cost_the_same() -> None:
    processor = demo_processor()
    options = ClipOptions(
        questions=1, frames=(2, 5), tokens=(9, 4), frames_per_batch=6, alike=2, text_only_every=3
    )
    source = ClipBatches(processor, options, seed=0, name="x")
    shapes: list[tuple[int, int] | None] = []
    for number in range(12):
        batch = source.at(number)
        if "pixel_values_videos" not in batch:
            shapes.append(None)
            continue
        clips, frames = batch["pixel_values_videos"].shape[:2]
        assert clips == max(1, 6 // frames)
        merged = int((batch["input_ids"] == processor.video_token_id).sum())
        shapes.append((frames, merged // (clips * frames)))
    assert shapes[0::2] == shapes[1::2]
    assert shapes[0::2].index(None) == 0
    assert shapes[0::2].count(None) == 2  # the first and the fourth step
    assert len({*shapes}) > 2


def test_the_command_tunes_all_but_the_encoder(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("train", "demo-frames", "--out", tmp_path / "run", "--set", "short=true")
    assert (done.code, done.out) == (0, f"{tmp_path / 'run' / 'demo'}\n"), done.err
    assert "5-frames: step 4 of 4" in done.err
    model = load_model(tmp_path / "run" / "demo", device=CPU, dtype=torch.float32)
    assert (model.config.default_frames, model.config.tokens_per_frame) == (16, 9)
    before = load_model(catalog.resolve("demo"), device=CPU, dtype=torch.float32).state_dict()
    changed = {
        part_of(name) for name, tensor in model.state_dict().items()
        if not torch.equal(before[name], tensor)
    }  # fmt: skip
    assert "vision encoder" not in changed
    assert {"projector", "language model"} <= changed


def test_the_recipe_is_the_one_that_was_measured() -> None:
    stage = frames_stage()
    assert (stage.options.steps, stage.options.batches, stage.clips.alike) == (1400, 2, 2)
    assert (stage.clips.frames, stage.clips.frames_per_batch) == ((8, 24), 96)
    assert stage.clips.misplaced == 0.4
    assert sorted(stage.clips.tokens) == [1, 4, 4, 9, 9, 9, 9, 16]
