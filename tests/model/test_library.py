"""What transformers' own code and its users expect of any model."""

import pytest
import torch
from transformers.utils import output_capturing

from tests.model.test_model import one_video
from tests.support.tiny import text_config, tiny_model


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


def test_the_head_has_a_tensor_parallel_plan() -> None:
    assert tiny_model().tp_plan["lm_head"] == "colwise_gather_output"
