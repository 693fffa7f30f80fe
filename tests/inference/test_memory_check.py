"""As many frames as fit: into a given memory, into what is free, into the context."""

import json
from functools import partial
from pathlib import Path

import pytest

import crosslmm
from crosslmm.cost.budget import most_frames
from crosslmm.cost.settings import Settings
from crosslmm.cost.shape import ModelShape
from crosslmm.inference.assistant import Assistant
from crosslmm.merging import TokenBudget

FREE = "crosslmm.inference.memory_check.free_memory"
MB = 10**6


def profiled(assistant: Assistant, memory: int, budget: TokenBudget | None = None) -> int:
    """By the profile of its configuration, its gates as they are."""
    model = assistant.model
    shape = ModelShape.from_config(model.config.to_dict())
    assert all(layer.v2v.is_open and layer.t2v.is_open for layer in model.model.dual_layers)
    settings = Settings(text_tokens=576, dtype="float32")
    return most_frames(shape, memory, budget=budget or assistant.runtime.budget, settings=settings)


@pytest.fixture
def roomy(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> Assistant:
    monkeypatch.setattr(assistant.model.config.text, "max_position_embeddings", 10**6)
    return assistant


def test_as_many_as_the_profile_says(roomy: Assistant) -> None:
    for memory in (8 * MB, 20 * MB):
        assert roomy.most_frames(memory) == profiled(roomy, memory) > 10


def test_what_is_free_is_filled_to_nine_tenths(
    roomy: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(each.numel() * 4 for each in roomy.model.parameters())
    monkeypatch.setattr(FREE, lambda device: 20 * MB)
    assert roomy.most_frames() == pytest.approx(profiled(roomy, weights + 18 * MB), rel=0.02)


def test_merging_makes_room_for_more(roomy: Assistant) -> None:
    asked = {"merge": "folder", "keep": "5%"}
    budget = roomy.runtime.choose_budget(**asked)
    for memory in (12 * MB, 30 * MB):
        merged = roomy.most_frames(memory, **asked)
        assert merged == profiled(roomy, memory, budget)
        # Not twenty times as many: the features of all frames are kept, and so tiny a model takes more
        # for the mask of what tokens count than for the tokens.
        assert merged > 1.5 * roomy.most_frames(memory)


def test_merging_makes_room_in_the_context(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assistant.model.config.text, "max_position_embeddings", 676)
    room = 676 - 64 - 512
    assert assistant.most_frames(10**12) == room // 4 == 25
    assert assistant.most_frames(10**12, merge="folder", keep="25%") == room
    assert assistant.most_frames(10**12, merge="folder", tokens_per_frame=2) == 50
    assert assistant.most_frames(10**9, merge="folder", keep=100) > 10_000
    assert assistant.most_frames(10**9, merge="folder", keep=101) == 25


def test_the_memory_is_estimated_with_the_merging(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FREE, lambda device: 15 * MB)
    said: list[str] = []
    load = partial(crosslmm.load, checkpoint, dtype="float32", frames=1000, on_notice=said.append)
    load()
    assert [line[:13] for line in said] == ["this may need"]
    assert load(merge="folder", keep="25%").runtime.budget.count(8) == 8
    assert len(said) == 1


def test_the_context_bounds_them(assistant: Assistant) -> None:
    room = assistant.runtime.context - 64 - 512
    assert assistant.most_frames(10**12) == room // assistant.tokens_per_frame


def test_not_even_one(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        crosslmm.UsageError, match=r"not even one frame of 4 tokens fits in 0\.0 GB"
    ):
        assistant.most_frames(1000)
    monkeypatch.setattr(assistant.model.config.text, "max_position_embeddings", 579)
    with pytest.raises(crosslmm.UsageError, match="fits in its context"):
        assistant.most_frames(10**12)


@pytest.mark.parametrize("option", [("--frames", "max"), ("--fit", "1GB")])
def test_a_clip_shorter_than_that_gives_all_of_its_frames(
    run, clip: Path, checkpoint: Path, option: tuple[str, str]
) -> None:
    done = run("ask", clip, "what?", "-m", checkpoint, *option, "--max-new-tokens", 1, "--json")
    assert done.code == 0, done.err
    frames = json.loads(done.out)["frames"]
    assert len(frames) == len(crosslmm.sample(clip, frames=100_000))


def test_a_longer_one_as_many_as_fit(
    run, assistant: Assistant, clip: Path, checkpoint: Path
) -> None:
    def enough(budget: TokenBudget | None = None) -> int:
        sizes = range(MB // 10, 20 * MB, 20_000)
        return next(size for size in sizes if profiled(assistant, size, budget) > 4)

    line = ("ask", clip, "what?", "-m", checkpoint, "--dtype", "float32")
    line += ("--max-new-tokens", "1", "--json", "--fit")
    done = run(*line, f"{enough()}B")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["frames"]) == profiled(assistant, enough()) < 30
    budget = assistant.runtime.choose_budget(merge="folder", keep="25%")
    memory = enough(budget)
    done = run(*line, f"{memory}B", "--merge", "folder", "--keep", "25%")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert len(answer["frames"]) == min(profiled(assistant, memory, budget), 30)
    assert answer["tokens"]["visual"] == len(answer["frames"])
