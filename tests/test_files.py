"""Files that take the place of others."""

import contextlib
import re
from pathlib import Path

import pytest

from crosslmm.errors import UsageError
from crosslmm.files import check_writable, replacing, write_whole


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".tsv")  # no room for a longer name
    write_whole(path, b"old")
    with replacing(path) as scratch:
        assert scratch.suffix == ".tsv"
        scratch.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_on_the_way_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    write_whole(path, b"old")
    with contextlib.suppress(OSError), replacing(path) as scratch:
        scratch.write_bytes(b"ha")
        raise OSError("no room left")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "answers.jsonl")
    for path, reason in ((tmp_path, "a folder"), (tmp_path / "a" / "b.png", "no folder")):
        with pytest.raises(UsageError, match=f"{re.escape(str(path))}.*{reason}"):
            check_writable(path)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UsageError, match="may not be written to"):
        check_writable(tmp_path / "answers.jsonl")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "settings.json", tmp_path / "settings.json"
    real.parent.mkdir()
    real.write_text("old")
    link.symlink_to(real)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert [*real.parent.iterdir()] == [real]
