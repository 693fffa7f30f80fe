"""What a run of captioning writes: sidecars, Parquet and shards."""

import gc
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from crosslmm.captioning.outputs.webdataset import WebDatasetOutput
from crosslmm.inference.assistant import Assistant
from tests.support.captioning import LENGTHS, caption, run
from tests.support.clips import write_clip

REMEDY = (
    "`exclude` the video, or move the file away and use `retry_failed`, or use `overwrite` to discard "
    "existing results and start over"
)


@pytest.fixture
def folder(clips: Path, tmp_path: Path) -> Path:
    """A copy of the clips that a test may change."""
    return Path(shutil.copytree(clips, tmp_path / "clips"))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_sidecars_lie_beside_their_videos_and_lost_ones_come_back(
    folder: Path, assistant: Assistant
) -> None:
    texts = dict(run(folder, assistant, format="txt"))
    beside = {"a.mp4": "a.txt", "b.mp4": "b.txt", "c.mkv": "c.txt", "d.mp4": "deep/d.txt"}
    for video, sidecar in beside.items():
        assert (folder / sidecar).read_text("utf-8") == f"{texts[video]}\n"
    (folder / "b.txt").unlink()
    again = caption(folder, assistant, format="txt")
    assert list(again) == []
    assert again.summary.no_videos == 0
    assert (folder / "b.txt").read_text("utf-8") == f"{texts['b.mp4']}\n"


def test_sidecars_mirror_the_folders_under_another(
    folder: Path, assistant: Assistant, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(folder, assistant, format="srt", out=out)
    found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.suffix == ".srt"}
    assert found == {"a.srt", "b.srt", "c.srt", "deep/d.srt"}
    assert not list(folder.rglob("*.srt"))
    (tmp_path / "more").mkdir()
    write_clip(tmp_path / "more" / "a.mp4", frames=2, first_number=33)
    run([folder, tmp_path / "more"], assistant, format="vtt", out=tmp_path / "two")
    assert (tmp_path / "two" / "clips" / "a.vtt").exists()
    assert (tmp_path / "two" / "more" / "a.vtt").exists()


def test_two_videos_of_one_name_get_two_sidecars(folder: Path, assistant: Assistant) -> None:
    shutil.copy(folder / "c.mkv", folder / "a.mkv")
    (folder / "a.json").write_text("{}")
    run(folder, assistant, format="txt")
    assert (folder / "a.txt").exists()
    assert (folder / "a.mp4.txt").exists()


def test_files_that_crosslmm_did_not_write_or_that_were_edited_are_left_alone(
    folder: Path, assistant: Assistant
) -> None:
    (folder / "a.srt").write_text("real subtitles")
    first = caption(folder, assistant, format="srt")
    errors = [result.error for result in first if result.error]
    assert errors == [
        f"{folder}/a.mp4: a.srt already exists and was not written by a run on {folder}; {REMEDY}"
    ]
    (folder / "b.srt").write_text("edited by hand")
    second = caption(folder, assistant, format="srt", prompt="What?")
    errors = sorted(result.error for result in second if result.error)
    assert errors[1] == f"{folder}/b.mp4: b.srt was changed after crosslmm wrote it; {REMEDY}"
    assert (folder / "a.srt").read_text() == "real subtitles"
    assert (folder / "b.srt").read_text() == "edited by hand"
    run(folder, assistant, format="srt", overwrite=True)
    assert "-->" in (folder / "a.srt").read_text("utf-8")


def test_parquet_holds_every_row(folder: Path, assistant: Assistant, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "captions.parquet"
    (folder / "bad.mp4").touch()
    (folder / "b.mp4").rename(folder / os.fsdecode(b"no\xfftext.mp4"))
    texts = sorted(text or "" for _, text in run(folder, assistant, format="parquet", out=out))
    table = parquet.read_table(out)
    assert sorted(text or "" for text in table["caption"].to_pylist()) == texts
    assert sum(error is not None for error in table["error"].to_pylist()) == 1
    assert table["settings"][0].as_py()["frames"] == 4
    write_clip(folder / "new.mp4", frames=3, first_number=55)
    run(folder, assistant, format="parquet", out=out)
    assert parquet.read_table(out).num_rows == table.num_rows + 1


def test_parquet_and_json_lines_have_the_same_columns_of_the_same_types(
    folder: Path, assistant: Assistant, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow_json = pytest.importorskip("pyarrow.json")
    (folder / "bad.mp4").touch()
    shutil.copy(folder / "b.mp4", folder / "copy.mp4")
    options: dict[str, Any] = {"segments": 1.0, "fps": 2.5, "frames": None, "max_frames": 8}
    for format in ("jsonl", "parquet"):
        run(folder, assistant, format=format, out=tmp_path / f"out.{format}", **options)
    lines = tmp_path / "out.jsonl"
    tables = [parquet.read_table(tmp_path / "out.parquet"), pyarrow_json.read_json(lines)]
    # Where every value is null, JSON lines have no type.
    inferred = tables[1].schema
    for field in tables[0].schema:
        if field.name not in ("settings", "warnings"):
            found = str(inferred.field(field.name).type)
            assert found.replace("item:", "element:") == str(field.type)
    for name in ("settings", "versions"):
        known = {field.name: field.type for field in tables[0].schema.field(name).type}
        read = {field.name: field.type for field in inferred.field(name).type}
        assert known.keys() == read.keys()
        assert all(known[key] == read[key] for key in known if str(read[key]) != "null")
    rows_of = [sorted(table.to_pylist(), key=lambda row: row["path"]) for table in tables]
    for first, second in zip(*rows_of, strict=True):
        del first["timing"], second["timing"]
        assert first == second


def test_webdataset_shards_hold_what_counts_once(
    folder: Path, assistant: Assistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    webdataset = pytest.importorskip("webdataset")
    monkeypatch.setattr(WebDatasetOutput, "shard_samples", 3)
    out = tmp_path / "shards"

    def samples() -> dict[str, Any]:
        shards = [str(path) for path in sorted(out.glob("*.tar"))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files to the collector
            found = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
            gc.collect()
        by_name = {json.loads(s["json"])["path"].rpartition("/")[2]: s for s in found}
        assert len(by_name) == len(found)
        return by_name

    shutil.copy(folder / "b.mp4", folder / "copy.mp4")
    texts = dict(run(folder, assistant, format="webdataset", out=out))
    found = samples()
    assert len(found) == len(LENGTHS)
    assert len(list(out.glob("*.tar"))) == 2
    assert found["b.mp4"]["txt"].decode() == texts["b.mp4"]
    assert found["b.mp4"]["mp4"] == (folder / "b.mp4").read_bytes()
    assert run(folder, assistant, format="webdataset", out=out) == []
    assert samples().keys() == found.keys()

    write_clip(folder / "a.mp4", frames=7, first_number=66)
    run(folder, assistant, format="webdataset", out=out)
    changed = samples()
    assert changed.keys() == found.keys()
    assert changed["a.mp4"]["mp4"] == (folder / "a.mp4").read_bytes()
