"""What a merged token counts: against the tokens it stands for, all there at its place."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from crosslmm.merging import merge_tokens
from crosslmm.token_mass import join_mass, make_masks
from tests.model.test_model import VIDEO
from tests.model.test_ragged import FRAMES, KEPT, TRAINED, given, model_of
from tests.support.tiny import text_config


@torch.no_grad()
def test_a_merged_token_counts_as_often_as_what_it_stands_for() -> None:
    # In one layer, keys and values depend on the embeddings alone: the words read a token with a mass
    # as they read so many copies of it at its place.
    model = model_of(gates=False, text=text_config(num_hidden_layers=1), cross_attention_interval=1)
    inputs = given()
    tokens = model.model.encode_video(inputs["pixel_values_videos"], TRAINED).embeds[0]
    merged = merge_tokens(tokens, KEPT, "folder")
    assert merged.mass.max() > 1
    embeds = model.get_input_embeddings()(inputs["input_ids"])[0]
    copies = merged.tokens.repeat_interleave(merged.mass, dim=0)
    places = merged.place.repeat_interleave(merged.mass) + 2
    end = 2 + FRAMES * TRAINED
    plain = AutoModelForCausalLM.from_config(model.config.text).eval()
    plain.model, plain.lm_head = model.model.language_model, model.lm_head
    expected = plain(
        inputs_embeds=torch.cat([embeds[:2], copies, embeds[2 + KEPT :]])[None],
        position_ids=torch.tensor([[0, 1, *places.tolist(), *range(end, end + 3)]]),
        attention_mask=torch.ones(2 + len(copies) + 3, 2 + len(copies) + 3)
        .tril()
        .bool()[None, None],
    ).logits
    logits = model(**inputs).logits
    torch.testing.assert_close(logits[:, -3:], expected[:, -3:], rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cache", [None, "static"])
def test_generate_agrees_in_every_kind_of_attention_and_cache(
    attention: str, cache: str | None
) -> None:
    model = model_of()
    inputs = given()
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    expected = model.generate(**inputs, **options, use_cache=False)
    model.set_attn_implementation(attention)
    ids = model.generate(**inputs, **options, cache_implementation=cache, disable_compile=True)
    assert ids.tolist() == expected.tolist()


@torch.no_grad()
@pytest.mark.parametrize("cache", [None, "static"])
def test_beams_keep_the_mass_of_their_video(cache: str | None) -> None:
    model, inputs = model_of(), given()
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "num_beams": 3, "num_return_sequences": 2}
    expected = model.generate(**inputs, **options, use_cache=False)
    ids = model.generate(**inputs, **options, cache_implementation=cache, disable_compile=True)
    assert ids.tolist() == expected.tolist()


@torch.no_grad()
def test_looking_up_the_prompt_changes_no_answer() -> None:
    model, inputs = model_of(), given()
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    expected = model.generate(**inputs, **options, use_cache=False)
    assert model.generate(**inputs, **options, prompt_lookup_num_tokens=3).tolist() == (
        expected.tolist()
    )


@torch.no_grad()
def test_attention_that_takes_no_mask_of_numbers_is_refused() -> None:
    model = model_of()
    model.config.text._attn_implementation = "flash_attention_2"
    with pytest.raises(
        ValueError, match="`merge` needs attn_implementation sdpa or eager, not flash"
    ):
        model(**given())


def masks_of(mass: torch.Tensor, queries: int, *, past: int = 0, mask: Any = None) -> Any:
    cache = DynamicCache()
    if past:
        cache.update(torch.zeros(1, 1, past, 4), torch.zeros(1, 1, past, 4), 0)
    hidden = torch.zeros(1, queries, 8)
    positions = torch.arange(past, past + queries)[None]
    config = model_of().config.text
    if mask:
        config.layer_types = [*mask]
    config._attn_implementation = "sdpa"
    masks = make_masks(config, hidden, mask, cache, positions, mass)
    return masks if mask else masks["full_attention"]


def test_the_masks_of_a_window_and_of_linear_attention() -> None:
    mass = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    full = torch.ones(1, 1, 1, 6, dtype=torch.bool)
    masks = masks_of(
        mass,
        1,
        past=5,
        mask={
            "full_attention": full,
            "sliding_attention": full[..., :4],
            "linear_attention": None,
        },
    )
    assert masks["full_attention"].flatten().tolist() == [0, 1, 2, 3, 0, 0]
    assert masks["sliding_attention"].flatten().tolist() == [2, 3, 0, 0]
    assert masks["linear_attention"] is None


def test_later_keys_stay_hidden_in_a_part_of_the_prompt() -> None:
    mask = masks_of(torch.tensor([[1.0, 2.0]]), 2, past=2)
    least = torch.finfo(torch.float32).min
    assert mask.tolist() == [[[[1, 2, 0, least], [1, 2, 0, 0]]]]


def test_a_cache_joins_what_is_known_of_its_tokens() -> None:
    cache = DynamicCache()
    mass = torch.tensor([[1.0]])
    assert join_mass(None, None, cache) is None
    assert join_mass(mass, None, cache) is None  # of a video that is no longer in there
    cache.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    assert join_mass(None, mass, cache).tolist() == [[0, 0, 1]]  # type: ignore[union-attr]
    assert join_mass(mass, mass, cache).tolist() == [[1, 0, 1]]  # type: ignore[union-attr]
    assert join_mass(torch.ones(1, 3), mass, cache).tolist() == [[1, 1, 1]]  # type: ignore[union-attr]


def test_all_tokens_kept_have_no_mass() -> None:
    visual = given(kept=FRAMES * TRAINED)
    assert (visual["input_ids"] == VIDEO).sum() == FRAMES * TRAINED
    model = model_of()
    model.config.text._attn_implementation = "sdpa"
    with torch.no_grad():
        cache = model(**visual, use_cache=True).past_key_values.cross_attention_cache
    assert cache.mass is None
