"""Tokens: how they are sampled, streamed and stopped."""

import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from crosslmm.inference.assistant import Assistant
from crosslmm.inference.generation import GenerationOptions, TokenStream, stop_token_ids
from crosslmm.inference.token_sampling import SeededSampler
from tests.support.tiny import tiny_model, tiny_processor


def test_a_left_stream_stops_generating(
    assistant: Assistant, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    forward = type(assistant.model).forward

    def slow(self: object, *args: object, **kwargs: object) -> object:
        steps.append(1)
        time.sleep(0.02)
        return forward(self, *args, **kwargs)

    video = assistant.open_video(clip, frames=2)
    monkeypatch.setattr(type(assistant.model), "forward", slow)
    stream = video.stream("what?", max_new_tokens=500)
    next(stream)
    stream.close()
    taken = len(steps)
    time.sleep(0.2)
    assert len(steps) == taken < 100
    assert not [t for t in threading.enumerate() if t.name == "crosslmm-generate"]


def test_errors_of_generation_reach_the_caller(
    assistant: Assistant, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = assistant.open_video(clip, frames=2)

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in the thread")

    monkeypatch.setattr(type(assistant.model), "forward", broken)
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        video.ask("what?")


def test_sampling_repeats_with_its_seed_and_reports_it(
    assistant: Assistant, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = assistant.open_video(clip, frames=2)
    before = torch.random.get_rng_state()

    def unexpected(*_: object) -> None:
        raise AssertionError("the random state of the process was set")

    monkeypatch.setattr(torch, "manual_seed", unexpected)
    monkeypatch.setattr(torch.random, "set_rng_state", unexpected)
    first = video.ask("what?", temperature=1.5, max_new_tokens=12)
    assert torch.equal(before, torch.random.get_rng_state()), (
        "the caller's random state is not touched"
    )
    seed = first.settings["seed"]
    again = video.ask("what?", temperature=1.5, max_new_tokens=12, seed=seed)
    other = video.ask("what?", temperature=1.5, max_new_tokens=12, seed=seed + 1)
    assert first.text == again.text != other.text


def test_sampling_in_one_thread_leaves_the_others_alone(assistant: Assistant, clip: Path) -> None:
    """Draws from the global generator meanwhile change no answer, and no answer changes them."""
    video = assistant.open_video(clip, frames=2)
    expected = video.ask("what?", temperature=1.5, max_new_tokens=12, seed=3).text
    torch.manual_seed(0)
    drawn = [float(torch.rand(())) for _ in range(13)]
    torch.manual_seed(0)
    response = video.stream("what?", temperature=1.5, max_new_tokens=12, seed=3)
    interleaved = [float(torch.rand(())) for _ in response]
    interleaved += [float(torch.rand(())) for _ in range(13 - len(interleaved))]
    assert response.text == expected
    assert interleaved == drawn


@pytest.mark.parametrize(
    "settings",
    [{}, {"top_k": 0}, {"top_k": 7, "top_p": 0.8}, {"top_k": 0, "min_p": 0.05, "typical_p": 0.9}],
)
def test_tokens_are_drawn_as_by_generate(assistant: Assistant, settings: dict) -> None:
    """The same distribution as `do_sample`, so the same seed draws the same tokens."""
    model = assistant.model
    ids = assistant.processor.tokenizer("what?", return_tensors="pt")["input_ids"]
    greedy = GenerationOptions(24).config(model)
    torch.manual_seed(5)
    sampled = {"top_k": 50} | settings
    expected = model.generate(
        ids, max_new_tokens=24, do_sample=True, temperature=1.3, pad_token_id=0, **sampled
    )
    sampler = SeededSampler(
        GenerationConfig(**settings), temperature=1.3, seed=5, device=model.device
    )
    got = model.generate(ids, generation_config=greedy, logits_processor=[sampler])
    assert got.tolist() == expected.tolist()


def test_the_checkpoints_sampling_settings_are_used(
    clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model()
    model.generation_config.update(do_sample=True, top_k=1, top_p=0.9, temperature=0.6)
    video = Assistant(model, tiny_processor()).open_video(clip, frames=2)
    greedy = video.ask("what?", max_new_tokens=12)
    one_choice = video.ask("what?", max_new_tokens=12, temperature=1.5, seed=1)
    assert one_choice.text == greedy.text, "top_k 1 leaves nothing to draw"
    model.generation_config.update(top_k=40)
    assert video.ask("what?", max_new_tokens=12, temperature=1.5, seed=1).text != greedy.text
    assert capfd.readouterr().err == "", "settings that greedy decoding ignores are not warned of"


def test_a_token_that_is_ruled_out_is_never_drawn() -> None:
    scores = torch.full((4, 1000), -torch.inf)
    scores[:, 17] = 0.0
    sampler = SeededSampler(
        GenerationConfig(top_k=0), temperature=2.0, seed=0, device=torch.device("cpu")
    )
    for _ in range(50):
        drawn = sampler(torch.zeros(4, 1, dtype=torch.long), scores)  # type: ignore[arg-type]
        assert drawn.argmax(dim=1).tolist() == [17] * 4


@pytest.mark.parametrize(("ids", "stops"), [(None, ()), (2, (2,)), ([2, 5], (2, 5))])
def test_a_checkpoint_may_name_any_number_of_stop_tokens(ids: object, stops: tuple) -> None:
    assert stop_token_ids(GenerationConfig(eos_token_id=ids)) == stops


def test_incomplete_characters_are_held_back(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A character of several tokens comes out complete, and an unfinished one is not lost."""
    tokenizer = assistant.processor.tokenizer
    text = "né 视频"
    ids = tokenizer(text)["input_ids"]

    def generate(self: object, *, streamer: BaseStreamer, **_: object) -> None:
        streamer.put(torch.zeros(1, 3, dtype=torch.long))  # the prompt
        for token in [*ids, ids[-2]]:
            streamer.put(torch.tensor([token]))
        streamer.end()

    monkeypatch.setattr(type(assistant.model), "generate", generate)
    stream = TokenStream(assistant.model, tokenizer, GenerationOptions(99))
    pieces = list(stream)
    assert pieces[:5] == ["n", "é", " ", "视", "频"]
    assert "".join(pieces) == stream.text == text + "\ufffd"
