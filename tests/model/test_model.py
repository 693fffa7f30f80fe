"""The model against references: the plain language model, itself by other routes, the equations."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from crosslmm import gated_attention
from crosslmm.modeling_crosslmm import (
    CrossLMMForConditionalGeneration,
)
from tests.support.model_inputs import VIDEO, one_video, prompt
from tests.support.tiny import open_gates, text_config, tiny_config, tiny_model, vision_config

LANGUAGES = ["qwen2", "qwen3", "llama", "mistral"]
SCOPES = ["video", "past", "frame", "member"]


def unequal_batch() -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Three videos of 3, 1 and 2 frames with unlike questions, left-padded; and the rows alone."""
    generator = torch.Generator().manual_seed(3)
    frames = [3, 1, 2]
    rows = [prompt(3, [20, 30]), prompt(1, [21, 31, 41, 51]), prompt(2, [22])]
    videos = [torch.randn(count, 3, 30, 30, generator=generator) for count in frames]
    length = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    pixels = torch.zeros(3, 3, 3, 30, 30)
    for row, video in enumerate(videos):
        pixels[row, : len(video)] = video
    frame_mask = torch.tensor([[frame < count for frame in range(3)] for count in frames])
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values_videos": pixels,
        "video_frame_mask": frame_mask,
    }
    singles = [
        {
            "input_ids": torch.tensor([row]),
            "attention_mask": torch.ones(1, len(row), dtype=torch.long),
            "pixel_values_videos": video[None],
        }
        for row, video in zip(rows, videos, strict=True)
    ]
    return batch, singles


def answer(model: nn.Module, inputs: dict[str, torch.Tensor], **options: object) -> list[list[int]]:
    settings = {"max_new_tokens": 8, "do_sample": False} | options
    ids = model.generate(**inputs, **settings)
    return ids[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("language", LANGUAGES)
@torch.no_grad()
def test_closed_gates_are_the_plain_language_model(language: str) -> None:
    model = tiny_model(gates=False, text=text_config(language))
    inputs = one_video()
    plain = AutoModelForCausalLM.from_config(model.config.text).eval()
    plain.model = model.model.language_model
    plain.lm_head = model.lm_head
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    merged = model.model.encode_video(inputs["pixel_values_videos"], 4).embeds
    embeds[inputs["input_ids"] == VIDEO] = merged.flatten(0, 2)
    expected = plain(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=0, atol=1e-6)
    open_gates(model)
    assert (model(**inputs).logits - expected).abs().max() > 1e-2


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("scope", ["video", "frame"])
def test_a_cache_changes_nothing(language: str, scope: str) -> None:
    model = tiny_model(text=text_config(language), v2v_scope=scope)
    inputs = one_video()
    expected = answer(model, inputs, use_cache=False)
    assert len(set(expected[0])) > 1, "a model that repeats one token would hide a mistake"
    assert answer(model, inputs) == expected
    assert answer(model, inputs, cache_implementation="static") == expected
    model.config.t2v_cache = "projected"
    assert answer(model, inputs) == expected


def test_beams_with_and_without_a_cache_agree() -> None:
    model = tiny_model()
    batch, _ = unequal_batch()
    expected = answer(model, batch, num_beams=3, use_cache=False)
    assert answer(model, batch, num_beams=3) == expected
    model.config.t2v_cache = "projected"
    assert answer(model, batch, num_beams=3) == expected


def test_sampling_depends_on_the_seed_alone() -> None:
    model = tiny_model()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(answer(model, one_video(), do_sample=True, temperature=1.0))
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("t2v_cache", ["projected", "features"])
def test_a_batch_equals_its_rows(scope: str, t2v_cache: str) -> None:
    model = tiny_model(v2v_scope=scope, t2v_cache=t2v_cache)
    batch, singles = unequal_batch()
    with torch.no_grad():
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        together = model(**batch, position_ids=positions).logits
        for row, single in enumerate(singles):
            alone = model(**single).logits[0]
            torch.testing.assert_close(together[row, -len(alone) :], alone, rtol=0, atol=2e-5)
    assert answer(model, batch) == [answer(model, single)[0] for single in singles]


@torch.no_grad()
def test_a_row_without_a_video_may_stand_in_a_batch() -> None:
    model = tiny_model()
    single = one_video(frames=2)
    length = single["input_ids"].shape[1]
    words = torch.tensor([[0] * (length - 3) + [7, 8, 9]])
    batch = {
        "input_ids": torch.cat([single["input_ids"], words]),
        "attention_mask": torch.cat([single["attention_mask"], (words > 0).long()]),
        "pixel_values_videos": single["pixel_values_videos"].repeat(2, 1, 1, 1, 1),
        "video_frame_mask": torch.tensor([[1, 1], [0, 0]]),
    }
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    together = model(**batch, position_ids=positions).logits
    torch.testing.assert_close(together[0], model(**single).logits[0], rtol=0, atol=2e-5)
    alone = model(input_ids=torch.tensor([[7, 8, 9]])).logits[0]
    torch.testing.assert_close(together[1, -3:], alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("scope", SCOPES)
@torch.no_grad()
def test_eager_equals_sdpa(scope: str) -> None:
    batch, _ = unequal_batch()
    sdpa = tiny_model(v2v_scope=scope)
    eager = copy.deepcopy(sdpa)
    eager.set_attn_implementation("eager")
    assert eager.config.text._attn_implementation == "eager"
    valid = batch["attention_mask"].bool()
    torch.testing.assert_close(
        eager(**batch).logits[valid], sdpa(**batch).logits[valid], rtol=0, atol=2e-5
    )


@torch.no_grad()
def test_chunked_encoding_equals_whole() -> None:
    model = tiny_model()
    pixels = torch.randn(1, 7, 3, 30, 30)
    whole = model.model.encode_video(pixels, 4)
    model.model.frames_per_chunk = 3
    chunked = model.model.encode_video(pixels, 4)
    assert whole.features is not None
    assert chunked.features is not None
    torch.testing.assert_close(chunked.embeds, whole.embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(chunked.features, whole.features, rtol=0, atol=1e-6)


@torch.no_grad()
def test_flash_attention_never_sees_a_mask_of_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would un-pad the queries by it."""
    attention = tiny_model().model.cross_attention_layers["1"].v2v
    masks: list[object] = []

    def flash(module, query, key, value, mask, **options):  # type: ignore[no-untyped-def]
        masks.append(mask)
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    AttentionInterface.register("pretended_flash", flash)
    states = torch.randn(2, 3, attention.q_proj.in_features)
    features = torch.randn(2, 5, attention.k_proj.in_features)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    expected = [attention(states, features), attention(states, features, mask)]
    monkeypatch.setattr(attention.config, "_attn_implementation", "pretended_flash")
    assert masks == []
    torch.testing.assert_close(attention(states, features), expected[0])
    torch.testing.assert_close(attention(states, features, mask), expected[1])
    assert masks == [None]


@pytest.mark.parametrize("t2v_cache", ["features", "projected"])
def test_unequal_videos_are_read_row_by_row(
    monkeypatch: pytest.MonkeyPatch, t2v_cache: str
) -> None:
    """Without a mask, and with the frames of the row alone."""
    model = tiny_model(t2v_cache=t2v_cache)
    batch, _ = unequal_batch()
    seen: list[tuple[object, int]] = []

    def spy(module, query, key, value, mask, **options):  # type: ignore[no-untyped-def]
        seen.append((mask, key.shape[2]))
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    AttentionInterface.register("spy", spy)
    with torch.no_grad():
        for layer in model.model.dual_layers:
            monkeypatch.setattr(layer.v2v, "config", copy.copy(layer.v2v.config))
            monkeypatch.setattr(layer.t2v, "config", layer.v2v.config)
            layer.v2v.config._attn_implementation = "spy"
        got = model(**batch).logits
        assert seen[:3] == [(None, 75), (None, 25), (None, 50)]
        assert {mask for mask, _ in seen} == {None}
        monkeypatch.setattr("crosslmm.modeling_crosslmm.patch_counts", lambda *_: None)
        torch.testing.assert_close(got, model(**batch).logits, rtol=0, atol=2e-5)


def test_slicing_by_heads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, _ = unequal_batch()
    model = tiny_model(t2v_cache="features")
    expected = model(**batch).logits
    monkeypatch.setattr(gated_attention, "SLICE_BYTES", 0)
    torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("tokens", [1, 4, 9, 25])
@torch.no_grad()
def test_tokens_per_frame_is_chosen_at_run_time(tokens: int) -> None:
    model = tiny_model()
    ids = torch.tensor([prompt(2, [20, 30], tokens)])
    logits = model(input_ids=ids, pixel_values_videos=torch.randn(1, 2, 3, 30, 30)).logits
    assert logits.shape == (1, ids.shape[1], 261)
    assert logits.isfinite().all()


@pytest.mark.parametrize("placeholders", [0, 3, 7, 9, 100])
def test_placeholders_that_do_not_fit_are_refused(placeholders: int) -> None:
    ids = torch.tensor([[5] + [VIDEO] * placeholders + [6]])
    with pytest.raises(ValueError, match="do not fit videos of"):
        tiny_model()(input_ids=ids, pixel_values_videos=torch.randn(1, 2, 3, 30, 30))


@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded_bit_for_bit(tmp_path, tied: bool) -> None:
    model = tiny_model(text=text_config(tie_word_embeddings=tied))
    model.save_pretrained(tmp_path)
    again, report = CrossLMMForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (again.lm_head.weight is again.get_input_embeddings().weight) is tied
    assert again.config.to_dict().keys() == model.config.to_dict().keys()
    with torch.no_grad():
        assert torch.equal(again(**one_video()).logits, model(**one_video()).logits)


@pytest.mark.parametrize("scope", SCOPES)
def test_gradients_reach_gates_and_both_branches(scope: str) -> None:
    model = tiny_model(gates=False, v2v_scope=scope)
    inputs = one_video()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    # The first branch feeds nothing when closed, but its gate must feel what opening it would do.
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    open_gates(model)
    model.zero_grad()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    reached = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }
    wanted = {
        name
        for name, _ in model.named_parameters()
        if "cross_attention" in name or "projector" in name or "feature_norm" in name
    }
    # After the last layer nothing reads the visual positions any more.
    wanted -= {name for name in wanted if "layers.3.v2v" in name}
    assert wanted <= reached
    assert any("vision_tower" in name for name in reached)


def test_frozen_closed_branches_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(gates=False).requires_grad_(False)

    def unexpected(*_: object, **__: object) -> torch.Tensor:
        raise AssertionError("a closed branch was computed")

    monkeypatch.setattr(gated_attention.GatedCrossAttention, "forward", unexpected)
    assert model.model.encode_video(one_video()["pixel_values_videos"], 4).features is None
    assert model(**one_video()).logits.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("t2v_cache", ["features", "projected"])
def test_weights_that_are_loaded_when_needed(t2v_cache: str) -> None:
    model, inputs = tiny_model(t2v_cache=t2v_cache), one_video()
    expected = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.model.cross_attention_layers["1"].t2v.gate.is_meta
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), expected)


@torch.no_grad()
def test_hidden_states_and_attentions_are_the_decoders_own() -> None:
    model = tiny_model()
    model.set_attn_implementation("eager")
    inputs = one_video()
    outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    length = inputs["input_ids"].shape[1]
    assert [state.shape for state in outputs.hidden_states] == [(1, length, 64)] * 5
    assert [weights.shape for weights in outputs.attentions] == [(1, 4, length, length)] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens_per_frame": 5},
        {"tokens_per_frame": 36},
        {"cross_attention_interval": 0},
        {"vision_feature_layer": -3},
        {"v2v_scope": "clip"},
        {"t2v_frames": 0},
        {"cross_kv": "mine"},
        {"cross_kv": "shared", "t2v_cache": "projected"},
        {"merge_mode": "nearest"},
        {"vision": vision_config(), "video_token_id": "x"},
    ],
)
def test_a_wrong_configuration_is_refused(changes: dict) -> None:
    with pytest.raises(Exception, match=next(reversed(changes))):
        tiny_config(**changes)
