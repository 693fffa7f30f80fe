"""`crosslmm chat`: a dialogue in a terminal, and through a pipe."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosslmm_cli.dialogue import HELP
from crosslmm_cli.line_editor import completer
from tests.support.terminal import Terminal


def test_a_dialogue_in_a_terminal(clip: Path, endless: Path, tmp_path: Path) -> None:
    line = ("chat", clip, "--model", endless, "--frames", 2, "--max-new-tokens", 900)
    environment = {"CROSSLMM_HOME": str(tmp_path / "home"), "PROMPT_TOOLKIT_NO_CPR": "1"}
    with Terminal(*line, **environment) as terminal:
        terminal.wait_for("/help lists commands; Ctrl-D leaves")
        terminal.type("/save nothing.txt\r")
        terminal.wait_for("ends in .md or .json")
        terminal.type("who?\r")
        terminal.wait_for("> who?")
        time.sleep(0.5)  # its answer of 900 tokens takes seconds
        terminal.press_ctrl_c()
        terminal.wait_for("stopped; the question is not part of the dialogue")
        terminal.type("/undo\r")
        terminal.wait_for(f"{'nothing to undo':<80}\n>")  # reads keys by itself
        terminal.type("half a question")
        terminal.press_ctrl_c()
        terminal.wait_for(f"{'Ctrl-D or /exit to leave':<80}\n>")
        terminal.type("\x04")
        assert terminal.wait() == 0
    history = tmp_path / "home/chat_history"
    assert "who?" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0, "others can read what was asked"


def test_a_dialogue_through_a_pipe(
    run: Callable[..., Any],
    clip: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = (
        "/evidence e.json\nwho?\n\nand\\\nthen?\n/frames\n/nonsense\n/open missing.mp4\n/save\n"
        "/evidnece e.json\n/evidence\n/evidence e.txt\n/evidence e.json\n/evidence e.json\n"
        f"/save talk.json\n/save talk.md\n/save talk.md\n/open '{clip}'\n/save new talk.json\n"
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
        "/nonsense: no such command; /help", "did you mean /evidence? /help lists",
        "missing.mp4", "/save takes a file", "is there already",
        "saved to talk.json", "nothing to undo", "/exit", "seconds: ",
        "there is no answer yet", "/evidence takes a file", "ending in .html, .png or .json",
        "wrote e.json in ", "e.json: is there already",
    ):  # fmt: skip
        assert said in done.err, said
    assert json.loads(Path("e.json").read_text())["answer"] == answers[1]["answer"]
    talk = json.loads(Path("talk.json").read_text())
    assert [each["content"] for each in talk["messages"][::2]] == ["who?", "and\nthen?"]
    assert "> and\n> then?" in Path("talk.md").read_text()
    assert json.loads(Path("new talk.json").read_text())["messages"] == []


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # of UTF-8 and of the C locale
def test_a_pipe_that_is_not_text_is_refused(
    run: Callable[..., Any],
    clip: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    errors: str,
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9?\n"), encoding="utf-8", errors=errors)
    monkeypatch.setattr("sys.stdin", stdin)
    done = run("chat", clip, "--model", checkpoint, "--frames", 2, "--quiet")
    assert (done.code, done.out, done.err) == (2, "", "crosslmm: stdin is not utf-8 text\n")


def test_commands_and_their_files_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a film.mp4").touch()

    def completed(text: str) -> list[str]:
        found = completer(HELP).get_completions(Document(text), CompleteEvent())
        return [text[: len(text) + each.start_position] + each.text for each in found]

    assert completed("/ex") == ["/exit"]
    assert len(completed("/")) == len(HELP)
    assert completed("/open a") == ["/open a film.mp4"]
    assert completed("/undo a") == completed("what a") == completed("") == []


def test_stdin_that_is_closed_is_empty() -> None:
    code = (
        "import sys; from crosslmm_cli.__main__ import main; main(); print(sys.stdin.read() == '')"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, "--version"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.close(0),
    )
    assert finished.stdout.endswith("True\n"), finished.stderr
