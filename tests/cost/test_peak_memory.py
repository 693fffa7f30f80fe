"""The estimated peak of memory against what the allocator held."""

import ast
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.cost import (
    RECIPES,
    memory_needed,
)
from crosslmm.cost.merging import COUNTED
from crosslmm.merging import TokenBudget
from crosslmm.window_merging import WindowMerger
from tests.support.counting import MIDDLE, shape_of
from tests.support.tiny import tiny_model, tiny_processor


def _peak_bytes(function: Any) -> tuple[int, Any]:
    """The most bytes alive at once in a call, by the allocator's own record, and its result."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = function()
    alive = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak, kept


def test_limits_are_those_of_the_code_that_runs() -> None:
    from crosslmm import gated_attention, limits
    from crosslmm.cost import arithmetic, memory, shape
    from crosslmm.modeling_crosslmm import CrossLMMModel

    assert arithmetic.ABSORBED_QUERIES == gated_attention.ABSORBED_QUERIES
    assert gated_attention.SLICE_BYTES == limits.SLICE_BYTES
    assert CrossLMMModel.frames_per_chunk == memory.FRAMES_PER_CHUNK
    assert set(shape.LANGUAGE_DEFAULTS) == set(limits.DECODERS)


def test_no_limit_is_written_down_twice() -> None:
    from crosslmm import limits

    package = Path(limits.__file__).parent
    names = [name for name in vars(limits) if name.isupper()]
    assert names
    for path in package.rglob("*.py"):
        assigned = {
            target.id
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        if path.name != "limits.py":
            assert not assigned & set(names), path


@pytest.mark.parametrize(
    ("changes", "frames", "tokens", "part"),
    [
        ({}, 24, 9, 1024),
        ({"t2v_cache": "projected"}, 24, 9, 1024),
        ({}, 12, 49, 1024),
        ({"t2v_cache": "projected", "v2v_scope": "frame"}, 24, 49, 200),
        ({"v2v_scope": "member"}, 24, 9, 1024),
        ({"cross_kv": "shared"}, 24, 9, 1024),
        ({"cross_kv": "shared", "v2v_scope": "member"}, 24, 9, 100),
        ({"feature_bits": 8}, 24, 9, 1024),
        ({"feature_bits": 8, "v2v_scope": "member"}, 24, 9, 1024),
        ({"feature_bits": 8, "cross_kv": "shared"}, 24, 9, 1024),
        ({"feature_bits": 8, "t2v_cache": "projected", "v2v_scope": "frame"}, 24, 9, 100),
        ({"projector_order": "project_first"}, 4, 4, 1024),
    ],
)
def test_peak_is_the_allocators(
    clip: Path,
    changes: dict[str, Any],
    frames: int,
    tokens: int,
    part: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from crosslmm.inference.assistant import Assistant

    monkeypatch.setattr("crosslmm.limits.PREFILL_TOKENS", part)
    bits = changes.get("feature_bits")
    model = tiny_model(**MIDDLE | {key: changes[key] for key in changes.keys() - {"feature_bits"}})
    model.model.frames_per_chunk, model.model.feature_bits = 4, bits
    processor = tiny_processor(image_size=98, tokens_per_frame=tokens)
    assistant = Assistant(model, processor)
    peak, watched = _peak_bytes(lambda: assistant.open_video(clip, frames=frames))
    text = len(watched.prefix) - frames * tokens
    needed = memory_needed(
        replace(shape_of(model), dtype="float32"),
        frames=frames,
        budget=TokenBudget(tokens),
        text_tokens=text,
        frames_per_chunk=4,
        feature_bits=bits,
    )
    assert needed.above_weights == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize(
    ("method", "changes", "part", "window"),
    [
        *((method, {}, 1024, 256) for method in COUNTED),
        ("folder", {"v2v_scope": "frame"}, 40, 10),  # several windows, and parts of the prompt
        ("uniform", {"projector_order": "project_first"}, 40, 10),
    ],
)
def test_peak_with_merging_is_the_allocators(
    clip: Path,
    method: str,
    changes: dict[str, Any],
    part: int,
    window: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All tokens of a window are alive until it is merged, then only those that are kept."""
    from crosslmm.inference.assistant import Assistant

    monkeypatch.setattr("crosslmm.limits.PREFILL_TOKENS", part)
    monkeypatch.setattr("crosslmm.cost.memory.MERGED_FRAMES", window)
    monkeypatch.setattr("crosslmm.cost.merging.MERGED_FRAMES", window)
    monkeypatch.setitem(WindowMerger.__init__.__kwdefaults__, "window", window)
    model = tiny_model(**MIDDLE | changes | {"tokens_per_frame": 49})
    model.model.frames_per_chunk = 4
    assistant = Assistant(model, tiny_processor(image_size=98, tokens_per_frame=49))
    budget = TokenBudget(49, method, tokens_per_frame=4)
    opened = partial(assistant.open_video, clip, merge=method, tokens_per_frame=4)
    peak, session = _peak_bytes(lambda: opened(frames=24))
    needed = memory_needed(
        replace(shape_of(model), dtype="float32"),
        frames=24,
        budget=budget,
        text_tokens=len(session.prefix) - session.visual_tokens,
        frames_per_chunk=4,
    )
    assert session.visual_tokens == 96
    assert needed.above_weights == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("merge", [None, "folder"])
def test_peak_of_a_batch_is_the_allocators(
    clip: Path, merge: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosslmm.inference.assistant import Assistant
    from crosslmm.inference.batch import answer_batch

    # A prompt that would be taken in parts, were it alone.
    monkeypatch.setattr("crosslmm.limits.PREFILL_TOKENS", 200)
    model = tiny_model(**MIDDLE | {"tokens_per_frame": 49})
    model.model.frames_per_chunk = 4
    assistant = Assistant(model, tiny_processor(image_size=98, tokens_per_frame=49))
    frames = crosslmm.sample(clip, frames=24)
    prompt = assistant.processor.prompt("what?", times=frames.times, duration=3.0)
    text = len(assistant.processor.tokenizer(prompt).input_ids) - 1
    keep = "20%" if merge else None
    answered = partial(answer_batch, max_new_tokens=1, merge=merge, keep=keep)
    peak, _ = _peak_bytes(lambda: answered(assistant.runtime, [frames] * 3, ["what?"] * 3))
    needed = memory_needed(
        replace(shape_of(model), dtype="float32"),
        frames=24,
        budget=TokenBudget(49, merge, keep),
        text_tokens=text,
        batch=3,
        frames_per_chunk=4,
    )
    assert needed.above_weights == pytest.approx(peak, rel=0.15)


def test_features_cache_saves_memory() -> None:
    shape = RECIPES["crosslmm-7b"]
    projected = memory_needed(replace(shape, t2v_cache="projected"), frames=256)
    features = memory_needed(shape, frames=256)
    assert projected.features == features.features == 256 * 729 * 1152 * 2
    assert projected.cross_cache == 7 * 2 * 512 * 256 * 729 * 2
    assert features.cross_cache == 0
