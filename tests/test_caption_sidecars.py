"""Which sidecar is whose: across runs, shards, folders in folders, failures and things in the way."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm import captioning
from crosslmm.captioning import Segment, Shard, Shares, Summary
from crosslmm.captioning.options import CaptionOptions
from crosslmm.captioning.outcomes import Outcome, Outcomes, Stopping
from crosslmm.errors import CrossLMMError

captioned: list[str] = []


class Parrot:
    """An engine whose caption is the prompt and the file's text; the prompt "fail" fails."""

    model, fingerprint, default_frames = "parrot", "parrot", 4

    def __init__(self, options: CaptionOptions) -> None:
        self.prompt = options.prompt
        self.settings: dict[str, str] = {}
        self.versions: dict[str, str] = {}

    def run(self, paths: Sequence[str], *, stopping: Stopping) -> Outcomes:
        for path in paths:
            captioned.append(os.path.basename(path))
            if self.prompt == "fail":
                yield [Outcome(path, error=f"{path}: failed")]
            else:
                caption = f"{self.prompt} {Path(path).read_text('utf-8')}"
                part = Segment(start=0.0, end=1.0, caption=caption)
                yield [Outcome(path, duration=1.0, segments=(part,))]

    def shares(self) -> Shares | None:
        return None


@pytest.fixture(autouse=True)
def parrot(monkeypatch: pytest.MonkeyPatch) -> None:
    def engine(kind: str, assistant: Any, model_options: Any, options: Any, *rest: Any) -> Parrot:
        return Parrot(options)

    monkeypatch.setattr(captioning, "_engine", engine)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    clips = tmp_path / "clips"
    make(clips, "day1/a.mp4", "day1/b.mp4", "day2/c.mp4")
    return clips


def make(folder: Path, *names: str) -> None:
    """Files that hold their own names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(Path(name).name, "utf-8")


def begin(paths: Any, prompt: str = "A", **options: Any) -> Any:
    return crosslmm.caption(paths, prompt=prompt, **{"format": "txt"} | options)


def run(paths: Any, prompt: str = "A", **options: Any) -> tuple[list[str], list[str]]:
    """The names of what the model saw, and the errors."""
    captioned.clear()
    errors = [result.error for result in begin(paths, prompt, **options) if result.error]
    return sorted(captioned), errors


def texts(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8").strip()
        for path in sorted(folder.rglob("*.txt"))
        if path.is_file()
    }


# What cannot be written


def test_a_sidecar_that_cannot_be_written_fails_alone_and_comes_when_it_can(
    clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    make(out, "day1")  # a file where a folder should be
    for seen in (["a.mp4", "b.mp4", "c.mp4"], []):
        names, errors = run(clips, out=out)
        assert names == seen
        assert len(errors) == 2
        assert errors[0] == (
            f"{clips}/day1/a.mp4: its caption could not be written: {out}/day1: File exists"
        )
        assert texts(out) == {"day2/c.txt": "A c.mp4"}
    (out / "day1").unlink()
    assert run(clips, out=out) == ([], [])
    assert texts(out)["day1/a.txt"] == "A a.mp4"


def test_an_old_sidecar_that_cannot_be_removed_fails_alone(clips: Path) -> None:
    (clips / "day1" / "a.txt").mkdir(parents=True)
    for _ in range(2):  # it is no fault of the video, so that it is tried again
        _, errors = run(clips, overwrite=True)
        assert len(errors) == 1
        assert errors[0].startswith(f"{clips}/day1/a.mp4: its caption could not be written: ")
        assert texts(clips) == {"day1/b.txt": "A b.mp4", "day2/c.txt": "A c.mp4"}


def test_a_name_as_long_as_names_may_be_has_a_sidecar(tmp_path: Path) -> None:
    name = "x" * 251
    make(tmp_path, f"{name}.mp4")
    assert run(tmp_path) == ([f"{name}.mp4"], [])
    assert texts(tmp_path) == {f"{name}.txt": f"A {name}.mp4"}


def test_a_folder_that_cannot_be_searched_is_a_failure(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir, locked = os.scandir, str(clips / "day1")

    def guarded(path: Any) -> Any:
        if os.fspath(path) == locked:
            raise PermissionError(13, "Permission denied", locked)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    out = tmp_path / "captions.jsonl"
    results = begin(clips, format="jsonl", out=out)
    errors = [result.error for result in results if result.error]
    assert errors == [f"{locked}: this folder cannot be searched: Permission denied"]
    summary: Summary = results.summary
    assert (summary.total, summary.captioned, summary.failed) == (2, 1, 1)
    assert out.read_text("utf-8").count("\n") == 1


# Whose name it is


def test_shards_share_the_names_out_together(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    make(clips, *(f"{n}.{ending}" for n in range(8) for ending in ("mp4", "mkv")))
    parts = [Shard(index, 3) for index in (1, 2, 3)]
    for part in parts:
        assert run(clips, shard=part)[1] == []
    expected = {f"{n}.txt": f"A {n}.mkv" for n in range(8)}
    expected |= {f"{n}.mp4.txt": f"A {n}.mp4" for n in range(8)}
    assert texts(clips) == expected
    # What shards did is done for a run without, and for shards of another number.
    assert run(clips) == ([], [])
    assert run(clips, shard=Shard(2, 2)) == ([], [])


def test_a_video_keeps_its_sidecar_when_others_join(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    make(clips, "movie.mp4")
    assert run(clips) == (["movie.mp4"], [])
    make(clips, "movie.avi")
    for part in (Shard(1, 2), Shard(2, 2)):
        assert run(clips, shard=part)[1] == []
    assert texts(clips) == {"movie.avi.txt": "A movie.avi", "movie.txt": "A movie.mp4"}
    (clips / "movie.mp4").unlink()
    make(clips, "movie.mov")  # which has the name that is free again
    assert run(clips) == (["movie.mov"], [])
    assert texts(clips) == {"movie.avi.txt": "A movie.avi", "movie.txt": "A movie.mov"}


def test_another_folder_beside_moves_no_sidecar(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(clips / "day1", out=out)
    assert run([clips / "day1", clips / "day2"], out=out) == (["c.mp4"], [])
    assert texts(out) == {"a.txt": "A a.mp4", "b.txt": "A b.mp4", "day2/c.txt": "A c.mp4"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_third_video_of_one_name_fails_alone(tmp_path: Path, overwrite: bool) -> None:
    videos = [tmp_path / day / "G.mp4" for day in ("day1", "day2", "day3")]
    for day, path in enumerate(videos):
        make(path.parent, path.name)
        path.write_text(f"{day}", "utf-8")
    _, errors = run(videos, out=tmp_path / "out", overwrite=overwrite)
    assert errors == [f"{videos[2]}: another video's caption would have the same file"]
    assert texts(tmp_path / "out") == {"G.txt": "A 0", "G.mp4.txt": "A 1"}


# Whose caption it holds


def test_a_folder_and_one_that_holds_it_know_of_each_other(clips: Path) -> None:
    assert run(clips / "day1") == (["a.mp4", "b.mp4"], [])
    assert run(clips) == (["c.mp4"], [])
    assert run(clips / "day2") == ([], [])
    # Whatever was done last is what counts.
    assert run(clips / "day1", "B") == (["a.mp4", "b.mp4"], [])
    assert run(clips, "B") == (["c.mp4"], [])
    assert run(clips, "A") == (["a.mp4", "b.mp4", "c.mp4"], [])
    assert run(clips / "day1", "B") == (["a.mp4", "b.mp4"], [])
    assert run(clips, "A") == (["a.mp4", "b.mp4"], [])
    (clips / "day1" / "a.txt").write_text("edited by hand", "utf-8")
    _, errors = run(clips, "B")
    assert [error.partition("; ")[0] for error in errors] == [
        f"{clips}/day1/a.mp4: a.txt was changed since we wrote it"
    ]


def test_runs_on_a_folder_and_one_that_holds_it_refuse_each_other(clips: Path) -> None:
    run(clips)
    refusal = "another run is writing to it"
    with begin(clips / "day1", "B") as inner:
        next(inner)
        with pytest.raises(CrossLMMError, match=refusal):
            next(begin(clips, "B"))
        assert run(clips / "day2", "B") == (["c.mp4"], [])
    with begin(clips, "C") as outer:
        next(outer)
        with pytest.raises(CrossLMMError, match=refusal):
            next(begin(clips / "day1", "C"))


def test_a_moved_folder_keeps_its_sidecars(clips: Path) -> None:
    run(clips)
    moved = clips.rename(clips.with_name("moved"))
    assert run(moved) == ([], [])
    assert texts(moved)["day1/a.txt"] == "A a.mp4"
    assert run(moved, "B") == (["a.mp4", "b.mp4", "c.mp4"], [])


def test_a_failure_leaves_the_old_sidecar_ours(clips: Path) -> None:
    run(clips)
    assert len(run(clips, "fail")[1]) == 3
    assert texts(clips)["day1/a.txt"] == "A a.mp4"
    assert run(clips, "B") == (["a.mp4", "b.mp4", "c.mp4"], [])
    assert len(run(clips, "fail")[1]) == 3
    assert len(run(clips, "fail", retry_failed=True)[0]) == 3
    (clips / "day1" / "a.txt").write_text("edited by hand", "utf-8")
    assert len(run(clips, "B")[1]) == 1
    assert texts(clips)["day1/a.txt"] == "edited by hand"
