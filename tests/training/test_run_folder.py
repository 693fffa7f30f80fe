"""A folder that a run goes on in, which somebody else may have made."""

import os
from pathlib import Path

import pytest

from crosslmm.errors import CrossLMMError, UsageError
from crosslmm.training.run_folder import hold_run, holds_run


def test_a_folder_holds_a_run_or_nothing(tmp_path: Path) -> None:
    assert not holds_run(tmp_path / "run", "run.json")
    (tmp_path / "run").mkdir()
    assert not holds_run(tmp_path / "run", "run.json")
    (tmp_path / "run" / "photo.jpg").touch()
    with pytest.raises(UsageError, match="holds no run"):
        holds_run(tmp_path / "run", "run.json")
    with pytest.raises(UsageError, match="is a file; `out` is the folder of a run"):
        holds_run(tmp_path / "run" / "photo.jpg", "run.json")
    (tmp_path / "run" / "run.json").touch()
    assert holds_run(tmp_path / "run", "run.json")


def test_a_folder_is_for_one_run_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with hold_run(out, first=True):
        assert not holds_run(out, "run.json")  # a kill before anything was written leaves no more
        with (
            pytest.raises(CrossLMMError, match="another run is writing to it"),
            hold_run(out, first=True),
        ):
            pass
        with hold_run(out, first=False):  # another process of the same
            pass
    with hold_run(out, first=True):
        pass
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    "name", [".partial", "model", "adapter", "answers-0.jsonl", "checkpoint-4/model.safetensors"]
)
def test_what_would_be_written_or_waited_for_elsewhere_is_refused(
    tmp_path: Path, name: str
) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.mkdir()
    planted = run / name
    planted.parent.mkdir(parents=True)
    (run / "run.json").touch()
    planted.symlink_to(victim)
    with pytest.raises(UsageError, match=f"{name}: a link, and links are not followed"):
        holds_run(run, "run.json")
    planted.unlink()
    os.mkfifo(planted)
    with pytest.raises(UsageError, match=f"{name}: not a regular file"):
        holds_run(run, "run.json")
