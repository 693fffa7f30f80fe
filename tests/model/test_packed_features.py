"""Features in 8 bits: what is kept of them, and that attention over them unpacks them part by part."""

from pathlib import Path

import pytest
import torch

import crosslmm
from crosslmm.inference.assistant import Assistant
from crosslmm.packed_features import (
    attend_packed,
    map_features,
    pack_features,
    score_packed,
    split_packed,
    unpack_features,
)
from tests.model.test_model import SCOPES, answer, one_video, unequal_batch
from tests.support.tiny import tiny_model, tiny_processor


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.rand(*shape[:-1], 1, generator=generator) * 100
    return torch.randn(*shape, generator=generator) * sizes


@pytest.mark.parametrize("scales", [1, 2])
def test_an_error_is_at_most_half_a_step(scales: int) -> None:
    given = features(2, 7, 32)
    given[0, 3] = 0
    packed = pack_features(given, scales)
    assert packed.shape == (2, 7, 32 + 4 * scales)
    steps = given.unflatten(-1, (scales, -1)).abs().amax(dim=-1) / 127
    error = (unpack_features(packed, scales=scales) - given).abs().unflatten(-1, (scales, -1))
    assert (error <= steps[..., None] * 0.5001).all()
    assert error.max() > 0
    for number, step in zip(
        split_packed(packed, scales)[1].flatten(), steps.flatten(), strict=True
    ):
        assert number == pytest.approx(float(step))


def test_what_is_not_finite_stays_so() -> None:
    given = features(1, 3, 8)
    given[0, 1, 2] = torch.nan
    given[0, 2, 0] = torch.inf
    seen = unpack_features(pack_features(given))
    assert seen[0, 0].isfinite().all()
    assert not seen[0, 1].isfinite().any()
    assert not seen[0, 2].isfinite().any()


def test_a_part_of_a_file_is_read_wherever_it_lies() -> None:
    packed = pack_features(features(3, 31))  # 35 bytes each
    moved = torch.empty(packed.numel() + 1, dtype=torch.int8)[1:].view(packed.shape)
    moved.copy_(packed)
    assert torch.equal(unpack_features(moved), unpack_features(packed))
    assert torch.equal(unpack_features(moved[1:2]), unpack_features(packed[1:2]))


@pytest.mark.parametrize("most", [1, 100, 10**9])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("scales", "heads"), [(1, 1), (2, 2)])
def test_attention_is_that_over_unpacked_features(
    monkeypatch: pytest.MonkeyPatch, scales: int, heads: int, masked: bool, most: int
) -> None:
    """In parts of one feature, of a few, and in one."""
    monkeypatch.setattr("crosslmm.packed_features.UNPACKED_BYTES", most * 8 * 4 * 2 * 36)
    packed = pack_features(features(2, 11, 32) / 100, scales)
    whole = unpack_features(packed, torch.float64, scales)
    width = 32 // scales // heads
    query = torch.randn(2, heads, 3, width, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(11)[None] < torch.tensor([[11], [4]]) if masked else None
    key, value = (
        (half.unflatten(-1, (heads, -1)).transpose(1, 2) for half in (whole * 1).chunk(scales, -1))
        if scales == 2
        else (whole[:, None],) * 2
    )
    scores = query.double() @ key.transpose(2, 3)
    torch.testing.assert_close(
        score_packed(query, packed, scales=scales).double(), scores, rtol=0, atol=1e-4
    )
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    expected = scores.softmax(dim=-1) @ value
    read = attend_packed(query, packed, mask, scales=scales)
    torch.testing.assert_close(read.double(), expected, rtol=0, atol=1e-4)
    linear = torch.nn.Linear(32, 5)
    if scales == 1:
        made = map_features(linear, packed, torch.float32)
        torch.testing.assert_close(made, linear(unpack_features(packed)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"t2v_cache": "projected"}, {"cross_kv": "shared"}])
@pytest.mark.parametrize("scope", SCOPES)
@torch.no_grad()
def test_a_model_reads_what_was_packed(
    monkeypatch: pytest.MonkeyPatch, changes: dict, scope: str
) -> None:
    """As one that reads the same numbers unpacked, by all of its ways: slices by head, absorbed and
    shared queries, chosen frames, batches."""
    monkeypatch.setattr("crosslmm.packed_features.UNPACKED_BYTES", 8 * 4000)
    monkeypatch.setattr("crosslmm.gated_attention.SLICE_BYTES", 5000)
    model = tiny_model(v2v_scope=scope, **changes)
    scales = model.model.feature_scales
    batch, singles = unequal_batch()
    plain = model(**batch).logits

    def rounded(given: torch.Tensor) -> torch.Tensor:
        return unpack_features(pack_features(given, scales), scales=scales)

    valid = batch["attention_mask"].bool()
    seen = []
    for frames in (None, 2):
        model.config.t2v_frames = frames
        with monkeypatch.context() as patch:
            patch.setattr(model.model, "pack", rounded)
            expected = model(**batch).logits[valid]
            answers = answer(model, batch), answer(model, singles[0]), answer(model, one_video(5))
        model.model.feature_bits = 8
        torch.testing.assert_close(model(**batch).logits[valid], expected, rtol=0, atol=5e-5)
        seen.append(answer(model, batch))
        assert (seen[-1], answer(model, singles[0]), answer(model, one_video(5))) == answers
        model.model.feature_bits = None
    difference = (expected - plain[valid]).abs().max()
    assert 1e-4 < difference < 0.5


@torch.no_grad()
def test_what_is_kept_while_decoding_is_packed() -> None:
    model = tiny_model()
    model.model.feature_bits = 8
    cache = model(**one_video(), use_cache=True).past_key_values.cross_attention_cache
    (layer,) = cache.layers
    assert (layer.keys.dtype, layer.keys.shape) == (torch.int8, (1, 1, 75, 36))


@pytest.mark.parametrize("changes", [{}, {"cross_kv": "shared"}])
def test_videos_of_a_batch_answer_as_alone(clip: Path, changes: dict) -> None:
    assistant = Assistant(tiny_model(**changes), tiny_processor())
    assistant.model.model.feature_bits = 8
    videos = [crosslmm.sample(clip, frames=count, size=(30, 30)) for count in (4, 2)]
    together = assistant.answer_batch(videos, ["what?", "who is it?"], max_new_tokens=6)
    alone = [
        assistant.answer_batch([video], [question], max_new_tokens=6)[0]
        for video, question in zip(videos, ["what?", "who is it?"], strict=True)
    ]
    assert together == alone
    assert "".join(together)
