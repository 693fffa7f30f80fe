"""What transformers' own code and its users expect of any model."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BitsAndBytesConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)
from transformers.utils import output_capturing

from crosslmm.cross_attention import CrossInputs, TokenPositions
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration, CrossLMMModel
from crosslmm.v2v_scopes import CompleteVideo
from tests.model.test_model import one_video
from tests.support.tiny import open_gates, text_config, tiny_config, tiny_model, vision_config


def test_a_forward_pass_gives_a_cache_by_default() -> None:
    model, inputs = tiny_model(), one_video()
    assert model.config.use_cache
    with torch.no_grad():
        outputs = model(**inputs)
        plain = model(**inputs, use_cache=False)
    assert outputs.past_key_values.get_seq_length() == inputs["input_ids"].shape[1]
    assert plain.past_key_values is None
    torch.testing.assert_close(outputs.logits, plain.logits, rtol=1e-4, atol=1e-4)
    assert model.train()(**inputs).past_key_values is None, "of no use to a training step"


def test_tuples_on_request() -> None:
    model, inputs = tiny_model(), one_video()
    with torch.no_grad():
        for each in (model, model.model):
            expected = each(**inputs)[0]
            given = each(**inputs, return_dict=False)
            assert isinstance(given, tuple)
            assert torch.equal(given[0], expected)


@pytest.mark.parametrize("language", ["qwen2", "llama"])
def test_hidden_states_of_chosen_layers(language: str) -> None:
    model, inputs = tiny_model(text=text_config(language)), one_video()
    before = dict(output_capturing._CAN_RECORD_REGISTRY)
    with torch.no_grad():
        every = model(**inputs, output_hidden_states=True).hidden_states
        last = model(**inputs, output_hidden_states=[-1]).hidden_states
        weights = tiny_model(text=text_config(language), attn_implementation="eager")
        weights.set_attn_implementation("eager")
        attentions = weights(**inputs, output_attentions=True).attentions
    assert len(every) == len(last) == model.config.num_hidden_layers + 1
    assert torch.equal(last[-1], every[-1])
    assert last[0] is None
    assert len(attentions) == model.config.num_hidden_layers
    assert before == output_capturing._CAN_RECORD_REGISTRY, "transformers' own table is left alone"


def test_embeddings_in_place_of_ids_with_a_video() -> None:
    model, inputs = tiny_model(video_newline=False), one_video()
    with torch.no_grad():
        expected = model(**inputs).logits
        ids = inputs.pop("input_ids")
        embeds = model.get_input_embeddings()(ids)
        assert torch.equal(model(inputs_embeds=embeds, **inputs).logits, expected)
        with pytest.raises(ValueError, match="exactly one of"):
            model(inputs_embeds=embeds, input_ids=ids, **inputs)


def test_features_of_videos_and_images() -> None:
    model, pixels = tiny_model(), one_video()["pixel_values_videos"]
    with torch.no_grad():
        video = model.get_video_features(pixels, tokens_per_frame=1)
        embeds = model.model.encode_video(pixels, 1).embeds
        images = model.model.get_image_features(pixels[0], tokens_per_frame=1)
    assert torch.equal(video.pooler_output, embeds.flatten(1, 2))
    torch.testing.assert_close(images.pooler_output, embeds[0])
    torch.testing.assert_close(images.last_hidden_state, video.last_hidden_state[0])


def test_features_come_with_closed_gates_as_a_tuple_or_with_all_of_the_tower() -> None:
    model, pixels = tiny_model(gates=False), one_video()["pixel_values_videos"]
    with torch.no_grad():
        plain = model.get_video_features(pixels)
        as_tuple = model.get_video_features(pixels, return_dict=False)
        layers = model.get_video_features(pixels, output_hidden_states=True).hidden_states
    assert plain.hidden_states is None
    assert [value.shape for value in as_tuple] == [(1, 3, 25, 32), (1, 12, 64)]
    features = model.model.feature_norm(layers[-1])
    torch.testing.assert_close(features.unflatten(0, (1, 3)), plain.last_hidden_state)
    with pytest.raises(TypeError, match="tokens_per_farme"):
        model.get_video_features(pixels, tokens_per_farme=4)


def test_a_tensor_parallel_plan_for_head_projector_and_cross_attention() -> None:
    model = tiny_model()
    plan, layer = model.tp_plan, "model.cross_attention_layers.*"
    assert plan["lm_head"] == "colwise_gather_output"
    assert plan["model.multi_modal_projector.linear_1"] == "colwise"
    assert plan["model.multi_modal_projector.linear_2"] == "rowwise"
    for branch in ("v2v", "t2v"):
        for name in ("q_proj", "k_proj", "v_proj"):
            assert plan[f"{layer}.{branch}.{name}"] == "colwise"
        assert plan[f"{layer}.{branch}.o_proj"] == "rowwise"
    modules = {re.sub(r"\.\d+", ".*", name) for name, _ in model.named_modules()}
    assert set(plan) <= modules, "every entry means a module"
    assert "model.language_model.layers.*.mlp.up_proj" in plan


@pytest.mark.parametrize("from_checkpoint", [False, True])
def test_fresh_weights_are_those_of_llava_onevision(from_checkpoint: bool) -> None:
    parts = {
        "text": text_config(num_hidden_layers=1, bos_token_id=1),
        "vision": vision_config(hidden_size=64, intermediate_size=128),
    }
    config = tiny_config(**parts, cross_attention_interval=1, video_newline=True)
    theirs = LlavaOnevisionConfig(text_config=parts["text"], vision_config=parts["vision"])
    models = []
    for kind, each in (
        (CrossLMMForConditionalGeneration, config),
        (LlavaOnevisionForConditionalGeneration, theirs),
    ):
        if from_checkpoint:  # that holds nothing
            models.append(kind.from_pretrained(None, config=each, state_dict={}))
        else:
            models.append(kind(each))
    ours, expected = (dict(model.named_parameters()) for model in models)
    assert set(expected) <= set(ours)
    for name, weight in expected.items():
        if "newline" in name:  # 64 numbers; what they are drawn from is checked above
            continue
        torch.testing.assert_close(
            ours[name].std(), weight.std(), rtol=0.25, atol=1e-6, msg=lambda text, n=name: n + text
        )
    assert models[0].generation_config.to_dict() == models[1].generation_config.to_dict()


@pytest.mark.parametrize("lookup", [None, 3])
def test_the_video_token_is_never_generated(lookup: int | None) -> None:
    model, inputs = tiny_model(), one_video()
    with torch.no_grad():  # a head that would say nothing else
        model.config.tie_word_embeddings = False
        model.lm_head = torch.nn.Linear(64, 261)
        model.lm_head.bias[model.config.video_token_id] = 100.0
        answer = model.generate(
            **inputs, max_new_tokens=12, do_sample=False, prompt_lookup_num_tokens=lookup
        )
        plain = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert torch.equal(answer, plain), "prompt lookup changes the speed only"
    new = answer[0, inputs["input_ids"].shape[1] :]
    assert len(new) == 12
    assert model.config.video_token_id not in new.tolist()


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("kind", [CrossLMMModel, CrossLMMForConditionalGeneration])
def test_transformers_own_bitsandbytes_config_quantizes_the_decoder_only(
    kind: type[CrossLMMModel], as_dict: bool, tmp_path: Path
) -> None:
    tiny_model().save_pretrained(tmp_path)
    given = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["up_proj"])
    asked: Any = given.to_dict() if as_dict else given
    model = kind.from_pretrained(tmp_path, quantization_config=asked)
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "language_model.layers." in name
    }
    replaced = {n for n, m in model.named_modules() if type(m).__name__ == "Linear4bit"}
    assert replaced == {name for name in linear if not name.endswith("up_proj")}
    assert given.llm_int8_skip_modules == ["up_proj"], "the caller's is left alone"


def test_a_compiled_dual_cross_attention_layer_has_no_graph_break() -> None:
    model = tiny_model()
    layer = model.model.cross_attention_layers["1"]
    hidden = torch.randn(1, 10, 64)
    chosen = (torch.arange(10) < 6)[None]
    inputs = {
        "features": torch.randn(1, 2, 25, 32),
        "visual": TokenPositions(chosen, 6),
        "text": TokenPositions(~chosen, 4),
    }
    for v2v, t2v in ((0.5, 0.7), (0.0, 0.0)):
        open_gates(model, v2v, t2v)
        torch.compiler.reset()
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        with torch.no_grad():
            torch.testing.assert_close(compiled(hidden, **inputs), layer(hidden, **inputs))


def test_a_compiled_model_decodes_as_an_eager_one() -> None:
    for gates, cache in ((True, "features"), (True, "projected"), (False, "features")):
        model, inputs = tiny_model(gates=gates, t2v_cache=cache), one_video()
        with torch.no_grad():
            expected = model.generate(**inputs, max_new_tokens=4, do_sample=False)
            prefill = model(**inputs)
            step = {
                "input_ids": expected[:, -4:-3],
                "past_key_values": prefill.past_key_values,
                "attention_mask": torch.ones_like(expected[:, :-3]),
            }
            torch.compiler.reset()
            compiled = torch.compile(model, fullgraph=True, backend="eager")
            token = compiled(**step).logits[:, -1].argmax(-1)
        assert token.tolist() == expected[:, -3].tolist()


def test_one_dynamic_graph_decodes_at_every_length() -> None:
    model, inputs = tiny_model(text=text_config(num_hidden_layers=2)), one_video()
    graphs: list[Any] = []

    def backend(graph: Any, examples: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    with torch.no_grad():
        eager, cache = (model(**inputs).past_key_values for _ in range(2))
        torch.compiler.reset()
        compiled = torch.compile(model, dynamic=True, backend=backend)
        for token in (20, 30, 40, 50):
            ids = torch.tensor([[token]])
            expected = model(input_ids=ids, past_key_values=eager).logits
            logits = compiled(input_ids=ids, past_key_values=cache).logits
            torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)
    assert len(graphs) <= 2  # the first may know the length


def test_a_static_cache_gives_the_tokens_of_one_that_grows() -> None:
    model = tiny_model()
    settings = {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(**one_video(), **settings)
    static = model.generate(**one_video(), **settings, cache_implementation="static")
    assert torch.equal(static, expected)


def test_the_decoder_is_exported() -> None:
    model = tiny_model()
    ids = one_video()["input_ids"]
    is_merged = ids == model.config.video_token_id
    count = int(is_merged.sum())

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, embeds: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
            base = self.model.model
            cross = CrossInputs(
                features,
                CompleteVideo(),
                None,
                TokenPositions(is_merged, count),
                TokenPositions(~is_merged, ids.shape[1] - count),
                None,
            )
            decoded = base._decode(embeds, None, None, None, cross, use_cache=False)
            return self.model.lm_head(decoded.last_hidden_state)

    inputs = torch.randn(1, ids.shape[1], 64), torch.randn(1, 3, 25, 32)
    with torch.no_grad():
        program = torch.export.export(Decoder().eval(), inputs, strict=False)
        other = torch.randn(1, ids.shape[1], 64), torch.randn(1, 3, 25, 32)
        torch.testing.assert_close(program.module()(*other), Decoder()(*other))
