"""Frames equal to the one before are encoded once, and nothing else changes."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import crosslmm
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.encoding import FrameEncoder
from crosslmm.merging import TokenBudget
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.video import Frames, SourceInfo
from crosslmm.window_merging import WindowMerger

# Frame 0 comes again, but not at once.
SHOWN = [0, 0, 0, 1, 2, 2, 0, *[3] * 40, *range(4, 24)]
DISTINCT = 1 + sum(one != after for one, after in pairwise(SHOWN))


@pytest.fixture(scope="module")
def shown(assistant: Assistant) -> np.ndarray:
    """(T, H, W, 3) uint8, of the model's size."""
    height, width = assistant.processor.frame_size
    noise = np.random.default_rng(0).integers(0, 256, (24, height, width, 3), np.uint8)
    return noise[SHOWN]


def encode_all(assistant: Assistant, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """What the encoder makes of every frame by itself."""
    pixels = assistant.processor.normalise(torch.from_numpy(frames), dtype=assistant.model.dtype)
    with torch.inference_mode():
        embeds, features = assistant.model.model.encode_frames(pixels, 4)
    assert features is not None
    return embeds, features


def test_tokens_and_features_are_those_of_encoding_all(
    assistant: Assistant, shown: np.ndarray
) -> None:
    encoder = FrameEncoder(assistant.runtime, frames=len(shown))
    for frame in shown:
        encoder.add(frame)
    visual = encoder.finish()
    assert encoder.encoded == DISTINCT == 25
    embeds, features = encode_all(assistant, shown)
    assert isinstance(visual.features, torch.Tensor)
    torch.testing.assert_close(visual.embeds[0], embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(visual.features[0], features, rtol=0, atol=2e-6)


def test_answers_are_those_of_encoding_all(
    assistant: Assistant, shown: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"fps": 1, "max_new_tokens": 12}
    once = assistant.ask(shown, "what?", **options)
    merged = assistant.ask(shown, "what?", merge="folder", keep="25%", **options)
    assert once.frames_encoded == merged.frames_encoded == DISTINCT
    assert len(once.frames) == len(shown)
    monkeypatch.setattr("crosslmm.inference.encoding.np.array_equal", lambda one, other: False)
    every = assistant.ask(shown, "what?", **options)
    assert every.frames_encoded == len(shown)
    assert once.text == every.text
    assert merged.text == assistant.ask(shown, "what?", merge="folder", keep="25%", **options).text


def test_batches_encode_them_once_too(
    assistant: Assistant, shown: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    model = type(assistant.model.model)
    encode = model.encode_frames

    def counting(self, pixels, tokens):  # type: ignore[no-untyped-def]
        sizes.append(len(pixels))
        return encode(self, pixels, tokens)

    monkeypatch.setattr(model, "encode_frames", counting)
    source = SourceInfo(
        path="a", duration=70.0, fps=1.0, size=(30, 30), codec="", container="", rotation=0,
        frame_count=len(shown), reader="",
    )  # fmt: skip
    clips = [
        Frames(part, tuple(range(len(part))), tuple(map(float, range(len(part)))), source)
        for part in (shown[:20], shown[20:])
    ]
    assistant.answer_batch(clips, ["what?", "who?"], max_new_tokens=2)
    assert sum(sizes) == DISTINCT
    assert max(sizes) == 16


def test_windows_of_merging_take_copies_apart(assistant: Assistant, shown: np.ndarray) -> None:
    still = np.repeat(shown[:1], 600, axis=0)  # more than two windows of 256
    visual = assistant.open_video(still, fps=1, merge="uniform", keep=30)
    assert visual.visual_tokens == 30
    encoder = FrameEncoder(
        assistant.runtime, frames=600, budget=TokenBudget(4, merge="uniform", keep=30)
    )
    for frame in still:
        encoder.add(frame)
    merged = encoder.finish()
    assert encoder.encoded == 1
    assert isinstance(merged, RaggedTokens)
    assert merged.longest == 30


def test_memory_that_runs_out_keeps_the_copies(
    checkpoint: Path, shown: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    assistant = crosslmm.load(checkpoint, dtype="float32", on_notice=notices.append)
    expected = assistant.ask(shown, "what?", fps=1, max_new_tokens=6)
    model = type(assistant.model.model)
    encode = model.encode_frames

    def limited(self, pixels, tokens):  # type: ignore[no-untyped-def]
        if len(pixels) > 5:
            raise torch.OutOfMemoryError("pretended: CUDA out of memory")
        return encode(self, pixels, tokens)

    monkeypatch.setattr(model, "encode_frames", limited)
    answer = assistant.ask(shown, "what?", fps=1, max_new_tokens=6)
    assert (answer.text, answer.frames_encoded) == (expected.text, DISTINCT)
    assert len(notices) == 2


def test_a_window_that_cannot_be_merged_adds_nothing_twice(
    checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    assistant = crosslmm.load(checkpoint, dtype="float32", on_notice=notices.append)
    opened = partial(assistant.open_video, clip, merge="uniform", keep="50%")
    monkeypatch.setitem(WindowMerger.__init__.__kwdefaults__, "window", 4)
    expected = opened(frames=4)
    merge = WindowMerger._merge

    def limited(self: WindowMerger, budget: int) -> None:
        if self._frames > 4:
            raise torch.OutOfMemoryError("pretended: CUDA out of memory")
        merge(self, budget)

    monkeypatch.setattr(WindowMerger, "_merge", limited)
    session = opened(frames=8)
    assert len(session.frames) == 4
    assert session.visual_tokens == expected.visual_tokens
    assert not [notice for notice in notices if "at a time" in notice]
