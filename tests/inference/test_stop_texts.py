"""Texts that end an answer, and the system turn that prompts begin with."""

import random
from pathlib import Path

import pytest

from crosslmm.errors import UsageError
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.stop_texts import StopTexts
from tests.support.tiny import tiny_model, tiny_processor


def shown(text: str, stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    watch, said = StopTexts(stops), ""
    for piece in pieces:
        said += watch.feed(piece)
        assert text.startswith(said)
        assert not any(stop in said for stop in stops)
        if watch.found:
            break
    return said, watch.found


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one. two. ", ["."], "one"),
        ("one\n\ntwo", ["\n\n"], "one"),
        ("aab", ["ab"], "a"),
        ("aaab", ["aab", "ab"], "a"),
        ("the end", ["end", "the end"], ""),
        ("abcabd", ["abd"], "abc"),
    ],
)
def test_an_answer_ends_before_the_first_text_however_it_comes(
    text: str, stops: list[str], expected: str
) -> None:
    for size in range(1, len(text) + 1):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        said, found = shown(text, stops, pieces)
        assert (said, found) == (expected, True)


def test_any_text_is_found_where_it_is() -> None:
    numbers = random.Random(0)
    for _ in range(3_000):
        text = "".join(numbers.choices("ab", k=numbers.randint(0, 12)))
        stops = ["".join(numbers.choices("ab", k=numbers.randint(1, 4))) for _ in range(2)]
        ends = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
        size = numbers.randint(1, 12)
        said, found = shown(text, stops, [text[at : at + size] for at in range(0, len(text), size)])
        assert found is bool(ends)
        if ends:
            assert len(said) == min(ends)[1], "the first that is complete, whatever the pieces"
        else:
            assert len(said) > len(text) - max(map(len, stops)) or not text


def test_nothing_is_held_back_without_a_text() -> None:
    assert StopTexts([]).feed("any") == "any"


def test_an_answer_that_was_stopped(assistant: Assistant, clip: Path) -> None:
    video = assistant.open_video(clip, frames=2)
    complete = video.ask("what?", max_new_tokens=40)
    stop = complete.text[8:11]
    place = complete.text.index(stop)
    response = video.stream("what?", max_new_tokens=40, stop=stop)
    pieces = list(response)
    answer = response.answer
    assert answer.text == complete.text[:place].strip()
    assert "".join(pieces).strip() == answer.text
    assert answer.finish == "end"
    assert answer.tokens.generated < complete.tokens.generated
    assert answer.settings["stop"] == [stop]
    assert "stop" not in complete.settings
    assert [word.text for word in video.evidence(answer).words] == answer.text.split()
    assert video.ask("what?", max_new_tokens=40).text == complete.text, "the session is as before"
    missing = video.ask("what?", max_new_tokens=40, stop=["\u2603", complete.text[-1] + "\u2603"])
    assert missing.text == complete.text, "what was held back comes at the end"


def test_a_dialogue_goes_on_after_an_answer_that_was_stopped(
    assistant: Assistant, clip: Path
) -> None:
    video = assistant.open_video(clip, frames=2)
    stop = video.ask("what?", max_new_tokens=20).text[5:8]
    chat = video.chat()
    chat.ask("what?", max_new_tokens=20, stop=(stop,))
    more = chat.ask("and then?", max_new_tokens=10)
    fresh = assistant.open_video(clip, frames=2).chat(chat.messages[:2])
    assert fresh.ask("and then?", max_new_tokens=10).text == more.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop": ""}, "`stop` takes texts that are not empty"),
        ({"stop": [3]}, "`stop` takes texts that are not empty"),
        ({"stop": ["a"] * 65}, "`stop` takes at most 64 texts"),
        ({"stop": "a" * 1001}, "of 1,000 characters"),
        ({"top_p": 0.9}, "`top_p` is for sampling: give a `temperature` above 0"),
        ({"top_p": 0.0, "temperature": 1.0}, "`top_p` must be a number above 0 and at most 1"),
        ({"top_p": float("nan"), "temperature": 1.0}, "`top_p` must be a number"),
        ({"system": " "}, "`system` is empty"),
        ({"system": "word " * 8000}, "`system` 'word .* more than the .* of the model's context"),
    ],
)
def test_what_is_refused(assistant: Assistant, clip: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assistant.ask(clip, "what?", frames=1, **options)


def test_the_likeliest_tokens_alone_are_the_greedy_ones(assistant: Assistant, clip: Path) -> None:
    video = assistant.open_video(clip, frames=2)
    greedy = video.ask("what?", max_new_tokens=12).text
    hot = {"temperature": 1.5, "seed": 3, "max_new_tokens": 12}
    assert video.ask("what?", top_p=1e-6, **hot).text == greedy
    free = video.ask("what?", top_p=1.0, **hot)
    assert free.text == video.ask("what?", **hot).text != greedy
    assert free.settings["top_p"] == 1.0


def test_a_system_turn_comes_before_the_video(clip: Path) -> None:
    assistant = Assistant(tiny_model(), tiny_processor())
    video = assistant.open_video(clip, frames=2, system="Be <video> brief.")
    plain = assistant.open_video(clip, frames=2)
    answer = video.ask("what?", max_new_tokens=12)
    assert answer.prompt.startswith(
        "<|im_start|>system\nBe <video> brief.<|im_end|>\n<|im_start|>user"
    )
    assert answer.tokens.visual == plain.ask("what?", max_new_tokens=1).tokens.visual
    assert answer.text != plain.ask("what?", max_new_tokens=12).text
    assert answer.settings["system"] == "Be <video> brief."
    assert sum(video.evidence(answer).scores) == pytest.approx(1)
    chat = video.chat()
    assert chat.ask("what?", max_new_tokens=12).text == answer.text
    assert chat.ask("and?", max_new_tokens=1).prompt.count("system\n") == 1
    assert [message["role"] for message in chat.messages[:2]] == ["user", "assistant"]
    zoomed = assistant.open_zoomed(clip, frames=8, system="Be brief.")
    assert zoomed.ask("what?", max_new_tokens=1).settings["system"] == "Be brief."
