"""The pictures and tables of docs/ are drawn from what is there now."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
REMEDY = "run python docs/draw.py"


@pytest.fixture
def docs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import draw

    return draw


def test_nothing_is_stale(docs: Any) -> None:
    assert [picture.name for picture in docs.stale_pictures()] == [], REMEDY
    assert [table.record for table in docs.stale_tables()] == [], REMEDY


def test_every_picture_is_drawn_from_something(docs: Any) -> None:
    there = {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".png", ".svg")}
    assert {picture.name for picture in docs.PICTURES} == there


def test_what_is_stale_is_noticed(docs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {table.record: docs._rows(table.record) for table in docs.TABLES}
    changed = docs.TABLES[0].record
    found[changed][0]["first_token_s"] *= 2
    monkeypatch.setattr(docs, "_rows", found.__getitem__)
    assert [each.record for each in docs.stale_tables()] == [changed]
    drawn_from_it = {each.name: each for each in docs.PICTURES}["against_llava_onevision.png"]
    assert drawn_from_it.is_stale()


def test_a_picture_of_another_content_is_stale(docs: Any, tmp_path: Path) -> None:
    picture = next(each for each in docs.PICTURES if each.name == "cost.png")
    state = picture.state()
    assert replace(picture, source=lambda: "other").state()["from"] != state["from"]
    assert replace(picture, name="terminal.svg").state()["file"] != state["file"]


def test_the_picture_of_a_run_needs_no_network() -> None:
    picture = (ROOT / "docs" / "terminal.svg").read_text("utf-8")
    assert len(re.findall("http", picture)) == 1, "the one is SVG's own name"
