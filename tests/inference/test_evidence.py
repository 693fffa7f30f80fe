"""What an answer was read from, by the attention of its words."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import crosslmm
from crosslmm.errors import UsageError
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.attention import observe_self_attention, observe_text_to_visual
from crosslmm.inference.evidence import TokenLayout, split_words
from crosslmm.inference.feature_cache import FeatureCache
from tests.support.clips import write_clip
from tests.support.tiny import text_config, tiny_model, tiny_processor, tiny_tokenizer


def seen_by(model: Any, cache: Any, ids: torch.Tensor, observe: Any) -> dict[int, torch.Tensor]:
    parts: dict[int, list[torch.Tensor]] = {}

    def see(layer: int, first: int, weights: torch.Tensor) -> None:
        assert first == sum(part.shape[1] for part in parts.setdefault(layer, []))
        parts[layer].append(weights)

    with torch.inference_mode(), observe(model, see):
        model.model(input_ids=ids, past_key_values=cache, use_cache=True)
    return {layer: torch.cat(found, dim=1) for layer, found in parts.items()}


def count_hooks(model: Any) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("slices", [1, 2**26])
def test_rows_are_those_that_the_model_attends_with(
    clip: Path, attention: str, slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosslmm.inference.attention.SLICE_BYTES", slices)
    model = tiny_model()
    video = Assistant(model, tiny_processor()).open_video(clip, frames=3)
    ids = torch.tensor([[70, 80, 90, 100]])
    model.set_attn_implementation("eager")
    with torch.inference_mode(), video.prefix.lend() as cache:
        expected = model.model(
            input_ids=ids, past_key_values=cache, use_cache=True, output_attentions=True
        ).attentions
    model.set_attn_implementation(attention)
    hooks = count_hooks(model)
    with video.prefix.lend() as cache:
        seen = seen_by(model, cache, ids, observe_self_attention)
    assert len(seen) == len(expected) == 4
    for layer, weights in enumerate(expected):
        assert torch.allclose(seen[layer], weights[0], atol=1e-6)
    assert count_hooks(model) == hooks


def test_a_single_row_is_seen_beside_merged_tokens(clip: Path) -> None:
    """With a mask, which counts tokens by their mass, its heads reach the kernel as rows."""
    model = tiny_model()
    video = Assistant(model, tiny_processor()).open_video(clip, frames=3, merge="folder", keep=5)
    found = []
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        with video.prefix.lend() as cache:
            found.append(seen_by(model, cache, torch.tensor([[70]]), observe_self_attention))
    for layer, weights in found[1].items():
        assert weights.shape[:2] == (4, 1)
        assert torch.allclose(found[0][layer], weights, atol=1e-6)


def test_text_to_visual_is_seen_alike_however_it_is_cached(clip: Path) -> None:
    found = []
    for cached in ("features", "projected"):
        model = tiny_model(t2v_cache=cached)
        video = Assistant(model, tiny_processor()).open_video(clip, frames=3)
        ids = torch.tensor([[70, 80, 90, 100]])
        with video.prefix.lend() as cache:
            found.append(seen_by(model, cache, ids, observe_text_to_visual))
    features, projected = found
    assert features.keys() == projected.keys() == {0, 1}
    for layer, weights in features.items():
        assert weights.shape == (4, 4, 3 * 25)  # heads, rows, frames · patches
        assert torch.allclose(weights.sum(dim=-1), torch.ones(4, 4))
        assert torch.allclose(weights, projected[layer], atol=1e-5)


def test_what_text_to_visual_reads_follows_from_what_is_seen(clip: Path) -> None:
    model = tiny_model(t2v_cache="features")
    video = Assistant(model, tiny_processor()).open_video(clip, frames=3)
    branch = next(iter(model.model.dual_layers)).t2v
    read: list[torch.Tensor] = []
    keep = branch.register_forward_hook(lambda module, args, output: read.append(output))
    with video.prefix.lend() as cache:
        features = cache.cross_attention_cache.layers[0].keys[0, 0]
        weights = seen_by(model, cache, torch.tensor([[70, 80]]), observe_text_to_visual)[0]
    keep.remove()
    with torch.inference_mode():
        values = branch.v_proj(features).unflatten(-1, (2, -1)).transpose(0, 1)
        attended = weights @ values.repeat_interleave(2, dim=0)  # (heads, rows, head_dim)
        expected = branch.gate.tanh() * branch.o_proj(attended.transpose(0, 1).flatten(1))
    assert torch.allclose(read[0][0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "options", "source", "side"),
    [
        ({}, {}, "cross-attention", 5),
        ({"t2v_cache": "projected", "v2v_scope": "frame"}, {}, "cross-attention", 5),
        ({"gates": False}, {}, "self-attention", 2),
        ({"gates": False}, {"merge": "folder", "keep": 3}, "self-attention", 2),
        ({"gates": False}, {"tokens_per_frame": 1}, "self-attention", 1),
        ({"text": text_config("qwen3")}, {}, "cross-attention", 5),
        ({"cross_kv": "shared"}, {}, "cross-attention", 5),
    ],
)
def test_evidence_of_an_answer(
    clip: Path, changes: dict, options: dict, source: str, side: int
) -> None:
    video = Assistant(tiny_model(**changes), tiny_processor()).open_video(clip, frames=4, **options)
    answer = video.ask("what?", max_new_tokens=8)
    evidence = video.evidence(answer)
    assert evidence.source == source
    assert evidence.heat.shape == (4, side, side)
    assert sum(evidence.scores) == pytest.approx(1)
    assert evidence.times == tuple(frame.time for frame in answer.frames)
    assert [word.text for word in evidence.words] == answer.text.split()
    assert all(answer.text[word.start : word.end] == word.text for word in evidence.words)
    assert all(sum(word.scores) == pytest.approx(1) for word in evidence.words)
    first = evidence.words[0]
    one = video.evidence(answer, part=(first.start, first.end))
    assert one.scores == pytest.approx(first.scores)
    assert video.ask("what?", max_new_tokens=8).text == answer.text, "the session is as before"
    assert "trace" not in answer.as_dict()


def test_a_dialogue_goes_on_after_its_evidence(clip: Path) -> None:
    video = Assistant(tiny_model(), tiny_processor()).open_video(clip, frames=2, max_pixels=10**9)
    chat, other = video.chat(), video.chat()
    first = chat.ask("what?", max_new_tokens=6)
    second = chat.ask("and then?", max_new_tokens=6)
    shown = video.evidence(second)
    assert shown.answer == second.text
    assert shown.scores != video.evidence(first).scores
    third = chat.ask("and then?", max_new_tokens=6).text
    for question in ("what?", "and then?"):
        other.ask(question, max_new_tokens=6)
    assert other.ask("and then?", max_new_tokens=6).text == third
    assert video.evidence(chat.ask("so?")).sampling.max_pixels == 10**9


def test_evidence_needs_an_answer_about_the_video(clip: Path) -> None:
    assistant = Assistant(tiny_model(), tiny_processor())
    one, other = assistant.open_video(clip, frames=2), assistant.open_video(clip, frames=3)
    answer = one.ask("what?", max_new_tokens=4)
    with pytest.raises(UsageError, match="not one about this video"):
        other.evidence(answer)
    for stranger in (
        Assistant(tiny_model(seed=1), assistant.processor).open_video(clip, frames=2),
        assistant.open_video(clip, frames=2, tokens_per_frame=1),
    ):
        with pytest.raises(UsageError, match="by another model, or was read from other tokens"):
            stranger.evidence(answer)
    assert assistant.open_video(clip, frames=2).evidence(deepcopy(answer)).answer == answer.text
    with pytest.raises(UsageError, match="no words there"):
        one.evidence(answer, part=(0, 0))


def test_a_merged_token_gives_what_it_is_given_to_all_that_it_stands_for() -> None:
    member = torch.tensor([0, 0, 1, 0, 1, 1, 1, 1])  # two frames of four tokens
    layout = TokenLayout(2, 4, (2,), member)
    spread = layout.spread(torch.tensor([[0.3, 0.5]]))
    assert torch.allclose(spread[0, 0], torch.tensor([0.1, 0.1, 0.1, 0.1]))
    assert torch.allclose(spread.sum(), torch.tensor(0.8))


def test_merged_tokens_keep_their_members_in_the_cache(
    checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    found = []
    for _ in range(2):
        cache = FeatureCache(folder=tmp_path / "cache", least_seconds=0.0)
        assistant = crosslmm.load(checkpoint, device="cpu", dtype="float32", cache=cache)
        video = assistant.open_video(clip, frames=4, merge="folder", keep=5)
        evidence = video.evidence(video.ask("what?", max_new_tokens=5))
        found.append((video.from_cache, evidence.heat))
    assert [from_cache for from_cache, _ in found] == [False, True]
    assert np.allclose(found[0][1], found[1][1])


def test_words_of_several_tokens_and_tokens_of_a_part_of_a_character() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(" à bé ")["input_ids"]
    words = split_words(tokenizer, [*ids, tokenizer.eos_token_id], "à bé")
    assert [(word.text, word.start, word.end, word.rows) for word in words] == [
        ("à", 0, 1, (1, 2)),
        ("bé", 2, 4, (4, 5, 6)),
    ]


def test_tokens_of_several_videos_are_found_in_the_prompt() -> None:
    """Text is between them, and a newline of its own ends each."""
    ids = torch.tensor([1, 9, 9, 9, 9, 5, 9, 9, 9, 2])
    layout = TokenLayout(5, 1, (3, 2))
    assert layout.columns(ids, 9).tolist() == [1, 2, 3, 6, 7]
    assert TokenLayout(7, 1, (4, 3)).columns(ids, 9).tolist() == [1, 2, 3, 4, 6, 7, 8]


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"gates": False, "video_newline": True}, {}),
        ({"gates": False}, {"merge": "folder", "keep": 5}),
    ],
)
def test_evidence_of_an_answer_about_several_videos(
    clip: Path, tmp_path: Path, changes: dict, options: dict
) -> None:
    """Each video has the share of what its own tokens are attended with, by the only word."""
    other = tmp_path / "other.mp4"
    write_clip(other, frames=12, fps=6)
    model = tiny_model(**changes)
    processor = tiny_processor(video_newline=changes.get("video_newline", False))
    session = Assistant(model, processor).open_videos([clip, other], frames=5, **options)
    answer = session.ask("which?", max_new_tokens=1)
    evidence = session.evidence(answer)
    assert [(each.name, each.frames) for each in evidence.videos] == [
        (str(clip), 3),
        (str(other), 2),
    ]
    assert evidence.times == tuple(frame.time for frame in answer.frames)
    assert answer.trace is not None
    ids = torch.tensor([[*answer.trace.prompt, *answer.trace.answer]])
    model.set_attn_implementation("eager")
    with torch.inference_mode(), session.prefix.lend() as cache:
        *_, last = model.model(
            input_ids=ids, past_key_values=cache, use_cache=True, output_attentions=True
        ).attentions
    weights = last[0, :, -1].mean(dim=0)
    is_video = session.prefix.ids[0] == model.config.video_token_id
    second = int((~is_video & (is_video.cumsum(0) > 0)).nonzero()[0])  # text after the first
    starts = [int(is_video.nonzero()[0]), second + int(is_video[second:].nonzero()[0])]
    read = [
        float(weights[start : start + video.tokens].sum())
        for start, video in zip(starts, session.videos, strict=True)
    ]
    assert sum(evidence.scores[:3]) == pytest.approx(read[0] / sum(read), rel=1e-4)
    assert sum(evidence.scores) == pytest.approx(1)
