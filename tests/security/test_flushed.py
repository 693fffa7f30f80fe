"""What others rely on is on the disk before it has its name: after the machine lost power, a file under
its name is complete."""

import os
from pathlib import Path
from typing import Any

import pytest

from crosslmm.captioning.manifest import Manifest
from crosslmm.files import HeldFolder, atomic_file, atomic_folder
from tests.support.flushed import Events, record_flushes

pytestmark = pytest.mark.skipif(os.name == "nt", reason="folders are not flushed on Windows")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Events:
    return record_flushes(monkeypatch)


def number(path: Path) -> int:
    return path.stat().st_ino


@pytest.mark.parametrize("held", [True, False])
def test_a_file_before_its_name_and_its_folder_after_it(
    tmp_path: Path, seen: Events, held: bool
) -> None:
    path = tmp_path / "captions.parquet"
    if held:
        with HeldFolder(tmp_path) as root, atomic_file(path, root=root) as file:
            file.write(b"data")
    else:
        with atomic_file(path) as file:
            file.write(b"data")
    assert seen == [
        ("flush", number(path)),
        ("name", path.name),
        ("flush", number(tmp_path)),
    ]


def test_a_file_that_is_checked_when_it_is_read_waits_for_no_disk(
    tmp_path: Path, seen: Events
) -> None:
    with atomic_file(tmp_path / "entry", sync=False) as file:
        file.write(b"data")
    assert seen == [("name", "entry")]


def test_a_folder_and_all_in_it_before_its_name(tmp_path: Path, seen: Events) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as scratch:
        (scratch / "inner").mkdir()
        for name in ("config.json", "inner/model.safetensors"):
            (scratch / name).write_text("data")
    named = seen.index(("name", "model"))
    before = {what for kind, what in seen[:named] if kind == "flush"}
    inside = [path, *path.rglob("*")]
    assert len(inside) == 4
    assert before == {number(each) for each in inside}
    assert seen[named + 1 :] == [("flush", number(tmp_path))]


def test_a_folder_that_is_replaced_is_gone_only_after_the_new_one_is_flushed(
    tmp_path: Path, seen: Events
) -> None:
    path = tmp_path / "model"
    for text in ("old", "new"):
        seen.clear()
        with atomic_folder(path, replace=True) as scratch:
            (scratch / "config.json").write_text(text)
    aside, new = (index for index, event in enumerate(seen) if event[0] == "name")
    assert seen[new] == ("name", "model")
    assert seen[aside][1].endswith(".removed")
    assert ("flush", number(path / "config.json")) in seen[:aside]


def test_a_line_of_captions_before_what_is_made_from_it(tmp_path: Path, seen: Events) -> None:
    path = tmp_path / "captions.jsonl"
    record: Any = {"path": "/a.mp4", "content": "1", "settings_hash": "2", "error": "broken"}
    with Manifest.open(path) as manifest:
        manifest.append([record])
        assert ("flush", number(path)) in seen
        assert path.read_bytes().endswith(b"\n")
