"""What a cache keeps of a video, and for how long."""

import copy
import gc
import weakref

import pytest
import torch
from transformers.cache_utils import DynamicCache

from crosslmm.modeling_crosslmm import (
    as_dual_cache,
)
from tests.support.model_inputs import one_video
from tests.support.tiny import open_gates, tiny_model


@torch.no_grad()
def test_a_second_question_needs_only_the_cache() -> None:
    model = tiny_model()
    inputs = one_video()
    visual_end = 2 + 3 * 4
    cache = as_dual_cache(DynamicCache(config=model.config.text), model.config)
    model.model(
        input_ids=inputs["input_ids"][:, :visual_end],
        pixel_values_videos=inputs["pixel_values_videos"],
        past_key_values=cache,
        use_cache=True,
    )
    rest = model(
        input_ids=inputs["input_ids"][:, visual_end:], past_key_values=cache, use_cache=True
    )
    whole = model(**inputs).logits[:, visual_end:]
    torch.testing.assert_close(rest.logits, whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("t2v_cache", ["features", "projected"])
def test_a_plain_cache_keeps_what_was_read_of_the_video(t2v_cache: str) -> None:
    model = tiny_model(t2v_cache=t2v_cache)
    inputs, cache = one_video(), DynamicCache(config=model.config.text)
    options = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
    first = model.generate(**inputs, past_key_values=cache, **options).sequences
    ids = torch.cat([first, torch.tensor([[20, 30, 40]])], dim=1)
    second = model.generate(ids, past_key_values=cache, **options)
    video = inputs["pixel_values_videos"]
    fresh = model.generate(ids, pixel_values_videos=video, **options)
    torch.testing.assert_close(second.logits[0], fresh.logits[0], rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("own", [True, False])
def test_a_video_leaves_memory_with_its_cache(own: bool) -> None:
    model = tiny_model()
    cache = DynamicCache(config=model.config.text) if own else None
    cache = model(**one_video(), past_key_values=cache, use_cache=True).past_key_values
    features = weakref.ref(cache.cross_attention_cache.layers[0])
    gc.disable()
    try:
        copies = copy.deepcopy(cache)
        copied = weakref.ref(copies.cross_attention_cache.layers[0])
        del cache, copies
        assert features() is copied() is None
    finally:
        gc.enable()


@torch.no_grad()
def test_features_that_no_text_reads_are_not_kept() -> None:
    model, inputs = tiny_model(), one_video()
    open_gates(model, v2v=0.5, t2v=0.0)
    outputs = model(**inputs, use_cache=True)
    assert not outputs.past_key_values.cross_attention_cache.layers
    following = model(torch.tensor([[9]]), past_key_values=outputs.past_key_values, use_cache=True)
    ids = torch.cat([inputs["input_ids"], torch.tensor([[9]])], dim=1)
    whole = model(ids, pixel_values_videos=inputs["pixel_values_videos"])
    torch.testing.assert_close(following.logits[:, -1], whole.logits[:, -1], rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_second_video_in_a_cache_is_refused() -> None:
    model = tiny_model()
    cache = as_dual_cache(None, model.config)
    model(**one_video(), past_key_values=cache, use_cache=True)
    with pytest.raises(ValueError, match="already holds a video"):
        model(**one_video(), past_key_values=cache, use_cache=True)
