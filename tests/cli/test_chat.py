"""`crosslmm chat`: a dialogue in a terminal, and through a pipe."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.terminal import Terminal


def test_a_dialogue_in_a_terminal(clip: Path, endless: Path, tmp_path: Path) -> None:
    line = ("chat", clip, "--model", endless, "--frames", 2, "--max-new-tokens", 900)
    environment = {"CROSSLMM_HOME": str(tmp_path / "home"), "PROMPT_TOOLKIT_NO_CPR": "1"}
    with Terminal(*line, **environment) as terminal:
        terminal.wait_for("one per 1 s")
        terminal.type("/save nothing.txt\r")
        terminal.wait_for("ends in .md or .json")
        terminal.type("who?\r")
        terminal.wait_for("> who?")
        time.sleep(0.5)  # its answer of 900 tokens takes seconds
        terminal.press_ctrl_c()
        terminal.wait_for("stopped; the question is not part of the dialogue")
        terminal.type("/undo\r")
        terminal.wait_for("nothing to undo")
        terminal.type("half a question")
        terminal.press_ctrl_c()
        terminal.wait_for(f"{'Ctrl-D or /exit to leave':<80}\n>")  # reads keys by itself again
        terminal.type("\x04")
        assert terminal.wait() == 0
    assert "who?" in (tmp_path / "home/chat_history").read_text()


def test_a_dialogue_through_a_pipe(
    run: Callable[..., Any],
    clip: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = (
        "who?\n\nand\\\nthen?\n/frames\n/nonsense\n/open missing.mp4\n/save a b\n"
        f"/save talk.json\n/save talk.md\n/save talk.md\n/open '{clip}'\n/save new.json\n"
        "/undo\n/help\n/exit\nnever?\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    options = ("--model", checkpoint, "--frames", 2, "--max-new-tokens", 3, "--json")
    done = run("chat", clip, *options)
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert [answer["question"] for answer in answers] == ["who?", "and\nthen?"]
    assert answers[0]["question"] in answers[1]["prompt"]
    assert done.code == 1, "some lines failed"
    for said in (
        "/nonsense: no such command", "missing.mp4", "/save takes one file", "is there already",
        "saved to talk.json", "nothing to undo", "/exit", "seconds: ",
    ):  # fmt: skip
        assert said in done.err, said
    talk = json.loads(Path("talk.json").read_text())
    assert [each["content"] for each in talk["messages"][::2]] == ["who?", "and\nthen?"]
    assert "> and\n> then?" in Path("talk.md").read_text()
    assert json.loads(Path("new.json").read_text())["messages"] == []
