"""Tables and shards that crosslmm did not write, or without a record of it, are left alone."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from crosslmm.errors import CrossLMMError
from tests.support.parrot import begin, make, parrot, run  # noqa: F401

pytestmark = pytest.mark.usefixtures("parrot")

REFUSED = "no record beside it says .* choose another `out`, or use `overwrite`"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    make(tmp_path / "clips", "a.mp4", "b.mp4")
    return tmp_path / "clips"


def keys(folder: Path) -> dict[str, set[str]]:
    """The extensions of each sample in the shards, by its key as WebDataset reads it."""
    found: dict[str, set[str]] = {}
    for shard in sorted(folder.glob("captions-*.tar")):
        with tarfile.open(shard) as tar:
            for name in tar.getnames():
                key, _, extension = name.partition(".")
                assert extension not in found.setdefault(key, set())
                found[key].add(extension)
    return found


def samples(folder: Path) -> dict[str, str]:
    """The captions in the shards, by the names of their videos."""
    found = {}
    for shard in folder.glob("captions-*.tar"):
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    record = json.load(tar.extractfile(member))  # type: ignore[arg-type]
                    found[Path(record["path"]).name] = record.get("caption")
    return found


def test_a_table_without_a_record_is_replaced_on_request_only(clips: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "mine.parquet"
    out.write_bytes(b"mine")
    for _ in range(2):
        with pytest.raises(CrossLMMError, match=REFUSED):
            run(clips, format="parquet", out=out)
    stopped = begin(clips, format="parquet", out=out, overwrite=True)
    stopped.stop()
    list(stopped)
    assert out.read_bytes() == b"mine"  # there was nothing to put in its place
    run(clips, format="parquet", out=out, overwrite=True)
    assert parquet.read_table(out).num_rows == 2
    assert run(clips, format="parquet", out=out) == ([], [])


def test_a_run_stopped_before_its_first_caption_is_resumed(clips: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    out = tmp_path / "captions.parquet"
    stopped = begin(clips, format="parquet", out=out)
    stopped.stop()
    list(stopped)
    assert run(clips, format="parquet", out=out)[1] == []


def test_shards_copied_without_their_record_are_kept(clips: Path, tmp_path: Path) -> None:
    run(clips, format="webdataset", out=tmp_path / "shards")
    out = tmp_path / "copied"
    out.mkdir()
    shutil.copy(tmp_path / "shards" / "captions-000000.tar", out)
    make(tmp_path / "more", "c.mp4")
    with pytest.raises(CrossLMMError, match=f"captions-000000.tar: {REFUSED}"):
        run(tmp_path / "more", format="webdataset", out=out)
    run(tmp_path / "more", format="webdataset", out=out, overwrite=True)
    assert samples(out) == {"a.mp4": "A a.mp4", "b.mp4": "A b.mp4", "c.mp4": "A c.mp4"}
    run(clips / "a.mp4", "B", format="webdataset", out=out)  # which is known from here on
    assert samples(out) == {"a.mp4": "B a.mp4", "b.mp4": "A b.mp4", "c.mp4": "A c.mp4"}


def test_samples_of_others_are_kept(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    run(clips, format="webdataset", out=out)
    (tmp_path / "a-b.json").write_text('{"path": "/theirs.mp4"}', "utf-8")
    with tarfile.open(out / "captions-000007.tar", "w") as tar:
        tar.add(tmp_path / "a-b.json", "a-b.json")
        tar.add(tmp_path / "a-b.json", "./photo.json")
    theirs = (out / "captions-000007.tar").read_bytes()
    run(clips, "B", format="webdataset", out=out)
    assert samples(out) == {"a.mp4": "B a.mp4", "b.mp4": "B b.mp4", "theirs.mp4": None}
    assert (out / "captions-000007.tar").read_bytes() == theirs


def test_a_shard_that_is_not_a_tar_is_named_and_left_alone(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    run(clips, format="webdataset", out=out)
    broken = out / "captions-000001.tar"
    broken.write_bytes(b"no tar")
    with pytest.raises(CrossLMMError, match=r"captions-000001.tar: this shard cannot be read"):
        run(clips, "B", format="webdataset", out=out)
    assert broken.read_bytes() == b"no tar"


def test_keys_carry_the_names_of_files_and_all_samples_have_the_same_columns(
    tmp_path: Path,
) -> None:
    clips, out = tmp_path / "clips", tmp_path / "shards"
    make(clips, "a.mp4", "b c.d.mkv", "day/a.mov", "é" * 90 + ".mp4")
    (clips / os.fsdecode(b"no\xfftext.webm")).write_text("a third one", "utf-8")
    (clips / "day" / "a.mov").write_text("another film", "utf-8")
    run(clips, format="webdataset", out=out)
    found = keys(out)
    names = sorted(key.rsplit("-", 2)[0] for key in found)
    assert names == sorted(["a", "a", "b_c_d", "é" * 64, "no_text"])
    assert all(extensions == {"mp4", "txt", "json"} for extensions in found.values())
    assert run(clips, format="webdataset", out=out) == ([], [])
    assert keys(out) == found


def test_samples_under_the_keys_of_earlier_versions_are_known(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "shards"
    with monkeypatch.context() as earlier:
        earlier.setattr("crosslmm.captioning.outputs.webdataset._member_key", lambda path, key: key)
        run(clips, format="webdataset", out=out)
    old = keys(out)
    assert all(key.count("-") == 1 for key in old)
    make(clips, "c.mp4")
    assert run(clips, format="webdataset", out=out) == (["c.mp4"], [])
    (new,) = keys(out).keys() - old
    assert new.startswith("c-")
    run(clips, "B", format="webdataset", out=out)
    assert samples(out) == {name: f"B {name}" for name in ("a.mp4", "b.mp4", "c.mp4")}
    assert {key.split("-")[0] for key in keys(out)} == {"a", "b", "c"}
