"""Keys and values that all cross-attention layers share, against a model that projects them in each."""

import pytest
import torch
from torch import nn

from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from tests.model.test_model import SCOPES, answer, one_video, unequal_batch
from tests.model.test_ragged import given
from tests.support.tiny import open_gates, text_config, tiny_model


def pair_of_models(
    **changes: object,
) -> tuple[CrossLMMForConditionalGeneration, CrossLMMForConditionalGeneration]:
    """A model with shared keys and values, and its twin with the same weights in each branch."""
    shared = tiny_model(cross_kv="shared", **changes)
    twin = tiny_model(**changes)
    weights = dict(shared.model.named_parameters())
    own = twin.model.state_dict()
    for name in own:
        kind = name.rpartition("cross_attention_layers.")[2].split(".")[-2:]
        if kind in (["k_proj", "weight"], ["v_proj", "weight"]) and "cross_attention" in name:
            own[name] = weights["cross_attention_kv." + ".".join(kind)]
        else:
            own[name] = weights[name]
    twin.model.load_state_dict(own)
    twin.lm_head.load_state_dict(shared.lm_head.state_dict())
    return shared, twin


@pytest.mark.parametrize("scope", SCOPES)
@torch.no_grad()
def test_logits_are_those_of_equal_projections(scope: str) -> None:
    shared, twin = pair_of_models(v2v_scope=scope)
    batch, singles = unequal_batch()
    for inputs in (batch, *singles):
        valid = inputs["attention_mask"].bool()
        expected = twin(**inputs).logits[valid]
        torch.testing.assert_close(shared(**inputs).logits[valid], expected, rtol=0, atol=2e-5)
    assert answer(shared, batch) == answer(twin, batch)
    assert answer(shared, batch, num_beams=2) == answer(twin, batch, num_beams=2)
    alone = singles[0]
    assert answer(shared, alone, use_cache=False) == answer(shared, alone)


@torch.no_grad()
def test_with_merged_tokens_too() -> None:
    shared, twin = pair_of_models(v2v_scope="member", tokens_per_frame=9)
    inputs = given(kept=11)
    torch.testing.assert_close(shared(**inputs).logits, twin(**inputs).logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize("language", [text_config("qwen3", head_dim=32), text_config("llama")])
@torch.no_grad()
def test_other_widths_of_heads_and_chosen_frames(language: dict) -> None:
    shared, twin = pair_of_models(text=language, t2v_frames=2)
    assert answer(shared, one_video(5)) == answer(twin, one_video(5))


@torch.no_grad()
def test_they_are_projected_once_and_features_are_not_kept() -> None:
    model, calls = tiny_model(cross_kv="shared"), []
    model.model.cross_attention_kv.register_forward_pre_hook(lambda *_: calls.append(1))
    outputs = model(**one_video(), use_cache=True)
    (layer,) = outputs.past_key_values.cross_attention_cache.layers
    assert layer.keys.shape == (1, 1, 75, 2 * 32)
    model(torch.tensor([[9]]), past_key_values=outputs.past_key_values, use_cache=True)
    assert calls == [1]


def test_gradients_and_what_is_saved(tmp_path) -> None:
    model = tiny_model(cross_kv="shared", gates=False)
    inputs = one_video()
    open_gates(model)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    for weight in model.model.cross_attention_kv.parameters():
        assert weight.grad.abs().max() > 0
    model.save_pretrained(tmp_path)
    again = CrossLMMForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.cross_kv == "shared"
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_tensor_parallel_plan_splits_them() -> None:
    model = tiny_model(cross_kv="shared")
    plan = {name for name in model.tp_plan if "cross_attention" in name}
    assert {"model.cross_attention_kv.k_proj", "model.cross_attention_kv.v_proj"} < plan
    linear = {name for name, each in model.named_modules() if isinstance(each, nn.Linear)}
    assert all(name.replace("*", "1") in linear for name in plan)
