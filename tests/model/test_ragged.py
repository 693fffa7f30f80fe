"""Merged tokens that frames share unequally: against one uncached pass, and that one against the plain
language model with tokens and positions put in by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import crosslmm
from crosslmm.errors import UsageError
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.prefix import prefill_video
from crosslmm.merging import merge_tokens
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.v2v_scopes import make_scope
from crosslmm.visual_encoding import merge_video
from tests.model.test_model import SCOPES, VIDEO, answer
from tests.support.tiny import text_config, tiny_model, tiny_processor

TRAINED, FRAMES, KEPT = 9, 4, 7
CONTEXTS = [512, 34]  # of the second, 29 are the video's, which would take 36


def model_of(context: int = 512, **changes: Any) -> Any:
    text = text_config(max_position_embeddings=context)
    return tiny_model(**{"text": text, "tokens_per_frame": TRAINED} | changes)


def given(kept: int = KEPT, frames: int = FRAMES, seed: int = 0) -> dict[str, Any]:
    ids = torch.tensor([[5, 6, *[VIDEO] * kept, 20, 30, 40]])
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(1, frames, 3, 30, 30, generator=generator)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": pixels,
        "merge": "folder",
    }


@torch.no_grad()
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("method", ["folder", "uniform"])
def test_all_tokens_kept_is_no_merging(scope: str, method: str) -> None:
    model, inputs = model_of(v2v_scope=scope), given(kept=FRAMES * TRAINED)
    expected = model(**{**inputs, "merge": None}).logits
    logits = model(**{**inputs, "merge": method}).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("newline", [False, True])
def test_closed_gates_are_the_language_model_at_their_places(context: int, newline: bool) -> None:
    model, inputs = model_of(context, gates=False, video_newline=newline), given()
    if newline:
        inputs["input_ids"] = torch.tensor([[5, 6, *[VIDEO] * (KEPT + 1), 20, 30, 40]])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    plain = AutoModelForCausalLM.from_config(model.config.text).eval()
    plain.model, plain.lm_head = model.model.language_model, model.lm_head
    tokens = model.model.encode_video(inputs["pixel_values_videos"], TRAINED).embeds[0]
    merged = merge_tokens(tokens, KEPT, "folder")
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    embeds[0, 2 : 2 + KEPT] = merged.tokens
    if newline:
        embeds[0, 2 + KEPT] = model.model.image_newline
    scale = min(1.0, int(context * 7 / 8) / (FRAMES * TRAINED))
    end = 2 + math.ceil(round(scale * FRAMES * TRAINED, 4))
    video = [2 + scale * place for place in merged.place.tolist()]
    positions = [0, 1, *video, *range(end, end + 3 + newline)]
    mass = torch.ones(embeds.shape[1])
    mass[2 : 2 + KEPT] = merged.mass
    later = torch.ones(len(mass), len(mass)).triu(1).bool()
    mask = mass.log().expand(len(mass), -1).masked_fill(later, -1e9)[None, None]
    expected = plain(
        inputs_embeds=embeds, attention_mask=mask, position_ids=torch.tensor([positions])
    ).logits
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("scope", ["video", "frame"])
def test_decoding_through_the_cache(context: int, scope: str) -> None:
    model, inputs = model_of(context, v2v_scope=scope), given()
    expected = answer(model, inputs, use_cache=False)
    assert len(set(expected[0])) > 1
    assert answer(model, inputs) == expected
    model.config.t2v_cache = "projected"
    assert answer(model, inputs) == expected


def patches_of(ragged: RaggedTokens, row: int, scope: str) -> list[list[int]]:
    """Of each merged token of a row, which of its video's patches it reads, by the definition."""
    assert ragged.member is not None
    frames, pooled = ragged.frames[row], ragged.pooled
    places = ragged.place.split(ragged.counts)[row].tolist()
    member = ragged.member.split([each * pooled for each in ragged.frames])[row].tolist()
    found: list[list[int]] = [[] for _ in places]
    for patch in range(frames * 25):
        frame, at = divmod(patch, 25)
        cell = int((at // 5 + 0.5) / 5 * 3) * 3 + int((at % 5 + 0.5) / 5 * 3)
        for token, place in enumerate(places):
            reads = {
                "past": frame <= place // pooled,
                "frame": frame == place // pooled,
                "member": member[frame * pooled + cell] == token,
            }
            if reads[scope]:
                found[token].append(patch)
    return found


@torch.no_grad()
@pytest.mark.parametrize("scope", ["past", "frame", "member"])
@pytest.mark.parametrize("method", ["random", "folder"])
def test_a_token_reads_what_its_scope_says(scope: Any, method: str) -> None:
    """Against V2V called for one token at a time; of a batch, whose second video is shorter."""
    model = model_of()
    pixels = torch.cat([given(frames=4)["pixel_values_videos"]] * 2)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    visual = model.model.encode_video(pixels, TRAINED, mask)
    ragged = merge_video(visual, [11, 5], method)
    frames = ragged.place[:11] // TRAINED
    assert len(set(torch.bincount(frames, minlength=4).tolist())) > 1, "they are shared equally"
    layer = next(iter(model.model.dual_layers))
    query = torch.randn(2, 11, model.config.text.hidden_size)
    read = make_scope(ragged, scope).read(layer.v2v, query, visual.features, None, None)
    for row in (0, 1):
        for token, patches in enumerate(patches_of(ragged, row, scope)):
            seen = visual.features[row].flatten(0, 1)[patches][None]
            alone = layer.v2v(query[row : row + 1, token : token + 1], seen)
            torch.testing.assert_close(read[row, token], alone[0, 0], rtol=0, atol=1e-5)
    assert torch.equal(read[1, 5:], torch.zeros_like(read[1, 5:])), "of tokens that are not there"


@torch.no_grad()
@pytest.mark.parametrize("scope", SCOPES)
def test_prefill_in_parts_is_that_of_one_pass(scope: str) -> None:
    model, inputs = model_of(v2v_scope=scope), given(kept=19)
    expected = model(**inputs).logits[:, -1]
    visual = merge_video(
        model.model.encode_video(inputs["pixel_values_videos"], TRAINED), [19], "folder"
    )
    for part in (3, 8, 100):
        prefix = prefill_video(model, inputs["input_ids"], visual, chunk_tokens=part)
        with prefix.lend() as cache:
            rest = inputs["input_ids"][:, len(prefix) :]
            logits = model(rest, past_key_values=cache, use_cache=True).logits[:, -1]
        torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


def test_rows_of_a_batch_keep_their_own_numbers() -> None:
    model = model_of()
    singles = [given(5, 4, seed=1), given(11, 2, seed=2)]
    length = max(single["input_ids"].shape[1] for single in singles)
    ids, mask = torch.zeros(2, length, dtype=torch.long), torch.zeros(2, length, dtype=torch.long)
    pixels, frame_mask = torch.zeros(2, 4, 3, 30, 30), torch.zeros(2, 4, dtype=torch.bool)
    for row, single in enumerate(singles):
        own = single["input_ids"][0]
        ids[row, length - len(own) :], mask[row, length - len(own) :] = own, 1
        video = single["pixel_values_videos"][0]
        pixels[row, : len(video)], frame_mask[row, : len(video)] = video, True
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values_videos": pixels,
        "video_frame_mask": frame_mask,
        "merge": "folder",
    }
    assert answer(model, batch) == [answer(model, single, use_cache=False)[0] for single in singles]


@pytest.mark.parametrize("kept", [0, FRAMES * TRAINED + 1])
def test_placeholders_that_no_merging_can_fill(kept: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 9 tokens for every frame"):
        model_of()(**given(kept))
    with pytest.raises(ValueError, match=r"must be one of area, .*did you mean folder"):
        model_of()(**{**given(), "merge": "foldr"})


# In a session


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    model = model_of(4096)
    return Assistant(model, tiny_processor(tokens_per_frame=TRAINED))


@pytest.mark.parametrize("keep", ["25%", 13])
def test_the_processor_gives_generate_what_it_needs(
    assistant: Assistant, clip: Path, keep: str | int
) -> None:
    processor = assistant.processor
    frames = crosslmm.sample(clip, frames=6, size=processor.frame_size)
    asked = assistant.ask(frames, "what?", merge="folder", keep=keep, max_new_tokens=6)
    prompt = processor.prompt("what?", times=frames.times, duration=frames.source.duration)
    inputs = processor(prompt, frames, merge="folder", keep=keep).to("cpu")
    assert inputs["merge"] == "folder"
    assert int((inputs["input_ids"] == processor.video_token_id).sum()) == 13
    [ids] = answer(assistant.model, dict(inputs), max_new_tokens=6)
    assert processor.decode(ids, skip_special_tokens=True).strip() == asked.text
    nested = processor(prompt, frames, videos_kwargs={"merge": "folder", "keep": keep})
    assert torch.equal(nested["input_ids"], inputs["input_ids"])
    assert "merge" not in processor(prompt, frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "10%"}, "`keep` needs `merge`"),
        ({"merge": "folder"}, "`merge` needs `keep`"),
        ({"merge": "foldr", "keep": "10%"}, "did you mean folder"),
        ({"merge": "folder", "keep": "10%", "tokens_per_frame": 4}, "exclude each other"),
    ],
)
def test_what_the_processor_refuses(
    assistant: Assistant, options: dict[str, Any], message: str
) -> None:
    frames = np.zeros((2, 30, 30, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=message):
        assistant.processor(assistant.processor.video_token, frames, **options)


def test_a_session_is_generate(assistant: Assistant, clip: Path) -> None:
    asked = assistant.ask(clip, "what?", frames=6, merge="folder", keep="25%", max_new_tokens=6)
    assert asked.tokens.visual == 13  # of 54
    assert {name: asked.settings[name] for name in ("merge", "keep", "tokens_per_frame")} == {
        "merge": "folder",
        "keep": "25%",
        "tokens_per_frame": None,
    }
    processor, model = assistant.processor, assistant.model
    frames = crosslmm.sample(clip, frames=6, size=processor.frame_size)
    pixels = processor.normalise(torch.from_numpy(frames.pixels))[None]
    prompt = processor.prompt("what?", times=frames.times, duration=frames.source.duration)
    places = prompt.replace(processor.video_token, processor.video_token * 13)
    inputs = {**processor.encode_prompts([places], [0]), "pixel_values_videos": pixels}
    [ids] = answer(model, {**inputs, "merge": "folder"}, max_new_tokens=6)
    assert processor.tokenizer.decode(ids, skip_special_tokens=True).strip() == asked.text


@pytest.mark.parametrize(
    ("keep", "count"), [("100%", 54), ("10%", 5), (7, 7), ("7", 7), ("0.1%", 1), (1000, 54)]
)
def test_what_is_kept(assistant: Assistant, clip: Path, keep: str | int, count: int) -> None:
    session = assistant.open_video(clip, frames=6, merge="folder", keep=keep)
    assert session.visual_tokens == count
    assert session.merged == f"folder: {count} of 54 tokens kept"
    assert len(session.ask_all(["what?", "and then, where?"], max_new_tokens=3)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "10%"}, "`keep` needs `merge`"),
        ({"merge": "folder"}, "`merge` needs `keep`, such as 10%, or `tokens_per_frame`"),
        ({"merge": "folder", "keep": "0%"}, "`keep` must be a share above 0"),
        ({"merge": "folder", "keep": "110%"}, "`keep` must be a share above 0"),
        ({"merge": "folder", "keep": 0}, "`keep` must be a share above 0"),
        ({"merge": "folder", "keep": True}, "`keep` must be a share above 0"),
        ({"merge": "folder", "keep": "10%", "tokens_per_frame": 4}, "exclude each other"),
        ({"merge": "folder", "tokens_per_frame": 10}, "more than the 9 of a frame"),
        ({"merge": "fold", "keep": 3}, "did you mean folder"),
        ({"merge": "area", "keep": "10%"}, "`merge` area keeps a square number of tokens of each"),
        ({"merge": "weighted", "tokens_per_frame": 5}, "5 is not a perfect square from 1 to 9"),
    ],
)
def test_what_means_nothing_is_refused(
    assistant: Assistant, clip: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        assistant.open_video(clip, frames=6, **options)


def test_merging_makes_room_in_the_context(clip: Path) -> None:
    short = Assistant(model_of(120), tiny_processor(tokens_per_frame=TRAINED))
    with pytest.raises(UsageError, match="use at most"):
        short.open_video(clip, frames=20)
    assert short.open_video(clip, frames=20, merge="folder", keep="10%").visual_tokens == 18
    with pytest.raises(UsageError, match=r"20 frames merged to 175 tokens.* a smaller `keep`"):
        short.open_video(clip, frames=20, merge="folder", keep=175)
