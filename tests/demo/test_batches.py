"""Batches of clips for the built-in model: their frames and tokens."""

from dataclasses import replace

from crosslmm.demo.batches import ClipBatches, ClipOptions
from crosslmm.demo.model import demo_processor
from crosslmm.demo.run import demo_recipe


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


def test_the_recipe_is_the_one_that_was_measured() -> None:
    stage = demo_recipe().stages[-1]
    assert (stage.options.steps, stage.options.batches, stage.clips.alike) == (1400, 2, 2)
    assert (stage.clips.frames, stage.clips.frames_per_batch) == ((8, 24), 96)
    assert stage.clips.misplaced == 0.4
    assert sorted(stage.clips.tokens) == [1, 4, 4, 9, 9, 9, 9, 16]
