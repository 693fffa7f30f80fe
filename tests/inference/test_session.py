"""A video opened once: questions, conversations and responses about it."""

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers.cache_utils import EncoderDecoderCache

import crosslmm
from crosslmm.inference import encoding
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.encoding import encode_video, open_frames
from crosslmm.inference.generation import GenerationOptions
from crosslmm.inference.prefix import VideoPrefix
from crosslmm.inference.session import VideoSession
from crosslmm.merging import TokenBudget
from crosslmm.options import Sampling
from crosslmm.video import FrameStream
from crosslmm.window_merging import WindowMerger
from tests.model.test_model import VIDEO
from tests.support.threads import no_thread_within
from tests.support.tiny import tiny_model, tiny_processor


def test_a_response_runs_to_its_end_when_its_answer_is_wanted(
    assistant: Assistant, clip: Path
) -> None:
    video = assistant.open_video(clip, frames=3)
    expected = list(video.stream("what?", max_new_tokens=12))
    response = video.stream("what?", max_new_tokens=12)
    first = next(response)
    text = response.text
    assert "".join(expected).strip() == text == response.answer.text
    assert [first, *response] == expected, "pieces that were not read yet are still there"
    assert list(response) == []
    assert response.answer is response.answer
    assert video.stream("what?", max_new_tokens=12).text == text


def test_a_response_that_did_not_end_has_no_answer(
    assistant: Assistant, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = assistant.open_video(clip, frames=2)
    closed, failed = video.stream("what?", max_new_tokens=40), video.stream("what?")
    next(closed)
    closed.close()

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in the thread")

    monkeypatch.setattr(type(assistant.model), "forward", broken)
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        _ = failed.text
    for response in (closed, failed):
        with pytest.raises(RuntimeError, match="not finished"):
            _ = response.answer


@pytest.mark.parametrize(
    "changes", [{}, {"t2v_cache": "projected"}, {"v2v_scope": "frame"}, {"cross_kv": "shared"}]
)
def test_later_questions_reuse_the_video_and_answer_alike(clip: Path, changes: dict) -> None:
    assistant = Assistant(tiny_model(**changes), tiny_processor())
    video = assistant.open_video(clip, frames=4)
    questions = ["what?", "and then, after that?", "what?"]
    together = [video.ask(question, max_new_tokens=8) for question in questions]
    alone = [
        assistant.ask(clip, question, frames=4, max_new_tokens=8).text for question in questions
    ]
    assert [answer.text for answer in together] == alone
    assert together[0].timing.encode > 0
    assert together[1].timing.decode == together[1].timing.encode == 0
    assert together[1].timing.first_token == together[1].timing.prefill, "no wait for the video"
    assert together[0].timing.first_token > together[0].timing.encode


@pytest.mark.parametrize(
    "changes", [{}, {"t2v_cache": "projected"}, {"v2v_scope": "frame"}, {"cross_kv": "shared"}]
)
@pytest.mark.parametrize("newline", [False, True])
def test_a_prompt_prefilled_in_chunks_answers_alike(
    clip: Path, changes: dict, newline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assistant = Assistant(
        tiny_model(video_newline=newline, **changes), tiny_processor(video_newline=newline)
    )
    expected = assistant.ask(clip, "what?", frames=7, max_new_tokens=8).text
    # Two frames of four tokens.
    monkeypatch.setattr("crosslmm.inference.prefix.prefill_part", lambda *_, **__: 10)
    assert assistant.ask(clip, "what?", frames=7, max_new_tokens=8).text == expected


@pytest.mark.parametrize("changes", [{}, {"t2v_cache": "projected"}])
def test_questions_asked_together_are_answered_as_alone(clip: Path, changes: dict) -> None:
    video = Assistant(tiny_model(**changes), tiny_processor()).open_video(clip, frames=4)
    questions = ["what?", "and what happens after that?", "who?"]
    together = video.ask_all(questions, max_new_tokens=8)
    alone = [video.ask(question, max_new_tokens=8).text for question in questions]
    assert together == alone
    assert video.ask_all([]) == []
    with pytest.raises(crosslmm.UsageError, match="empty"):
        video.ask_all(["what?", " "])


@pytest.mark.parametrize("changes", [{}, {"t2v_cache": "projected"}])
def test_questions_asked_together_share_the_video(clip: Path, changes: dict) -> None:
    video = Assistant(tiny_model(**changes), tiny_processor()).open_video(clip, frames=4)
    with video.prefix.lend() as cache:
        held = _storages(cache)
        seen = cache.get_seq_length()
    repeated = video.prefix.repeat(3)
    assert repeated.self_attention_cache.layers[0].keys.shape[0] == 3
    assert _storages(repeated) == held
    video.ask_all(["what?", "who?", "and then?"], max_new_tokens=4)
    with video.prefix.lend() as cache:
        assert _storages(cache) == held
        assert cache.get_seq_length() == seen


def _storages(cache: EncoderDecoderCache) -> list[int]:
    layers = [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers]
    return [
        tensor.untyped_storage().data_ptr()
        for layer in layers
        if layer.is_initialized
        for tensor in (layer.keys, layer.values)
    ]


def test_a_stream_may_be_left_and_the_video_asked_again(assistant: Assistant, clip: Path) -> None:
    video = assistant.open_video(clip, frames=3)
    expected = video.ask("what?", max_new_tokens=8).text
    stream = video.stream("another?", max_new_tokens=400)
    next(stream)
    with pytest.raises(RuntimeError, match="another question"):
        next(video.stream("too soon?"))
    with pytest.raises(RuntimeError, match="another question"):
        video.ask_all(["too soon?", "as well?"])
    stream.close()
    assert video.ask("what?", max_new_tokens=8).text == expected


def test_a_conversation_goes_on_after_the_same_video(assistant: Assistant, clip: Path) -> None:
    """The turns before are in the prompt, after the video that is prefilled already."""
    video = assistant.open_video(clip, frames=3)
    options = GenerationOptions(6)
    alone = video.ask("and then?", max_new_tokens=6)
    talk = [
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": "a ball"},
        {"role": "user", "content": "and then?"},
    ]
    blank = {"role": "user", "content": " "}
    answer = video.respond(talk, options).answer
    assert answer.question == "and then?"
    assert answer.prompt.count("<video>") == 1
    order = [answer.prompt.index(text) for text in ("<video>", "who?", "a ball", "and then?")]
    assert order == sorted(order)
    assert answer.tokens.prompt > alone.tokens.prompt
    assert video.respond(talk[2:], options).answer.text == alone.text
    for unfit, message in [([], "question"), (talk[:2], "question"), ([talk[1], blank], "empty")]:
        with pytest.raises(crosslmm.UsageError, match=message):
            video.respond(unfit, options)


def test_nothing_is_asked_before_the_video_is_prefilled(assistant: Assistant, clip: Path) -> None:
    with open_frames(assistant.runtime, clip, Sampling(frames=2)) as stream:
        encoded = encode_video(assistant.runtime, stream, budget=TokenBudget(4))
    video = VideoSession(
        assistant.runtime, "v", encoded, sampling=Sampling(frames=2),
        budget=TokenBudget(4), started=0.0,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="not prefilled"):
        video.ask("what?")
    video.prefill(encoded.visual)
    expected = assistant.ask(clip, "what?", frames=2, max_new_tokens=4).text
    assert video.ask("what?", max_new_tokens=4).text == expected


def test_an_answer_that_failed_half_way_leaves_the_video_usable(
    assistant: Assistant, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = assistant.open_video(clip, frames=4)
    expected = video.ask("what?", max_new_tokens=4).text
    last = assistant.model.model.language_model.layers[-1]

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("pretended: CUDA out of memory")

    for module, name in ((last, "forward"), (VideoPrefix, "lend")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with pytest.raises(crosslmm.OutOfMemory):
                video.ask("what?", max_new_tokens=4)
    assert video.ask("what?", max_new_tokens=4).text == expected


def test_a_stream_that_was_started_earlier_is_used_where_it_fits(
    assistant: Assistant, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = assistant.processor
    expected = assistant.open_video(clip, frames=4)
    starts = []
    start = FrameStream.start

    def count(stream: FrameStream) -> None:
        starts.append(stream)
        start(stream)

    monkeypatch.setattr(FrameStream, "start", count)
    for size, opened in ((processor.frame_size, 1), ((12, 12), 2)):
        starts.clear()
        stream = FrameStream(clip, Sampling(frames=4), size=size, resample=3)
        stream.start()
        video = assistant.open_video(clip, frames=4, stream=stream)
        assert len(starts) == opened
        assert video.frames == expected.frames
        assert video.ask("what?", max_new_tokens=6).text == (
            expected.ask("what?", max_new_tokens=6).text
        )
        assert no_thread_within(5)


@pytest.mark.parametrize("window", [256, 3])
def test_fewer_frames_than_promised_keep_a_square_of_tokens(
    assistant: Assistant, clip: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(encoding, "WindowMerger", partial(WindowMerger, window=window))
    monkeypatch.setattr(FrameStream, "count", property(lambda stream: 8))
    session = assistant.open_video(clip, frames=5, merge="area", keep=8)
    assert (len(session.frames), session.visual_tokens) == (5, 5)


def test_fewer_frames_than_the_file_promises_keep_their_tokens(
    assistant: Assistant, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a window of one frame, nothing of what earlier ones kept is taken back."""
    monkeypatch.setattr(encoding, "WindowMerger", partial(WindowMerger, window=1))
    monkeypatch.setattr(FrameStream, "count", property(lambda stream: 8))
    session = assistant.open_video(clip, frames=5, merge="folder", keep=8)
    assert len(session.frames) == 5
    assert session.visual_tokens == int((session.prefix.ids == VIDEO).sum()) == 5
    assert session.ask("what?", max_new_tokens=2).tokens.visual == 5
