"""The benchmarks do what they say, on shapes too small to time anything."""

import argparse
import json
import os
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import against_llava_onevision as against
from benchmarks import frame_sampling
from benchmarks.checkpoints import SHAPES, random_checkpoint
from benchmarks.fresh import fresh
from benchmarks.plot import draw_against
from benchmarks.record import Record, table
from crosslmm.cost import RECIPES, ModelShape


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint("tiny", tmp_path_factory.mktemp("benchmarks"))


def test_both_sides_get_the_same_video_and_run(folder: Path) -> None:
    pixels = against.make_pixels(folder, 3, "cpu")
    peer, ours = against.CONTENDERS[0], against.CONTENDERS[1]
    theirs = against.inputs(against.load(folder, peer, "cpu"), peer, pixels)
    model = against.prepare(against.load(folder, ours, "cpu"), ours)
    given = against.inputs(model, ours, pixels)
    assert torch.equal(theirs["pixel_values_videos"], given["pixel_values_videos"])
    text = against.PROMPT_BEFORE + against.PROMPT_AFTER
    assert theirs["input_ids"].shape[1] == 3 * 16 + 1 + text
    assert given["input_ids"].shape[1] == 3 * 9 + 1 + text
    with torch.inference_mode():
        assert model.model.reads_features
        run = against.time_run(model, given, steps=2)
    assert run.first > 0
    assert run.step > 0


def test_contenders_differ_as_named(folder: Path) -> None:
    model = against.load(folder, against.CONTENDERS[1], "cpu")
    for contender in against.CONTENDERS[1:]:
        against.prepare(model, contender)
        with torch.inference_mode():
            assert model.model.reads_features == contender.gates
        assert model.config.t2v_cache == contender.t2v_cache
        assert model.config.v2v_scope == contender.v2v_scope
        assert model.model.feature_bits == contender.feature_bits


def test_rows_hold_the_ratios() -> None:
    options = argparse.Namespace(frames=[8], contenders=against.CONTENDERS[:2])
    names = [contender.name for contender in options.contenders]
    runs = {
        (names[0], 8): [against.Run(seconds, 5.0, 0.1) for seconds in (4.0, 8.0, 6.0)],
        (names[1], 8): [against.Run(2.0, 1.0, 0.05)],
    }
    peer, ours = against.rows_of(options, runs, {(names[0], 8): 320, (names[1], 8): 20})
    assert (peer["times_faster"], peer["first_token_s"], peer["runs"]) == (1.0, 6.0, 3)
    assert (ours["times_faster"], ours["times_smaller"]) == (3.0, 16.0)
    assert ours["times_less_processor"] == 5.0
    assert (peer["tokens_per_s"], ours["tokens_per_s"]) == (10, 20)


def test_shapes_are_those_of_the_peers() -> None:
    for shape, recipe in (("0.5b", "llava-onevision-0.5b"), ("7b", "llava-onevision-7b")):
        parts = SHAPES[shape]
        config = {
            "model_type": "llava_onevision",
            "vision_config": parts["vision"],
            "text_config": parts["text"],
        }
        counted = ModelShape.from_config(config)
        assert counted.vision == RECIPES[recipe].vision
        assert counted.language == RECIPES[recipe].language


def test_fresh_is_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.fresh.PRELOADED", [])
    assert fresh(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        fresh(divmod, 1, 0)


def test_record_says_where_it_was_run(tmp_path: Path) -> None:
    path = Record("trial", {"frames": 8}, [{"frames": 8, "seconds": None}]).write(tmp_path)
    content = json.loads(path.read_text())
    assert content["rows"] == [{"frames": 8, "seconds": None}]
    assert content["machine"]["cores"] >= 1
    assert content["versions"]["torch"] == metadata.version("torch")
    assert list(tmp_path.iterdir()) == [path]


def test_table() -> None:
    rows = [{"frames": 1024, "model": "a", "s": 0.123}, {"frames": 8, "model": "b", "s": None}]
    assert table(rows).splitlines() == [
        "| frames | model | s |",
        "| ---: | --- | ---: |",
        "| 1,024 | a | 0.123 |",
        "| 8 | b |  |",
    ]


def test_plot(tmp_path: Path) -> None:
    rows = [
        {"frames": frames, "model": model, "first_token_s": frames / speed, "peak_mb": None}
        for frames in (8, 16)
        for model, speed in ((against.PEER, 1), ("crosslmm", 4))
    ]
    draw_against(tmp_path / "picture.png", rows, against.PEER)
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_long_clip_and_its_readers(tmp_path: Path) -> None:
    """Copied packets play as one clip, of which every reader gives the same frames."""
    clip = tmp_path / "long.mp4"
    frame_sampling.write_long_clip(clip, copies=3, frames=40, size=(320, 180))
    plain = frame_sampling.pyav(clip, 6)
    assert plain.shape == (6, 384, 384, 3)
    exact = frame_sampling.crosslmm_exact(clip, 6)
    # Frames 10, 30, 50, …: every forty repeat the first, so two pictures take turns.
    for pixels in (plain, exact):
        differences = np.abs(pixels[0].astype(int) - pixels.astype(int)).mean(axis=(1, 2, 3))
        assert differences[[2, 4]].max() < 1 < differences[[1, 3, 5]].min()
    assert np.abs(plain.astype(int) - exact.astype(int)).mean() < 8
    keys = frame_sampling.pyav_keyframes(clip, 6)  # one of each copy
    assert len(keys) == 3
    assert np.abs(keys[1:].astype(int) - keys[0]).mean() < 1


def test_reader_that_is_not_installed_is_a_row() -> None:
    def absent(clip: Path, frames: int) -> np.ndarray:
        import surely_not_installed  # noqa: F401

        raise AssertionError

    run = frame_sampling.run(absent, Path("clip.mp4"), 8, 1)
    assert run == frame_sampling.Run(problem="not installed (surely_not_installed)")
