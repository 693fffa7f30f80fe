"""The prefill of a video in parts: as one pass, with keys and values of all frames projected rarely."""

from dataclasses import replace
from math import ceil
from typing import Any

import pytest
import torch

from crosslmm.cost import RECIPES, memory_needed
from crosslmm.inference.prefix import prefill_video
from crosslmm.limits import PREFILL_TOKENS, prefill_part
from crosslmm.modeling_crosslmm import VisualTokens
from crosslmm.visual_encoding import merge_video
from tests.model.test_model import VIDEO
from tests.support.tiny import tiny_model

FRAMES, TOKENS = 48, 4


def many_frames() -> tuple[torch.Tensor, VisualTokens]:
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(1, FRAMES, TOKENS, 64, generator=generator)
    features = torch.randn(1, FRAMES, 25, 32, generator=generator)
    ids = torch.tensor([[5, 6, *[VIDEO] * (FRAMES * TOKENS), 20, 30, 40]])
    return ids, VisualTokens(embeds, features)


def count_calls(module: torch.nn.Module, calls: list[int]) -> None:
    def count(_: Any, given: Any) -> None:
        calls.append(given[0].shape[:-1].numel())

    module.register_forward_pre_hook(count)


@torch.inference_mode()
@pytest.mark.parametrize(("merge", "most"), [(None, 2), ("folder", 3)])
def test_few_parts_read_all_frames(
    monkeypatch: pytest.MonkeyPatch, merge: str | None, most: int
) -> None:
    """Of 12 parts of 16 tokens each projected keys and values of all frames again."""
    monkeypatch.setattr("crosslmm.limits.PREFILL_TOKENS", 16)
    model = tiny_model(tokens_per_frame=TOKENS)
    ids, visual = many_frames()
    given: Any = visual
    if merge is not None:
        kept = FRAMES * TOKENS // 2
        ids = torch.cat([ids[:, :2], ids[:, 2 : 2 + kept], ids[:, -3:]], dim=1)
        given = merge_video(visual, [kept], merge)
    expected = model(ids, visual_tokens=given).logits[:, -1]
    calls: list[int] = []
    count_calls(next(iter(model.model.dual_layers)).v2v.k_proj, calls)
    prefix = prefill_video(model, ids, given)
    assert 0 < len(calls) <= most
    with prefix.lend() as cache:
        rest = ids[:, len(prefix) :]
        logits = model(rest, past_key_values=cache, use_cache=True).logits[:, -1]
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


@torch.inference_mode()
def test_parts_read_their_own_frames_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosslmm.limits.PREFILL_TOKENS", 16)
    model = tiny_model(tokens_per_frame=TOKENS, v2v_scope="frame")
    calls: list[int] = []
    count_calls(next(iter(model.model.dual_layers)).v2v.k_proj, calls)
    prefill_video(model, *many_frames())
    assert calls == [16 // TOKENS * 25] * (FRAMES * TOKENS // 16)


@pytest.mark.parametrize(("name", "most"), [("crosslmm-2b", 10), ("crosslmm-7b", 10)])
def test_parts_of_a_long_video_grow_where_memory_stays(
    monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    shape = replace(RECIPES[name], tokens_per_frame=9)
    language, frames = shape.language, 10_000
    part = prefill_part(
        frames * 9,
        frames * shape.vision.patches,
        width=language.width,
        intermediate=language.intermediate,
        kv_heads=language.kv_heads,
        head_dim=language.head_dim,
        size=2,
        masked=False,
    )
    assert ceil(frames * 9 / part) <= most < ceil(frames * 9 / PREFILL_TOKENS) == 88
    grown = memory_needed(shape, frames=frames).above_weights
    monkeypatch.setattr("crosslmm.cost.memory.prefill_part", lambda *_, **__: PREFILL_TOKENS)
    assert grown <= 1.05 * memory_needed(shape, frames=frames).above_weights
