"""`--continue`: the last video and dialogue, opened as it was."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosslmm.errors import UsageError
from crosslmm_cli.last_dialogue import LastDialogue


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CROSSLMM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def ask(run: Callable[..., Any], clip: Path, checkpoint: Path, home: Path) -> Callable[..., Any]:
    def ask(*arguments: str, code: int = 0) -> Any:
        done = run("ask", *arguments, "--max-new-tokens", "3", "--json")
        assert done.code == code, done.err
        return json.loads(done.out.splitlines()[-1]) if done.out else done.err

    options = ("--model", checkpoint, "--frames", "3", "--tokens-per-frame", "1")
    ask(str(clip), "who?", "what?", *map(str, options))
    return ask


def test_the_next_question_sees_the_last_ones(ask: Callable[..., Any], home: Path) -> None:
    first = ask("-c", "and then?")
    assert len(first["frames"]) == 3
    assert "what?" in first["prompt"]
    assert "who?" not in first["prompt"], "questions of one command are not about each other"
    second = ask("--continue", "at last?")
    assert "what?" in second["prompt"]
    assert "and then?" in second["prompt"]
    assert len(LastDialogue.read().messages) == 6
    assert (home / "last_dialogue.json").stat().st_mode & 0o077 == 0


def test_it_says_what_it_goes_on_with(
    ask: Callable[..., Any], run: Callable[..., Any], clip: Path, checkpoint: Path
) -> None:
    said = run("ask", "-c", "and?", "--fps", "2", "--max-new-tokens", "1").err
    assert said.startswith(
        f"going on after 1 question with {clip} --model={checkpoint} --tokens-per-frame=1\n"
    ), said


def test_what_is_given_again_takes_the_place_of_what_was(ask: Callable[..., Any]) -> None:
    assert len(ask("-c", "more?", "--fps", "2")["frames"]) != 3
    assert "fps" in LastDialogue.read().options
    assert "frames" not in LastDialogue.read().options
    assert LastDialogue.read().options["tokens_per_frame"] == "1"


def test_named_frames_are_named_again(ask: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "at.txt").write_text("#1\n0.5\n")
    at = ask("-c", "who?", "--frames-at", str(tmp_path / "at.txt"))["frames"]
    (tmp_path / "at.txt").unlink()
    assert ask("-c", "and?")["frames"] == at
    assert len(ask("-c", "and?", "--frames", "1")["frames"]) == 1
    assert LastDialogue.read().at is None


def test_chat_goes_on_and_is_gone_on_with(
    ask: Callable[..., Any], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("really?\n"))
    done = run("chat", "-c", "--json", "--max-new-tokens", "3")
    assert "what?" in json.loads(done.out)["prompt"]
    assert "really?" in ask("-c", "sure?")["prompt"]


def test_chat_opens_a_video_as_ask_did(
    ask: Callable[..., Any],
    run: Callable[..., Any],
    clip: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Although it knows no --fit: the number of frames is what counts, also where memory has changed."""
    options = ("--model", str(checkpoint), "--fit", "8GB", "--sampler", "diverse")
    with monkeypatch.context() as patch:
        patch.setattr("crosslmm.inference.assistant.Assistant.most_frames", lambda *_: 5)
        opened = ask(str(clip), "who?", *options)
    monkeypatch.setattr("sys.stdin", io.StringIO("really?\n"))
    answer = json.loads(run("chat", "-c", "--json", "--max-new-tokens", "3").out)
    assert len(opened["frames"]) == 5
    assert answer["frames"] == opened["frames"]
    assert answer["settings"]["sampler"] == "diverse"


def test_a_relative_video_and_model_are_found_from_elsewhere(
    run: Callable[..., Any],
    clip: Path,
    checkpoint: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(clip.parent)
    model = os.path.relpath(checkpoint, clip.parent)
    options = ("--frames", "1", "--max-new-tokens", "2")
    assert run("ask", clip.name, "who?", "--model", model, *options).code == 0
    monkeypatch.chdir(tmp_path)
    assert run("ask", "-c", "who?", "--max-new-tokens", "2").code == 0


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"video": 1}', '{"video": "/a", "options": {}, "messages": [{}, {}]}',
     '{"video": "/a", "options": [], "messages": []}', '{"video": "-m", "options": {}, "messages": []}',
     '{"video": "/a", "options": {}, "messages": [], "at": [{}]}',
     '{"video": "/a", "options": {}, "messages": [{"role": "user", "content": "\\ud800"}, '
     '{"role": "assistant", "content": ""}]}',
     '{"video": "/a", "options": {"debug": "x"}, "messages": []}',
     '{"video": "/a", "options": {}, "messages": [{"role": "user", "content": "x"}]}'],
)  # fmt: skip
def test_a_damaged_record_is_refused(run: Callable[..., Any], home: Path, text: str) -> None:
    home.mkdir()
    (home / "last_dialogue.json").write_text(text)
    done = run("ask", "-c", "who?")
    assert done.code == 2
    assert "not a dialogue" in done.err
    assert "delete it" in done.err


def test_nothing_to_continue(run: Callable[..., Any], home: Path) -> None:
    done = run("ask", "-c", "who?")
    assert done.code == 2
    assert "there is no dialogue yet" in done.err


def test_a_video_beside_the_last_one_is_refused(
    ask: Callable[..., Any], run: Callable[..., Any], clip: Path
) -> None:
    for command in (
        ["ask", "-c", clip, "what?"],
        ["chat", "-c", clip],
        ["chat", "-c", "other.mp4"],
    ):
        done = run(*command)
        assert done.code == 2
        assert f"leave out either --continue or {command[2]}" in done.err
        assert str(clip) in done.err


def test_help_needs_no_dialogue(run: Callable[..., Any], home: Path) -> None:
    done = run("ask", "-c", "--help")
    assert done.code == 0
    assert "--continue" in done.out


def test_a_link_is_neither_read_nor_written(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (tmp_path / "victim").write_text("{}")
    (home / "last_dialogue.json").symlink_to(tmp_path / "victim")
    LastDialogue("/video", {}, []).write()
    assert (tmp_path / "victim").read_text() == "{}"
    with pytest.raises(UsageError, match="delete it"):
        LastDialogue.read()


def test_a_long_dialogue_loses_its_oldest_turns(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosslmm_cli.last_dialogue.MAX_TEXT_BYTES", 300)
    turn: Any = [{"role": "user", "content": "a" * 50}, {"role": "assistant", "content": "b"}]
    LastDialogue("/video", {}, turn * 3).write()
    assert LastDialogue.read().messages == turn
