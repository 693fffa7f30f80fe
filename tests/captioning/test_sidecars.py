"""Which sidecar is whose: across runs, shards, folders in folders, failures and things in the way."""

import os
from pathlib import Path
from typing import Any

import pytest

from crosslmm.captioning import Shard, Summary
from crosslmm.captioning.outputs.sidecar import SidecarOutput
from crosslmm.captioning.results import Record
from crosslmm.errors import CrossLMMError
from tests.support.parrot import begin, make, parrot, run  # noqa: F401

pytestmark = pytest.mark.usefixtures("parrot")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    clips = tmp_path / "clips"
    make(clips, "day1/a.mp4", "day1/b.mp4", "day2/c.mp4")
    return clips


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
    assert errors == [f"{videos[2]}: the caption of another video would have the same file"]
    assert texts(tmp_path / "out") == {"G.txt": "A 0", "G.mp4.txt": "A 1"}


# Whose caption it holds


def test_sidecars_of_a_run_on_a_folder_below_are_left_alone(clips: Path) -> None:
    assert run(clips / "day1") == (["a.mp4", "b.mp4"], [])
    assert run(clips, "B") == (["c.mp4"], _not_written(clips, "a", "b"))
    assert texts(clips) == {
        "day1/a.txt": "A a.mp4",
        "day1/b.txt": "A b.mp4",
        "day2/c.txt": "B c.mp4",
    }
    # As the error says.
    assert run(clips, "B", exclude=["day1"], retry_failed=True) == ([], [])
    (clips / "day1" / "a.txt").unlink()
    assert run(clips, "B", retry_failed=True) == (["a.mp4"], _not_written(clips, "b"))
    assert run(clips, "B", overwrite=True) == (["a.mp4", "b.mp4", "c.mp4"], [])
    # Both have a record of them now; the run on the folder below sees that it is not up to date.
    _, errors = run(clips / "day1", "C")
    assert [error.partition("; ")[0] for error in errors] == [
        f"{clips}/day1/{name}.mp4: {name}.txt was changed after crosslmm wrote it" for name in "ab"
    ]
    assert run(clips, "C") == (["a.mp4", "b.mp4", "c.mp4"], [])
    (clips / "day1" / "a.txt").write_text("edited by hand", "utf-8")
    _, errors = run(clips, "B")
    assert [error.partition("; ")[0] for error in errors] == [
        f"{clips}/day1/a.mp4: a.txt was changed after crosslmm wrote it"
    ]


def test_records_in_folders_above_are_not_believed(clips: Path) -> None:
    run(clips)
    assert run(clips / "day1") == ([], _not_written(clips, "a", "b", home=clips / "day1"))
    assert run(clips / "day1", "B", overwrite=True) == (["a.mp4", "b.mp4"], [])
    assert texts(clips)["day1/a.txt"] == "B a.mp4"
    names, errors = run(clips, "B")
    assert names == ["c.mp4"]
    assert [error.partition("; ")[0] for error in errors] == [
        f"{clips}/day1/{name}.mp4: {name}.txt was changed after crosslmm wrote it" for name in "ab"
    ]
    assert texts(clips)["day1/a.txt"] == "B a.mp4"


def _not_written(clips: Path, *names: str, home: Path | None = None) -> list[str]:
    return [
        f"{clips}/day1/{name}.mp4: {name}.txt already exists and was not written by a run on "
        f"{home or clips}; `exclude` the video, or move the file away and use `retry_failed`, or use "
        "`overwrite` to discard existing results and start over"
        for name in names
    ]


def test_runs_on_a_folder_and_one_that_holds_it_leave_each_other_s_sidecars_alone(
    clips: Path,
) -> None:
    with begin(clips / "day1", "B") as inner:
        assert next(inner).path.endswith("a.mp4")
        assert run(clips) == (["b.mp4", "c.mp4"], _not_written(clips, "a"))
        (error,) = [result.error for result in inner]
    assert [error] == _not_written(clips, "b", home=clips / "day1")
    assert texts(clips) == {
        "day1/a.txt": "B a.mp4",
        "day1/b.txt": "A b.mp4",
        "day2/c.txt": "A c.mp4",
    }


def test_two_runs_on_a_folder_refuse_each_other(clips: Path) -> None:
    refusal = "another run is writing to it"
    with begin(clips, "B") as first:
        next(first)
        with pytest.raises(CrossLMMError, match=refusal):
            next(begin(clips, "C", overwrite=True))
        with pytest.raises(CrossLMMError, match=refusal):
            next(begin([clips / "day1", clips / "day2"], "C"))
        assert run(clips / "day2", "C", overwrite=True) == (["c.mp4"], [])


def test_a_moved_folder_keeps_its_sidecars(clips: Path) -> None:
    run(clips)
    moved = clips.rename(clips.with_name("moved"))
    assert run(moved) == ([], [])
    assert texts(moved)["day1/a.txt"] == "A a.mp4"
    assert run(moved, "B") == (["a.mp4", "b.mp4", "c.mp4"], [])


def test_a_failure_keeps_the_record_of_the_old_sidecar(clips: Path) -> None:
    run(clips)
    assert len(run(clips, "fail")[1]) == 3
    assert texts(clips)["day1/a.txt"] == "A a.mp4"
    assert run(clips, "B") == (["a.mp4", "b.mp4", "c.mp4"], [])
    assert len(run(clips, "fail")[1]) == 3
    assert len(run(clips, "fail", retry_failed=True)[0]) == 3
    (clips / "day1" / "a.txt").write_text("edited by hand", "utf-8")
    assert len(run(clips, "B")[1]) == 1
    assert texts(clips)["day1/a.txt"] == "edited by hand"


@pytest.mark.parametrize("earlier", [False, True])
def test_a_sidecar_written_by_hand_during_a_run_is_left_alone(clips: Path, earlier: bool) -> None:
    if earlier:
        run(clips)
    results, by_hand = begin(clips, "B"), clips / "day1" / "b.txt"
    next(results)
    by_hand.write_text("by hand", "utf-8")
    what = (
        "was changed after crosslmm wrote it" if earlier else "already exists and was not written"
    )
    (error,) = [result.error for result in results if result.error]
    assert error.startswith(f"{clips}/day1/b.mp4: b.txt {what}")
    assert texts(clips) == {
        "day1/a.txt": "B a.mp4",
        "day1/b.txt": "by hand",
        "day2/c.txt": "B c.mp4",
    }
    by_hand.unlink()  # as the error says
    assert run(clips, "B", retry_failed=True) == (["b.mp4"], [])
    results = begin(clips, "C", overwrite=True)
    next(results)
    by_hand.write_text("by hand", "utf-8")
    assert [result.error for result in results] == [None, None]
    assert texts(clips)["day1/b.txt"] == "C b.mp4"


def test_a_video_moved_with_its_sidecar_keeps_both(clips: Path) -> None:
    run(clips)
    for name in ("a.mp4", "a.txt"):
        (clips / "day1" / name).rename(clips / "day2" / name)
    assert run(clips) == ([], [])
    assert texts(clips)["day2/a.txt"] == "A a.mp4"
    (clips / "day2" / "a.txt").write_text("edited by hand", "utf-8")
    assert len(run(clips, "B")[1]) == 1


# A new caption in place of an old one


def caption_until_killed(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> None:
    """A run that dies once the record of the first video is written, before its sidecar is."""

    def die(self: SidecarOutput, record: Record) -> None:
        raise SystemError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(SidecarOutput, "write", die)
        with pytest.raises(SystemError, match="killed"):
            run(*arguments, **options)


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_old_sidecar_stays_until_the_new_one_is_complete(
    tmp_path: Path, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.mp4")
    run(tmp_path)
    caption_until_killed(monkeypatch, tmp_path, "B", overwrite=overwrite)
    assert texts(tmp_path) == {"a.txt": "A a.mp4"}
    # The record says that B is done; its file, which is out of date, is written from the record.
    assert run(tmp_path, "B") == ([], [])
    assert texts(tmp_path) == {"a.txt": "B a.mp4"}


def test_other_settings_or_another_shard_after_a_kill_find_no_conflict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.mp4")
    for prompt, options in (("C", {}), ("D", {"shard": Shard(1, 1)})):
        caption_until_killed(monkeypatch, tmp_path, "B", overwrite=True)
        run(tmp_path, "A", overwrite=True)
        caption_until_killed(monkeypatch, tmp_path, "B")
        assert run(tmp_path, prompt, **options) == (["a.mp4"], [])
        assert texts(tmp_path) == {"a.txt": f"{prompt} a.mp4"}


def test_a_file_edited_after_a_kill_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a.mp4")
    run(tmp_path)
    caption_until_killed(monkeypatch, tmp_path, "B")
    (tmp_path / "a.txt").write_text("by hand")
    assert run(tmp_path, "B") == ([], [])
    assert texts(tmp_path) == {"a.txt": "by hand"}


# One file for one video


def test_one_named_video_is_written_to_the_file_that_is_named(tmp_path: Path) -> None:
    make(tmp_path, "films/a.mp4", "films/b.mp4")
    out, films = tmp_path / "sub" / "film[1].srt", tmp_path / "films"
    options: dict[str, Any] = {"format": "srt", "out": out}
    results = begin(films / "a.mp4", **options)
    assert [result.error for result in results] == [None]
    assert results.name == str(out)
    assert "A a.mp4" in out.read_text("utf-8")
    assert sorted(path.name for path in out.parent.iterdir()) == [
        ".film[1].srt.manifest.jsonl", "film[1].srt",
    ]  # fmt: skip
    assert run(films / "a.mp4", **options) == ([], [])
    out.unlink()
    assert run(films / "a.mp4", **options) == ([], [])
    assert run(films / "a.mp4", "B", **options) == (["a.mp4"], [])
    assert "B a.mp4" in out.read_text("utf-8")

    _, (error,) = run(films / "b.mp4", **options)
    assert error == (
        f"{films}/b.mp4: film[1].srt holds the caption of {films}/a.mp4; choose another `out`, "
        "or use `overwrite`"
    )
    assert run(films / "b.mp4", **options, overwrite=True) == (["b.mp4"], [])
    assert run(films / "b.mp4", **options) == ([], [])
    assert "A b.mp4" in out.read_text("utf-8")
    assert run(films / "a.mp4", **options)[1] != []


def test_a_named_file_that_crosslmm_did_not_write_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4")
    out = tmp_path / "film.txt"
    out.write_text("by hand")
    _, (error,) = run(tmp_path / "a.mp4", out=out)
    assert "film.txt already exists and was not written by a run on" in error
    assert out.read_text() == "by hand"
    assert run(tmp_path / "a.mp4", out=out, overwrite=True) == (["a.mp4"], [])
    assert out.read_text("utf-8") == "A a.mp4\n"


def test_a_folder_or_several_videos_still_mean_a_folder(tmp_path: Path) -> None:
    make(tmp_path, "films/a.mp4")
    films = tmp_path / "films"
    run(films, out=tmp_path / "one.txt")
    assert (tmp_path / "one.txt" / "a.txt").is_file()
    run(films / "a.mp4", out=tmp_path / "one.txt")  # which is a folder
    run(films / "a.mp4", out=tmp_path / "two")
    assert (tmp_path / "two" / "a.txt").is_file()
    make(films, "b.mp4")
    run([films / "a.mp4", films / "b.mp4"], out=tmp_path / "three.txt")
    assert (tmp_path / "three.txt" / "b.txt").is_file()
