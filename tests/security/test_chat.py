"""`crosslmm chat`: what is piped in, where a dialogue is saved, and the file of what was typed."""

import io
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosslmm.errors import UsageError
from crosslmm.inference.assistant import load
from crosslmm.limits import MAX_TEXT_BYTES
from crosslmm_cli import line_editor
from crosslmm_cli.chat_history import ChatHistory

Talk = Callable[..., Any]


@pytest.fixture
def talk(
    run: Any, clip: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Talk:
    """`talk(stdin)`: a dialogue through a pipe, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(data: bytes, video: Path = clip) -> Any:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        options = ("--model", checkpoint, "--frames", 2, "--max-new-tokens", 2, "--json")
        return run("chat", video, *options)

    return call


def answered(finished: Any) -> list[str]:
    return [json.loads(line)["question"] for line in finished.out.splitlines()]


def test_garbage_is_refused(talk: Talk) -> None:
    finished = talk(b"\xff\xfe\0garbage\x1b[2J\nwho?\n")
    assert (finished.code, finished.out) == (2, "")
    assert finished.err.endswith("crosslmm: stdin is not utf-8 text\n")


def test_control_codes_are_text_and_not_shown(talk: Talk) -> None:
    finished = talk(b"garbage\0\x1b[2J\n/\x1b[31m\n")
    assert finished.code == 1
    assert answered(finished) == ["garbage\0\x1b[2J"]
    assert "\x1b" not in finished.out + finished.err
    assert "no such command" in finished.err


@pytest.mark.parametrize(
    "long",
    [b"a" * (2 * MAX_TEXT_BYTES + 9), b"b\\\n" * (MAX_TEXT_BYTES // 2 + 1)],
    ids=["one line", "lines that go on"],
)
def test_a_line_that_is_too_long_is_refused_and_not_cut_into_questions(
    talk: Talk, long: bytes
) -> None:
    finished = talk(b"who?\n" + long + b"\nwhat?\n")
    assert finished.code == 2
    assert answered(finished) == ["who?"]
    assert "a line of stdin holds over 1 MiB" in finished.err


UNSAVED = {
    "~nobody-of-this-name/a.md": "cannot be written (No such file or directory)",
    "missing/a.json": "cannot be written (No such file or directory)",
    "a\0b.md": "cannot be written (embedded null byte)",
    "dangling.md": "is there already",
    "link.md": "is there already",
    "pipe.md": "is there already",
    "folder.md": "is there already",
    "a.mp4": "give a file that ends in .md or .json",
}


def test_a_place_where_nothing_can_be_saved_leaves_the_dialogue(talk: Talk, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "link.md").symlink_to(victim)
    (tmp_path / "dangling.md").symlink_to(tmp_path / "new")
    (tmp_path / "folder.md").mkdir()
    os.mkfifo(tmp_path / "pipe.md")
    before = sorted(tmp_path.iterdir())
    finished = talk("".join(f"/save {name}\n" for name in UNSAVED).encode() + b"who?\n")
    said = [line for line in finished.err.splitlines() if line.startswith("crosslmm: ")]
    for line, reason in zip(said, UNSAVED.values(), strict=True):
        assert reason in line
    assert ".new" not in finished.err  # the name of a scratch file helps nobody
    assert answered(finished) == ["who?"]
    assert (sorted(tmp_path.iterdir()), victim.read_text()) == (before, "mine")


def test_the_name_of_a_video_may_be_any_bytes(talk: Talk, clip: Path, tmp_path: Path) -> None:
    video = tmp_path / os.fsdecode(b"\xff.mp4")
    video.write_bytes(clip.read_bytes())
    assert talk(b"/save talk.json\n/save talk.md\n", video).code == 0
    assert json.loads((tmp_path / "talk.json").read_bytes())["video"].endswith("/\udcff.mp4")
    assert (tmp_path / "talk.md").read_text("utf-8").splitlines()[0].endswith("/\\udcff.mp4")


def test_a_question_that_is_no_unicode_is_refused_in_words(checkpoint: Path, clip: Path) -> None:
    assistant = load(checkpoint, device="cpu")
    chat = assistant.open_video(clip, frames=2).chat()
    with pytest.raises(UsageError, match=r"'who\\udcff' is not valid Unicode text"):
        chat.ask("who\udcff", max_new_tokens=2)
    with pytest.raises(UsageError, match="not valid Unicode"):
        load(checkpoint, device="cpu", questions=["\ud83d"])


class TestHistory:
    def test_it_is_the_users_alone_and_holds_any_text(self, tmp_path: Path) -> None:
        path = tmp_path / "home" / "chat_history"
        entries = ["who?", "two\nlines\n", "+#\r\x1b", ""]
        for entry in entries:
            ChatHistory.open(path).store_string(entry)
        assert list(ChatHistory(path).load_history_strings()) == entries[::-1]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        ChatHistory(path).store_string("\udcff")
        assert next(iter(ChatHistory(path).load_history_strings())) == "?"

    def test_only_its_end_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "chat_history"
        path.write_bytes(b"\n# \n+first\n# \n+" + b"x" * MAX_TEXT_BYTES + b"\n# \n+\xfflast\n")
        assert list(ChatHistory(path).load_history_strings()) == ["\ufffdlast"]

    @pytest.mark.parametrize("kind", ["link", "second name", "pipe", "folder"])
    def test_it_is_a_file_of_its_own_or_there_is_none(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        kind: str,
    ) -> None:
        victim, path = tmp_path / "victim", tmp_path / "chat_history"
        victim.write_text("mine")
        {
            "link": lambda: path.symlink_to(victim),
            "second name": lambda: path.hardlink_to(victim),
            "pipe": lambda: os.mkfifo(path),
            "folder": path.mkdir,
        }[kind]()

        class Terminal(io.StringIO):
            encoding = "utf-8"

            def isatty(self) -> bool:
                return True

            def fileno(self) -> int:
                return 2

        def leave(self: Any, *arguments: Any, **options: Any) -> str:
            self.history.store_string("who?")
            raise EOFError

        monkeypatch.setattr("sys.stdin", Terminal())
        monkeypatch.setattr("sys.stderr", said := Terminal())
        monkeypatch.setattr("prompt_toolkit.PromptSession.prompt", leave)
        assert list(line_editor.read_lines({}, history=path)) == []
        assert "this dialogue has no history" in said.getvalue()
        assert victim.read_text() == "mine"
