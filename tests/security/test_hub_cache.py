"""The Hub's cache, when somebody else has written to it."""

import os
from pathlib import Path

import pytest

from crosslmm.checkpoints.cache import find_snapshot, list_revisions
from crosslmm.checkpoints.catalog import stored_models
from crosslmm.limits import MAX_REF_BYTES


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of org/model in a cache, with a snapshot and no revision."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("CROSSLMM_HOME", str(tmp_path / "home"))
    folder = tmp_path / "models--org--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "snapshots" / "abc").mkdir(parents=True)
    return folder


def test_a_revision_names_a_commit(repository: Path) -> None:
    (repository / "refs" / "main").write_text("abc\n")
    assert find_snapshot("org/model", "main") == repository / "snapshots" / "abc"
    assert list_revisions(repository) == {"main": "abc"}


def test_a_revision_is_a_small_text(repository: Path) -> None:
    ref = repository / "refs" / "main"
    for content in (b"\xff" * 40, b"abc" + b" " * MAX_REF_BYTES):
        ref.write_bytes(content)
        assert find_snapshot("org/model", "main") is None
        with pytest.raises(OSError, match="main"):
            list_revisions(repository)
        listed = {model.name: model.problem for model in stored_models()}
        assert "cannot be read" in (listed["org/model"] or "")
    with open(ref, "r+b") as file:
        file.truncate(1 << 40)  # read as a whole, it takes all memory
    assert find_snapshot("org/model", "main") is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_not_waited_for(repository: Path) -> None:
    os.mkfifo(repository / "refs" / "main")
    assert find_snapshot("org/model", "main") is None


def test_a_revision_leads_to_no_other_folder(repository: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for commit in (str(outside), "../../outside", "..", "."):
        (repository / "refs" / "main").write_text(commit)
        assert find_snapshot("org/model", "main") is None
    (tmp_path / "named").write_text("abc")
    assert find_snapshot("org/model", str(tmp_path / "named")) is None
