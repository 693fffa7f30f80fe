"""A folder of videos that somebody else made, and a file of the user's outside of it."""

from pathlib import Path

import pytest

from tests.support.parrot import make


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "victim.txt"
    path.parent.mkdir()
    path.write_text("mine", "utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make(tmp_path / "given", "a.mp4", "sub/b.mp4")
    monkeypatch.chdir(tmp_path / "given")
    return tmp_path / "given"
