"""Decoding over the frames that the prompt attends to most, against caches that are cut by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicCache

from crosslmm.cache import as_dual_cache
from crosslmm.inference.assistant import Assistant
from tests.model.test_model import answer, one_video, unequal_batch
from tests.support.tiny import tiny_model, tiny_processor

FRAMES, PATCHES, STEPS = 6, 25, 4
CACHES = ["features", "projected"]


def attended(module: Any, hidden_states: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """(T,), what the last of the tokens attends to in each frame, over all heads, one by one."""
    query, key = module.q_proj(hidden_states[0, -1]), module.k_proj(features.view(-1, 32))
    total = torch.zeros(FRAMES)
    for head in range(module.heads):
        shared = head // module.num_key_value_groups
        own = query[head * module.head_dim :][: module.head_dim]
        keys = key[:, shared * module.head_dim :][:, : module.head_dim]
        weights = (keys @ own * module.scaling).softmax(dim=0)
        total += weights.view(FRAMES, PATCHES).sum(dim=1)
    return total


@torch.no_grad()
@pytest.mark.parametrize("t2v_cache", CACHES)
def test_decoding_reads_the_frames_attended_to_most(t2v_cache: str) -> None:
    model = tiny_model(t2v_cache=t2v_cache)
    given = one_video(FRAMES)
    scores = torch.zeros(FRAMES)
    visual = model.model.encode_video(given["pixel_values_videos"], 4)

    def look(module: Any, args: Any) -> None:
        scores.add_(attended(module, args[0], visual.features))

    hooks = [layer.t2v.register_forward_pre_hook(look) for layer in model.model.dual_layers]
    cache = as_dual_cache(DynamicCache(config=model.config.text), model.config)
    tokens = [model(**given, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)]
    for hook in hooks:
        hook.remove()
    chosen = scores.topk(2).indices.sort().values.tolist()
    patches = [frame * PATCHES + patch for frame in chosen for patch in range(PATCHES)]
    for layer in cache.cross_attention_cache.layers:
        layer.keys = layer.keys[:, :, patches]
        layer.values = layer.values[:, :, patches] if layer.values.numel() else layer.values
    expected, options = [], {"past_key_values": cache, "use_cache": True}
    for _ in range(STEPS):
        expected.append(model(tokens[-1], **options).logits[:, -1])
        tokens.append(expected[-1].argmax(-1, keepdim=True))

    model.config.t2v_frames = 2
    options["past_key_values"] = as_dual_cache(None, model.config)
    first = model(**given, **options).logits[:, -1:].argmax(-1)
    assert torch.equal(first, tokens[0]), "the prompt reads all frames"
    for token, logits in zip(tokens, expected, strict=False):
        got = model(token, **options).logits[:, -1]
        torch.testing.assert_close(got, logits, rtol=0, atol=2e-5)
    model.config.t2v_frames = None
    options["past_key_values"] = as_dual_cache(None, model.config)
    model(**given, **options)
    everything = model(tokens[0], **options).logits[:, -1]
    assert (everything - expected[0]).abs().max() > 1e-3, "it makes no difference here"


@pytest.mark.parametrize("t2v_cache", CACHES)
def test_all_frames_are_as_without(t2v_cache: str) -> None:
    model = tiny_model(t2v_cache=t2v_cache)
    expected = answer(model, one_video(FRAMES))
    model.config.t2v_frames = FRAMES
    assert answer(model, one_video(FRAMES)) == expected


@pytest.mark.parametrize("t2v_cache", CACHES)
def test_a_batch_and_its_beams_choose_by_row(t2v_cache: str) -> None:
    model = tiny_model(t2v_cache=t2v_cache, t2v_frames=2)
    batch, singles = unequal_batch()
    assert answer(model, batch) == [answer(model, single)[0] for single in singles]
    beams = answer(model, batch, num_beams=2)
    assert beams == [answer(model, single, num_beams=2)[0] for single in singles]


def test_each_question_chooses_again(clip: Path) -> None:
    assistant = Assistant(tiny_model(t2v_frames=1), tiny_processor())
    questions = ["what?", "and what happens after that?", "what?"]
    video = assistant.open_video(clip, frames=4)
    alone = [
        assistant.ask(clip, question, frames=4, max_new_tokens=6).text for question in questions
    ]
    assert [video.ask(question, max_new_tokens=6).text for question in questions] == alone
    assert video.ask_all(questions, max_new_tokens=6) == alone
    assert video.ask(questions[1], max_new_tokens=6).text == alone[1]
