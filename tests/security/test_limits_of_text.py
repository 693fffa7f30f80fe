"""Questions, prompts, lists, settings and records that are longer than they may be."""

import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.errors import UsageError
from tests.support.tiny import text_config, tiny_checkpoint


def test_a_question_longer_than_the_context_is_named_before_the_video_is_read(
    checkpoint: Path, run: Any
) -> None:
    long = "why? " * 200_000
    began = time.monotonic()
    assistant = crosslmm.load(checkpoint)
    for ask in (
        lambda: assistant.ask("none.mp4", long),
        lambda: assistant.answer_batch([], [long]),
    ):
        with pytest.raises(UsageError, match=r"the question 'why\? .* context; shorten it"):
            ask()
    assert time.monotonic() - began < 20
    assistant.check_questions(["why?"])


def test_what_cannot_be_asked_is_refused_before_weights_are_loaded(
    checkpoint: Path, clip: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosslmm.inference.assistant.load_model", None)
    done = run("ask", clip, "why? " * 200_000, "--model", checkpoint)
    assert (done.code, done.out) == (2, "")
    assert "the question 'why? why?" in done.err
    with pytest.raises(UsageError, match="the question is empty"):
        crosslmm.load(checkpoint, questions=["why?", " "])
    monkeypatch.setattr("crosslmm_cli.ask.check_video", None)
    for flag, value, words in (
        ("--temperature", "inf", "--temperature must be at least 0, not inf"),
        ("--temperature", "1e-320", "--temperature must be 0 or at least 0.0001, not 1e-320"),
        ("--seed", 2**64, "--seed must be a whole number of 64 bits"),
        (
            "--max-new-tokens",
            2**63,
            "--max-new-tokens must be a whole number, not 9223372036854775808",
        ),
    ):
        done = run("ask", clip, "why?", "--model", checkpoint, flag, value)
        assert (done.code, done.out) == (2, "")
        assert words in done.err


def test_what_cannot_be_asked_is_refused_before_the_video_is_read(checkpoint: Path) -> None:
    assistant = crosslmm.load(checkpoint)
    for how, words in (
        ({"max_new_tokens": 0}, "`max_new_tokens` must be"),
        ({"max_new_tokens": 1.5}, "`max_new_tokens` must be"),
        ({"temperature": -1}, "`temperature` must be"),
        ({"temperature": float("nan")}, "`temperature` must be"),
        ({"seed": 2**64}, "`seed` must be"),
    ):
        for ask in (assistant.ask, assistant.stream):
            with pytest.raises(UsageError, match=words):
                ask("none.mp4", "why?", **how)
    for ask in (assistant.ask, assistant.stream):
        with pytest.raises(UsageError, match="the question is empty"):
            ask("none.mp4", " ")
    with pytest.raises(UsageError, match="the question is empty"):
        assistant.open_video("none.mp4", questions=["why?", ""])


def test_a_long_question_on_the_command_line(checkpoint: Path, clip: Path, run: Any) -> None:
    done = run("ask", clip, "why? " * 200_000, "--model", checkpoint)
    assert done.code == 2
    assert done.out == ""
    assert "the question 'why? why?" in done.err
    assert "frames" not in done.err


def test_frames_and_question_fit_into_the_context_together(
    tmp_path: Path, clip: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame has 4 tokens, and a letter is one; nothing is encoded for what does not fit."""
    folder = tiny_checkpoint(tmp_path / "model", text=text_config(max_position_embeddings=100))
    assistant = crosslmm.load(folder)
    assert assistant.ask(clip, "why?", frames=4, max_new_tokens=1).tokens.prompt <= 100
    session = assistant.open_video(clip, frames=10)
    with monkeypatch.context() as patch:
        patch.setattr("crosslmm.inference.encoding.FrameEncoder.add", None)
        for ask in (assistant.ask, lambda *a, **k: assistant.stream(*a, **k).answer):
            with pytest.raises(
                UsageError, match=r"^30 frames of 4 tokens and .* most 24 `frames`, or"
            ):
                ask(clip, "why?", frames=30)
            with pytest.raises(
                UsageError, match=r"90 tokens of text .* 100 .* shorten the question"
            ):
                ask(clip, "a" * 90, frames=10)
    with pytest.raises(UsageError, match="shorten the question"):
        session.ask("a" * 60)
    with pytest.raises(UsageError, match="shorten the question"):
        session.ask_all(["why?", "a" * 60])
    frames = crosslmm.sample(clip, frames=20, size=(30, 30))
    with pytest.raises(UsageError, match=r"20 frames of 4 tokens"):
        assistant.answer_batch([frames], ["why?" * 5])
    done = run("ask", clip, "why?", "--model", folder, "--frames", 30)
    assert (done.code, done.out) == (2, "")
    assert "use at most 24 --frames, or fewer --tokens-per-frame" in done.err


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosslmm_cli.inputs.MAX_TEXT_BYTES", 1 << 20)
    monkeypatch.setattr("crosslmm_cli.inputs.MAX_LIST_BYTES", 1 << 20)


@pytest.mark.usefixtures("small")
def test_what_commands_read_is_limited_and_regular(
    tmp_path: Path, clip: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    os.mkfifo(tmp_path / "pipe")
    for flag in ("--from", "--prompt-file"):
        paths = () if flag == "--from" else (clip,)
        for name, words in (
            ("large", "longer than 1,048,576 bytes"),
            ("pipe", "not a regular file"),
            ("/dev/zero", "not a regular file"),
        ):
            done = run("caption", *paths, flag, tmp_path / name)
            assert (done.code, words in done.err) == (2, True), done.err
    for command in (("ask", clip, "-"), ("caption", "-"), ("caption", "--from", "-")):
        stdin = io.TextIOWrapper(io.BytesIO(b"a" * ((1 << 20) + 1)))
        monkeypatch.setattr(sys, "stdin", stdin)
        done = run(*command)
        assert (done.code, done.err) == (
            2,
            "crosslmm: -: stdin holds over 1 MiB, the most that is read of it\n",
        )


def test_settings_are_a_regular_file_of_some_size(home: Path, run: Any) -> None:
    home.mkdir()
    os.mkfifo(home / "settings.json")
    assert "not a regular file" in run("models", "list").err
    (home / "settings.json").unlink()
    (home / "settings.json").write_bytes(b"[" * ((1 << 20) + 1))
    assert "longer than 1,048,576 bytes" in run("models", "list").err
    (home / "settings.json").write_bytes(b"[" * (1 << 19))
    assert "fix or delete it" in run("models", "list").err
    (home / "settings.json").unlink()


def test_recipes_are_regular_files_of_some_size(tmp_path: Path) -> None:
    from crosslmm.training.recipe import load_recipe

    (tmp_path / "a.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(UsageError, match="longer than 1,048,576 bytes"):
        load_recipe(tmp_path / "a.yaml")


def test_a_record_of_training_data_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosslmm.training.records import Records

    monkeypatch.setattr("crosslmm.training.records.LONGEST_LINE", 1000)
    monkeypatch.setattr("crosslmm.files.read_lines.__kwdefaults__", {"longest": 1000})
    talk = [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so"}]
    line = json.dumps({"conversations": talk})
    path = tmp_path / "a.jsonl"
    path.write_text(f"{line}\n\n{line}{' ' * 1000}\n", "utf-8")
    with pytest.raises(UsageError, match=r"a\.jsonl, record 2: longer than 1,000 bytes"):
        Records(path)
    path.write_text(f"{line}\n\n{line}\n", "utf-8")
    assert len(Records(path)) == 2
