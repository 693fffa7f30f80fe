"""A folder that is replaced by a link while a run writes to it."""

import os
from pathlib import Path

import pytest

from crosslmm.captioning.manifest import Manifest
from tests.support.parrot import begin, make, parrot  # noqa: F401

pytestmark = [
    pytest.mark.usefixtures("parrot"),
    pytest.mark.skipif(os.open not in os.supports_dir_fd, reason="no descriptors of folders"),
]


@pytest.mark.parametrize("format", ["txt", "jsonl", "parquet", "webdataset"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_stays_in_the_folder_that_it_began_in(
    tmp_path: Path, format: str, overwrite: bool
) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    given, moved, outside = tmp_path / "given", tmp_path / "moved", tmp_path / "outside"
    make(given, "a.mp4", "b.mp4", "c.mp4")
    make(outside, "a.mp4", "b.mp4", "c.mp4", "c.txt", "b.txt")
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    out = {"txt": given, "webdataset": given}.get(format, given / f"out.{format}")
    for number, _ in enumerate(begin(given, format=format, out=out, overwrite=overwrite)):
        if not number:
            given.rename(moved)
            given.symlink_to(outside)
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before
    written = {path.name for path in moved.iterdir()} - set("abc")
    expected = {"txt": "b.txt", "webdataset": "captions-000000.tar"}.get(format, f"out.{format}")
    assert expected in written


def test_the_lock_of_the_folder_is_removed_from_it(tmp_path: Path) -> None:
    given, moved = tmp_path / "given", tmp_path / "moved"
    make(given, "a.mp4")
    for _ in begin(given, format="jsonl", out=given / "out.jsonl"):
        given.rename(moved)
        given.mkdir()
    assert sorted(path.name for path in moved.iterdir()) == ["a.mp4", "out.jsonl"]
    assert list(given.iterdir()) == []
    with Manifest.open(moved / "out.jsonl") as manifest:
        assert len(manifest.entries) == 1
