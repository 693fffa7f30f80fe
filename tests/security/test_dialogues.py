"""The last dialogue and what was typed, where somebody else's file lies under their names."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from crosslmm.errors import UsageError
from crosslmm_cli.chat_history import ChatHistory
from crosslmm_cli.last_dialogue import LastDialogue
from tests.conftest import Finished
from tests.support.planted import PLANTED, Plant


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("mine")
    return path


@pytest.mark.parametrize("plant", PLANTED)
def test_a_dialogue_that_is_not_ours_is_neither_believed_nor_written_to(
    home: Path, victim: Path, plant: Plant
) -> None:
    home.mkdir()
    plant(home / "last_dialogue.json", victim)
    with pytest.raises(UsageError, match=r"there is no dialogue yet|delete it"):
        LastDialogue.read()
    LastDialogue("/video", {}, []).write()
    assert victim.read_text() == "mine"
    assert not victim.with_name("created").exists()
    if plant.__name__ in ("second_name", "pipe", "strangers", "device"):  # replaced as a whole
        assert LastDialogue.read().video == "/video"
        assert os.stat(home / "last_dialogue.json").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("plant", PLANTED)
def test_a_history_that_is_not_ours_is_neither_read_nor_written_to(
    home: Path, victim: Path, plant: Plant
) -> None:
    home.mkdir()
    path = home / "chat_history"
    plant(path, victim)
    mode = victim.stat().st_mode
    with pytest.raises(OSError, match="chat_history"):
        ChatHistory.open(path)
    history = ChatHistory(path)  # as if it were put there during a dialogue
    assert history.load_history_strings() == []
    history.store_string("a secret")
    assert victim.read_text() == "mine"
    assert victim.stat().st_mode == mode
    assert not victim.with_name("created").exists()
    if plant.__name__ == "strangers":
        assert path.read_bytes() == b"planted"


def test_a_dialogue_that_cannot_be_kept_fails_no_answer(
    home: Path, clip: Path, checkpoint: Path, run: Callable[..., Finished], victim: Path
) -> None:
    home.mkdir()
    (home / "last_dialogue.json").symlink_to(victim)
    done = run("ask", clip, "what?", "--model", checkpoint, "--frames", 2, "--max-new-tokens", 2)
    assert done.code == 0
    assert victim.read_text() == "mine"
