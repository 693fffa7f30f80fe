"""Positions of merged tokens that are not as many as trained: every route against one uncached pass,
and that one against the plain language model with its positions spelled out."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

import crosslmm
from crosslmm.cache import CrossCache, as_dual_cache
from crosslmm.inference.assistant import Assistant
from crosslmm.merging import nearest_cells
from crosslmm.modeling_crosslmm import VisualTokens
from crosslmm.positions import shift_positions
from tests.model.test_model import VIDEO, answer, one_video, unequal_batch
from tests.support.tiny import text_config, tiny_config, tiny_model, tiny_processor

TRAINED, TOKENS = 9, 4
# The second context is too short for three frames of the trained grid: 24 of its 28 are the video's.
CONTEXTS = [512, 28]


def model_of(context: int = 512, **changes: Any) -> Any:
    text = text_config(max_position_embeddings=context)
    return tiny_model(**{"text": text, "tokens_per_frame": TRAINED} | changes)


def spelled_out(
    ids: list[int], *, context: int, tokens: int = TOKENS, newline: bool = False
) -> list[float]:
    """The positions of a prompt, one token after another, without padding."""
    side, trained_side = math.isqrt(tokens), math.isqrt(TRAINED)
    ends = [i for i, token in enumerate(ids) if token == VIDEO and ids[i + 1 :][:1] != [VIDEO]]
    newlines = set(ends) if newline else set()
    merged = [i for i, token in enumerate(ids) if token == VIDEO and i not in newlines]
    room, frames = int(context * 7 / 8), len(merged) // tokens
    scale = min(1.0, room / max(frames * TRAINED, 1))
    positions: list[float] = []
    words = seen = 0
    for i in range(len(ids)):
        if i not in merged:
            positions.append(words + math.ceil(round(scale * (seen // tokens) * TRAINED, 4)))
            words += 1
            continue
        frame, cell = divmod(seen, tokens)
        row, column = divmod(cell, side)
        row, column = ((2 * at + 1) * trained_side // (2 * side) for at in (row, column))
        positions.append(words + scale * (frame * TRAINED + row * trained_side + column))
        seen += 1
    return positions


@pytest.mark.parametrize(
    ("tokens", "trained", "cells"),
    [(4, 9, [0, 2, 6, 8]), (1, 9, [4]), (1, 196, [7 * 14 + 7]), (4, 4, [0, 1, 2, 3])],
)
def test_a_cell_stands_where_its_centre_is(tokens: int, trained: int, cells: list[int]) -> None:
    assert nearest_cells(tokens, trained) == cells


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("newline", [False, True])
def test_positions_are_those_of_the_trained_grid(context: int, newline: bool) -> None:
    """Two videos in one row, and a row without one, padded."""
    config = tiny_config(
        text=text_config(max_position_embeddings=context),
        tokens_per_frame=TRAINED,
        video_newline=newline,
    )
    video = [VIDEO] * (2 * TOKENS + newline)
    rows = [[5, *video, 6, 7, *video[TOKENS:], 8], [5, 6]]
    length = len(rows[0])
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    index = ((ids > 0).cumsum(dim=1) - 1).clamp(min=0)
    is_merged = ids == VIDEO
    if newline:
        is_merged &= ids[:, [*range(1, length), 0]] == VIDEO
    visual = VisualTokens(torch.zeros(2, 3, TOKENS, 8), None, torch.ones(2, 3))
    shift = shift_positions(config, visual, is_merged)
    assert shift is not None
    for row, (positions, own) in enumerate(zip(index + shift.tokens, rows, strict=True)):
        expected = spelled_out(own, context=context, newline=newline)
        assert positions[length - len(own) :].tolist() == pytest.approx(expected, abs=1e-4)
        following = spelled_out([*own, 9], context=context, newline=newline)[-1]
        assert len(own) + shift.following[row].item() == following


def test_the_trained_count_has_no_shift() -> None:
    visual = VisualTokens(torch.zeros(1, 3, TRAINED, 8), None)
    assert shift_positions(model_of().config, visual, torch.ones(1, 27).bool()) is None


@torch.no_grad()
@pytest.mark.parametrize("context", CONTEXTS)
def test_closed_gates_are_the_language_model_at_these_positions(context: int) -> None:
    model, inputs = model_of(context, gates=False), one_video()
    plain = AutoModelForCausalLM.from_config(model.config.text).eval()
    plain.model, plain.lm_head = model.model.language_model, model.lm_head
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    merged = model.model.encode_video(inputs["pixel_values_videos"], TOKENS).embeds
    embeds[inputs["input_ids"] == VIDEO] = merged.flatten(0, 2)
    positions = torch.tensor([spelled_out(inputs["input_ids"][0].tolist(), context=context)])
    mask = inputs["attention_mask"]
    expected = plain(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits
    packed = plain(inputs_embeds=embeds, attention_mask=mask).logits
    assert (packed - expected).abs().max() > 1e-2
    for given in (inputs, {**inputs, "attention_mask": None}):  # none: positions could tell packing
        for mode in (model.eval(), model.train()):
            torch.testing.assert_close(mode(**given).logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("scope", ["video", "frame"])
def test_decoding_carries_the_positions_on(context: int, scope: str) -> None:
    model, inputs = model_of(context, v2v_scope=scope), one_video()
    expected = answer(model, inputs, use_cache=False)
    assert len(set(expected[0])) > 1
    assert answer(model, inputs) == expected
    assert answer(model, inputs, cache_implementation="static") == expected
    assert answer(model, inputs, prompt_lookup_num_tokens=3) == expected
    model.config.t2v_cache = "projected"
    assert answer(model, inputs) == expected


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_row_of_a_batch_has_its_own(context: int) -> None:
    model = model_of(context)
    batch, singles = unequal_batch()
    expected = [answer(model, single, use_cache=False)[0] for single in singles]
    assert answer(model, batch) == expected
    beams = answer(model, batch, num_beams=3, use_cache=False)
    assert answer(model, batch, num_beams=3) == beams != expected


@torch.no_grad()
@pytest.mark.parametrize("context", CONTEXTS)
def test_parts_and_a_second_question_continue_them(context: int) -> None:
    model, inputs = model_of(context, video_newline=True), one_video()
    ids = torch.tensor([[5, 6] + [VIDEO] * 13 + [20, 30, 40]])
    whole = model(ids, pixel_values_videos=inputs["pixel_values_videos"]).logits
    visual = model.model.encode_video(inputs["pixel_values_videos"], TOKENS)
    cache = EncoderDecoderCache(DynamicCache(config=model.config.text), DynamicCache())
    logits = []
    for first, last, start, end in [(0, 1, 0, 6), (1, 3, 6, 15), (0, 0, 15, 17), (0, 0, 17, 18)]:
        part = visual.part(first, last) if last else None
        options = {"visual_tokens": part, "past_key_values": cache, "use_cache": True}
        logits.append(model(ids[:, start:end], **options).logits)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("context", [4096, 120])  # of 105 that the video may take, it would 108
def test_a_session_and_a_batch_agree_with_generate(
    clip: Path, context: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(context)
    assistant = Assistant(model, tiny_processor(tokens_per_frame=TOKENS))
    frames = crosslmm.sample(clip, frames=12, size=(30, 30))
    questions = ["what?", "and what happens after that?", "who?"]
    expected = []
    for question in questions:
        prompt = assistant.processor.prompt(question)
        inputs = assistant.processor(text=prompt, videos=frames)
        ids = answer(model, inputs, use_cache=False)[0]
        text = assistant.processor.tokenizer.decode(ids, skip_special_tokens=True)
        expected.append(text.strip())
    assert len(set(expected)) > 1
    monkeypatch.setattr("crosslmm.inference.prefix.prefill_part", lambda *_, **__: 10)
    video = assistant.open_video(clip, frames=12)
    assert [video.ask(each, max_new_tokens=8).text for each in questions] == expected
    assert video.ask_all(questions, max_new_tokens=8) == expected
    assert assistant.answer_batch([frames] * 3, questions, max_new_tokens=8) == expected
    fewer = crosslmm.sample(clip, frames=2, size=(30, 30))
    together = assistant.answer_batch([fewer, frames], questions[:2], max_new_tokens=8)
    assert together[1] == expected[1]


@pytest.mark.parametrize("name", ["shift", "mass"])
def test_what_is_known_of_the_video_follows_the_rows_of_its_cache(name: str) -> None:
    cache = as_dual_cache(None, model_of().config)
    cross = cache.cross_attention_cache
    assert isinstance(cross, CrossCache)
    setattr(cross, name, torch.tensor([[1], [2]]))
    cache.batch_repeat_interleave(2)
    assert getattr(cross, name).tolist() == [[1], [1], [2], [2]]
    cache.reorder_cache(torch.tensor([0, 2, 3, 1]))
    assert getattr(cross, name).tolist() == [[1], [2], [2], [1]]
    cache.batch_select_indices(torch.tensor([2, 3]))
    assert getattr(cross, name).tolist() == [[2], [1]]
    cache.reset()
    assert getattr(cross, name) is None
