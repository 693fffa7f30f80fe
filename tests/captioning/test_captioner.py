"""The model's side: batches that equal their rows, memory that runs out, models that fail."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.captioning.captioner import Captioner
from crosslmm.captioning.options import CaptionOptions
from crosslmm.captioning.reading import Clip, read_clips
from crosslmm.errors import CrossLMMError
from crosslmm.inference import batch
from crosslmm.inference.assistant import Assistant
from tests.support.captioning import LENGTHS, request, run


@pytest.mark.parametrize("readers", [0, 1])
def test_captions_are_those_of_asking_one_by_one(
    clips: Path, assistant: Assistant, readers: int
) -> None:
    got = dict(run(clips, assistant, readers=readers, batch_size=3))
    expected = {
        Path(name).name: assistant.ask(
            clips / name, "Describe the video.", frames=4, max_new_tokens=6
        ).text
        for name in LENGTHS
    }
    assert got == expected
    assert len(set(got.values())) == len(LENGTHS)


def test_a_batch_equals_its_rows_for_unequal_videos_and_questions(
    clips: Path, assistant: Assistant
) -> None:
    frames = [crosslmm.sample(clips / name, frames=count) for name, count in
              zip(LENGTHS, (2, 7, 5, 1), strict=True)]  # fmt: skip
    questions = ["what?", "what happens in the long, long film?", "?", "a"]
    together = assistant.answer_batch(frames, questions, max_new_tokens=16)
    alone = [
        assistant.answer_batch([clip], [question], max_new_tokens=16)[0]
        for clip, question in zip(frames, questions, strict=True)
    ]
    assert together == alone
    with pytest.raises(crosslmm.UsageError, match="empty"):
        assistant.answer_batch(frames[:2], ["what?", ""])
    with pytest.raises(crosslmm.UsageError, match="2 videos and 1 questions"):
        assistant.answer_batch(frames[:2], ["what?"])
    with pytest.raises(crosslmm.UsageError, match="`questions` is a list"):
        assistant.answer_batch(frames[:1], "what?")
    with pytest.raises(crosslmm.UsageError, match=r"`crosslmm.sample` reads them, not str"):
        assistant.answer_batch(["clip.mp4"], ["what?"])


QUESTION = CaptionOptions(prompt="question {filename}", max_new_tokens=4)


def numbered(clips: Path, count: int) -> list[Clip]:
    """A clip of each of so many videos, whose names are numbers."""
    clip = next(read_clips(request(clips / "b.mp4")))
    return [replace(clip, path=f"{number}.mp4") for number in range(count)]


def test_out_of_memory_halves_the_batch_then_the_frames(
    clips: Path, assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real encoder, with a device that holds three frames of a batch and no more."""
    encode, notices = assistant.model.model.encode_frames, []
    monkeypatch.setattr(assistant, "on_notice", notices.append)

    def limited(pixels: Any, tokens: int) -> Any:
        held[0] += len(pixels)
        if held[0] > 3:
            held[0] = 0
            raise MemoryError("the test's device is full")
        return encode(pixels, tokens)

    def fresh(*arguments: Any, **options: Any) -> Any:
        held[0] = 0
        return answer_batch(*arguments, **options)

    held, answer_batch = [0], batch.answer_batch
    captioner = Captioner(assistant, QUESTION, batch_size=4)
    monkeypatch.setattr("crosslmm.captioning.captioner.answer_batch", fresh)
    monkeypatch.setattr(assistant.model.model, "encode_frames", limited)
    monkeypatch.setattr(type(assistant.model.model), "frames_per_chunk", 1)
    segments = captioner.caption(numbered(clips, 4))
    assert captioner.batch_size == 1
    assert [len(segment.frames) for segment in segments] == [2] * 4
    assert all(segment.caption for segment in segments)
    assert segments[0].warnings == ("out of memory with 4 frames: fewer were used",)
    assert notices == [
        "out of memory with 4 videos at once; 2 from here on",
        "out of memory with 2 videos at once; 1 from here on",
    ]


def test_one_clip_that_the_model_cannot_take_fails_alone(
    clips: Path, assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = assistant.processor.prompt

    def choosy(question: str, **rest: Any) -> str:
        if question.endswith(" 1"):
            raise ValueError("not that one")
        return prompt(question, **rest)

    monkeypatch.setattr(assistant.processor, "prompt", choosy)
    segments = Captioner(assistant, QUESTION, batch_size=4).caption(numbered(clips, 4))
    assert [segment.problem for segment in segments] == [
        None, "the model failed: ValueError: not that one", None, None,
    ]  # fmt: skip


def test_a_model_that_fails_at_everything_ends_the_run(
    clips: Path, assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **rest: Any) -> str:
        raise RuntimeError("no device")

    monkeypatch.setattr(assistant.processor, "prompt", broken)
    with pytest.raises(CrossLMMError, match="RuntimeError: no device"):
        Captioner(assistant, QUESTION, batch_size=2).caption(numbered(clips, 20))
    few = Captioner(assistant, QUESTION, batch_size=2, max_failures=21)
    assert len(few.caption(numbered(clips, 20))) == 20
    one = numbered(clips, 1) * 20  # one film in many parts says nothing about the others
    segments = Captioner(assistant, QUESTION, batch_size=2).caption(one)
    assert [segment.problem for segment in segments] == [
        "the model failed: RuntimeError: no device"
    ] * 20
