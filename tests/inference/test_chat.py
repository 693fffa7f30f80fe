"""Dialogues: what a turn sees, what it computes, and what is left of one that was stopped."""

from pathlib import Path

import pytest
import torch

import crosslmm
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.generation import GenerationOptions
from crosslmm.inference.session import VideoSession
from tests.support.tiny import tiny_model, tiny_processor


def _computed(video: VideoSession, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills up with the number of positions of each call of the language model."""
    lengths: list[int] = []
    model = video._runtime.model
    forward = model.forward

    def counted(*args: object, **kwargs: object) -> object:
        lengths.append(kwargs["input_ids"].shape[1])  # type: ignore[attr-defined]
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", counted)
    return lengths


@pytest.mark.parametrize("changes", [{}, {"t2v_cache": "projected"}, {"v2v_scope": "frame"}])
def test_a_turn_answers_as_the_whole_conversation_does(clip: Path, changes: dict) -> None:
    assistant = Assistant(tiny_model(**changes), tiny_processor())
    chat = assistant.open_video(clip, frames=3).chat()
    options = GenerationOptions(8)
    for question in ("who?", "and then, after that?", "who?"):
        messages = [*chat.messages, {"role": "user", "content": question}]
        expected = assistant.open_video(clip, frames=3).respond(messages, options).answer
        answer = chat.ask(question, max_new_tokens=8)
        assert (answer.text, answer.prompt) == (expected.text, expected.prompt)
    assert [message["content"] for message in chat.messages[::2]] == [
        "who?", "and then, after that?", "who?",
    ]  # fmt: skip


def test_only_the_new_turn_is_prefilled(
    assistant: Assistant, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = assistant.open_video(clip, frames=3)
    chat = video.chat()
    chat.ask("a long question, " * 20, max_new_tokens=4)
    lengths = _computed(video, monkeypatch)
    second = chat.ask("and?", max_new_tokens=4)
    assert lengths[0] < second.tokens.prompt / 4
    chat.undo()
    lengths.clear()
    again = chat.ask("or?", max_new_tokens=4)
    assert lengths[0] < again.tokens.prompt / 4
    assert again.tokens.prompt < second.tokens.prompt + 4


def test_unrelated_questions_do_not_see_the_dialogue(assistant: Assistant, clip: Path) -> None:
    video = assistant.open_video(clip, frames=3)
    expected = video.ask("what?", max_new_tokens=6).text
    chat = video.chat()
    chat.ask("who?", max_new_tokens=6)
    assert video.ask("what?", max_new_tokens=6).text == expected
    assert video.ask_all(["what?", "what?"], max_new_tokens=6) == [expected, expected]
    assert chat.ask("and?", max_new_tokens=6).tokens.prompt > 0


def test_a_stopped_answer_leaves_the_dialogue_as_it_was(assistant: Assistant, clip: Path) -> None:
    video = assistant.open_video(clip, frames=3)
    chat, other = video.chat(), assistant.open_video(clip, frames=3).chat()
    for each in (chat, other):
        each.ask("who?", max_new_tokens=6)
    before = list(chat.messages)
    response = chat.stream("a question that is stopped?", max_new_tokens=300)
    next(response)
    response.close()
    assert chat.messages == before
    assert chat.ask("and?", max_new_tokens=6).text == other.ask("and?", max_new_tokens=6).text


def test_the_oldest_turns_are_dropped_where_the_context_ends(
    assistant: Assistant, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = assistant.open_video(clip, frames=3)
    notices: list[str] = []
    assistant.on_notice = notices.append
    chat = video.chat()
    first = chat.ask("0?", max_new_tokens=4)
    limit = first.tokens.prompt + 120
    monkeypatch.setattr(type(video._runtime), "context", limit)
    held = 0
    for number in range(1, 200):
        answer = chat.ask(f"{number}?", max_new_tokens=4)
        assert answer.tokens.prompt + 4 <= limit
        held = max(held, video.prefix._cache.get_seq_length())
    assert held <= limit
    assert chat.messages[-2]["content"] == "199?"
    assert 2 <= len(chat.messages) < 60
    assert "oldest turn" in notices[0]
    with pytest.raises(crosslmm.UsageError, match="context"):
        chat.ask("too long " * 500)


def test_undo_and_empty_questions(assistant: Assistant, clip: Path) -> None:
    chat = assistant.open_video(clip, frames=2).chat()
    assert chat.undo() is None
    with pytest.raises(crosslmm.UsageError, match="empty"):
        chat.stream("  ")
    chat.ask("who?", max_new_tokens=2)
    assert repr(chat) == "<Chat, turns: 1>"
    assert chat.undo() == "who?"
    assert chat.messages == []


def test_what_is_kept_is_what_was_computed(assistant: Assistant, clip: Path) -> None:
    video = assistant.open_video(clip, frames=2)
    chat = video.chat()
    chat.ask("who?", max_new_tokens=5)
    prefix = video.prefix
    assert prefix._held.shape[1] == prefix._cache.get_seq_length()
    assert torch.equal(prefix._held[:, : len(prefix)], prefix.ids)
