"""Answers as they are streamed: wrapped between words on a terminal, and told where they are cut."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyte
import pytest

from crosslmm_cli.answering import write_answer
from crosslmm_cli.dialogue import Dialogue
from crosslmm_cli.output import Output
from crosslmm_cli.word_wrap import WordWrap


def shown(text: str, width: int, piece: int) -> list[str]:
    """The lines of a terminal, after pieces of so many characters."""
    wrap = WordWrap(lambda: width)
    pieces = [text[at : at + piece] for at in range(0, len(text), piece)]
    written = "".join(map(wrap.feed, pieces)) + wrap.finish()
    screen = pyte.Screen(width, 12)
    pyte.Stream(screen).feed(written.replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display[: screen.cursor.y + 1]]


@pytest.mark.parametrize("piece", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a red square moves", ["a red", "square", "moves"]),
        ("a red  cat,", ["a red", "cat,"]),
        ("12345678 next", ["12345678", "next"]),
        ("12345678\nnext", ["12345678", "next"]),
        ("  indent\n\tx", ["  indent", "", "x"]),
        ("an abcdefghijklm end", ["an abcde", "fghijklm", "end"]),
        ("红色的方块向右", ["红色的方", "块向右"]),
        ("ab 红色的方块", ["ab 红色", "的方块"]),
    ],
)
def test_words_are_not_broken(text: str, lines: list[str], piece: int) -> None:
    assert shown(text, 8, piece) == lines


def test_a_word_is_shown_once_it_ends() -> None:
    wrap = WordWrap(lambda: 80)
    assert [wrap.feed(piece) for piece in ("a re", "d", " squ", "are")] == ["a", "", " red", ""]
    assert wrap.finish() == " square"


def test_a_word_without_width_is_not_held_for_ever() -> None:
    """Each of its characters would be measured with all before it."""
    wrap = WordWrap(lambda: 80)
    text = "a" + "\u0301" * 5000
    assert len(wrap.feed(text)) == len(text)


class Said:
    """A response of these pieces, cut or not."""

    def __init__(self, *pieces: str, finish: str = "end") -> None:
        self._pieces = iter(pieces)
        record = {"finish": finish}
        self.answer = SimpleNamespace(
            finish=finish, settings={"max_new_tokens": 1000}, as_dict=lambda: record
        )

    def __iter__(self) -> Any:
        return self._pieces


def test_a_pipe_gets_the_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = "word " * 40 + "\t \n end "
    write_answer(Output(), Said(*text))
    assert capsys.readouterr() == (text + "\n", "")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_cut_answer_is_told(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    write_answer(Output(as_json=as_json), Said("a", finish="length"))
    out, err = capsys.readouterr()
    assert err == "the answer was cut after 1,000 tokens; --max-new-tokens allows more\n"
    assert out == (json.dumps({"finish": "length"}) + "\n" if as_json else "a\n")


def test_ask_tells_of_a_cut(run: Callable[..., Any], clip: Path, endless: Path) -> None:
    line = ("ask", clip, "q", "--model", endless, "--frames", 2, "--max-new-tokens", 1)
    done = run(*line)
    assert "the answer was cut after 1 token; --max-new-tokens allows more\n" in done.err
    assert "cut" not in run(*line, "--quiet").err


def test_ctrl_c_while_another_video_is_opened(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosslmm_cli import interrupt

    asked = []

    def open_videos(paths: Sequence[str]) -> Any:
        if paths == ["new.mp4"]:
            interrupt._handle(2, None)
        chat = SimpleNamespace(
            stream=lambda question: asked.append((paths[0], question)) or Said("a"), messages=[]
        )
        return SimpleNamespace(chat=lambda messages: chat)

    dialogue = Dialogue(Output(), open_videos, ["old.mp4"], {}, typed=True)  # type: ignore[typeddict-item]
    assert dialogue.run(iter(["/open new.mp4", "who?"])) == 0
    assert asked == [("old.mp4", "who?")]
    assert "stopped; still about old.mp4\n" in capsys.readouterr().err
    assert not interrupt.requested()
