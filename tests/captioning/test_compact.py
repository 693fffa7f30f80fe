"""Lines without what all videos have in common, which is written once."""

import json
from pathlib import Path
from typing import Any

import pytest

from crosslmm.errors import CrossLMMError, UsageError
from tests.support.parrot import begin, make, parrot, run  # noqa: F401

pytestmark = pytest.mark.usefixtures("parrot")

SHARED = {"model", "prompt", "settings", "versions"}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_what_lines_have_in_common_is_written_once(tmp_path: Path) -> None:
    make(tmp_path / "clips", "a.mp4", "b.mp4")
    full, out = tmp_path / "full.jsonl", tmp_path / "clips" / "small.jsonl"
    settings = out.with_name("small.settings.json")
    run(tmp_path / "clips", format="jsonl", out=full)
    compact: dict[str, Any] = {"format": "jsonl", "out": out, "compact": True}
    assert run(tmp_path / "clips", **compact) == (["a.mp4", "b.mp4"], [])
    shared = json.loads(settings.read_text("utf-8"))
    assert [shared[row["settings_hash"]] | row for row in rows(out)] == rows(full)
    assert all(not SHARED & row.keys() for row in rows(out))

    # It resumes, with and without, and copies of what it knows need no model.
    assert run(tmp_path / "clips", **compact) == ([], [])
    make(tmp_path / "clips", "c.mp4")
    (tmp_path / "clips" / "copy.mp4").write_text("a.mp4", "utf-8")
    assert run(tmp_path / "clips", **compact | {"compact": False}) == (["c.mp4"], [])
    assert run(tmp_path / "clips", "B", **compact)[1] == []
    assert len(json.loads(settings.read_text("utf-8"))) == 2


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "clips", "a.mp4")
    settings = tmp_path / "out.settings.json"
    for text in ("no json", '{"theirs": 1}', "[]"):
        settings.write_text(text)
        with pytest.raises(CrossLMMError, match=r"out.settings.json: .* move it away"):
            run(tmp_path / "clips", format="jsonl", out=tmp_path / "out.jsonl", compact=True)
        assert settings.read_text() == text


def test_only_lines_in_a_file_can_be_compact(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4")
    for options in ({"format": "srt"}, {"format": None}):
        with pytest.raises(UsageError, match="`compact` is for JSON lines"):
            begin(tmp_path, compact=True, **options)
