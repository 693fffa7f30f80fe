"""A run that is interrupted before its first row leaves no file behind, and one with rows keeps them."""

from pathlib import Path
from typing import Any

import pytest

from crosslmm.captioning.engines.local import LocalEngine
from crosslmm.inference.assistant import Assistant
from tests.support.captioning import caption


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("format", "out"), [("jsonl", "out.jsonl"), ("srt", "films")])
def test_no_empty_file_is_left(
    clips: Path,
    assistant: Assistant,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    out: str,
) -> None:
    def interrupted(self: LocalEngine) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalEngine, "load", interrupted)
    options: dict[str, Any] = {"format": format, "out": tmp_path / out}
    with pytest.raises(KeyboardInterrupt):
        next(caption([clips / "a.mp4"], assistant, **options))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_resumes_stays(clips: Path, assistant: Assistant, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with caption([clips], assistant, out=out, batch_size=1) as run:
        next(run)
    assert left(tmp_path) == ["out.jsonl"]
    assert out.read_bytes().count(b"\n") >= 1
    resumed = caption([clips], assistant, out=out)
    assert len(list(resumed)) + resumed.summary.kept == resumed.summary.total


def test_an_empty_file_of_somebody_else_stays(
    clips: Path, assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.jsonl").touch()
    run = caption([clips / "a.mp4"], assistant, out=tmp_path / "out.jsonl")
    monkeypatch.setattr(LocalEngine, "load", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert left(tmp_path) == ["out.jsonl"]
