"""WebDataset shards: what gets into them, and shards that somebody else made."""

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.parrot import begin, make, parrot, run  # noqa: F401

pytestmark = pytest.mark.usefixtures("parrot")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make(tmp_path / "given", "a.mp4", "b.mp4")
    monkeypatch.chdir(tmp_path / "given")
    return tmp_path / "given"


def names(out: Path) -> list[str]:
    """The videos in the shards."""
    found = []
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as tar:
            found += [name.partition("-")[0] for name in tar.getnames() if name.endswith(".mp4")]
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                assert b"mine" not in file.read()
    return found


def errors(out: Path) -> dict[str, str]:
    rows = map(json.loads, (out / ".crosslmm-captions.jsonl").read_text("utf-8").splitlines())
    return {Path(row["path"]).name: row["error"] for row in rows if row["error"]}


def put_link(path: Path) -> None:
    victim = path.parents[1] / "victim"
    victim.write_text("mine", "utf-8")
    path.symlink_to(victim)


REPLACED = {
    "link": put_link,
    "other": lambda path: path.write_text("mine", "utf-8"),
    "pipe": lambda path: os.mkfifo(path),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("put", REPLACED.values(), ids=REPLACED)
def test_a_video_that_was_replaced_does_not_get_into_a_shard(
    folder: Path, put: Callable[[Path], None]
) -> None:
    out = folder / "captions"
    for result in begin(folder, format="webdataset"):
        if result.path.endswith("a.mp4"):
            (folder / "a.mp4").unlink()
            put(folder / "a.mp4")
    assert names(out) == ["b"]
    said = errors(out)["a.mp4"]
    assert said.endswith(("changed before its shard was written", "(Is a directory)"))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("put", REPLACED.values(), ids=REPLACED)
def test_nor_does_it_after_a_run_that_was_killed(folder: Path, put: Callable[[Path], None]) -> None:
    out = folder / "captions"
    killed = begin([folder / "a.mp4", folder / "b.mp4"], format="webdataset")
    next(killed)
    next(killed)
    killed.close()
    (folder / "a.mp4").unlink()
    put(folder / "a.mp4")
    captioned, _ = run(
        [folder / "b.mp4", folder / "a.mp4"], "fail", format="webdataset", retry_failed=True
    )
    assert "a.mp4" in captioned or errors(out)
    assert "a" not in names(out)


def test_a_captioned_video_that_is_gone_after_a_kill_fails_alone(folder: Path) -> None:
    killed = begin([folder / "a.mp4", folder / "b.mp4"], format="webdataset")
    next(killed)
    next(killed)
    killed.close()
    (folder / "a.mp4").write_text("other", "utf-8")
    _, said = run([folder / "a.mp4"], "fail", format="webdataset")
    assert said == [f"{folder}/a.mp4: failed"]
    assert names(folder / "captions") == []
    assert run([folder / "b.mp4"], format="webdataset") == ([], [])
    assert names(folder / "captions") == ["b"]


def test_a_video_that_is_a_link_is_as_good_as_any(folder: Path, tmp_path: Path) -> None:
    make(tmp_path, "c.mp4")
    (folder / "c.mp4").symlink_to(tmp_path / "c.mp4")
    assert run(folder, format="webdataset")[1] == []
    assert names(folder / "captions") == ["a", "b", "c"]
