"""Captioning in bulk with a tiny model: what is done, what is done again, what is written."""

import gc
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.captioning import Segment
from crosslmm.captioning.options import CaptionOptions
from crosslmm.captioning.outputs.webdataset import WebDatasetOutput
from crosslmm.errors import CrossLMMError, UsageError
from crosslmm.inference.assistant import Assistant
from crosslmm.options import Sampling
from tests.support.captioning import LENGTHS, caption, run
from tests.support.clips import write_clip, write_sound

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


# What is done, and what is done again


def test_one_bad_file_never_stops_the_rest(folder: Path, assistant: Assistant) -> None:
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_bytes(b"hello")
    (folder / "cut.mp4").write_bytes((folder / "b.mp4").read_bytes()[:900])
    (folder / "gone.mp4").symlink_to(folder / "nowhere")
    (folder / "notes.md").write_text("no video")
    write_sound(folder / "sound.m4a")
    os.mkfifo(folder / "pipe.mp4")
    results = caption(folder, assistant, readers=1)
    errors = {Path(r.path).name: r.error for r in results if r.error is not None}
    # An mp4 is known by its beginning: one with sound only is no text file that lies about.
    assert sorted(errors) == [
        "cut.mp4", "empty.mp4", "gone.mp4", "pipe.mp4", "sound.m4a", "text.mp4",
    ]  # fmt: skip
    assert all(error.startswith(str(folder)) for error in errors.values())
    assert results.summary.captioned == len(LENGTHS)
    assert (results.summary.failed, results.summary.no_videos) == (6, 1)


def test_what_a_run_writes_is_not_captioned_though_the_shell_names_it(
    folder: Path, assistant: Assistant
) -> None:
    out = folder / "captions.jsonl"
    for _ in range(2):
        named = sorted(path for path in folder.glob("[!.]*") if path.is_file())
        results = caption(named, assistant, out=out, readers=0)
        assert all(result.error is None for result in results)
    assert not [row for row in rows(out) if row["path"] == str(out)]


def test_a_failure_of_the_model_is_one_whatever_the_file_is_called(
    folder: Path, assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("no answer today")

    (folder / "b.mp4").rename(folder / "frames of a film")
    monkeypatch.setattr("crosslmm.captioning.captioner.answer_batch", fail)
    results = caption(folder, assistant, readers=0)
    failed = {Path(r.path).name for r in results if r.error is not None}
    assert "frames of a film" in failed
    assert (results.summary.failed, results.summary.no_videos) == (len(LENGTHS), 0)


def test_a_second_run_does_nothing_and_a_third_what_changed(
    folder: Path, assistant: Assistant, tmp_path: Path
) -> None:
    out = tmp_path / "captions.jsonl"
    (folder / "bad.mp4").touch()
    assert len(run(folder, assistant, out=out)) == 5
    before = out.read_bytes()
    again = caption(folder, assistant, out=out)
    assert list(again) == []
    assert (again.summary.kept, again.summary.kept_failures) == (4, 1)
    assert out.read_bytes() == before

    os.utime(folder / "a.mp4")
    write_clip(folder / "b.mp4", frames=9, first_number=77)
    write_clip(folder / "new.mp4", frames=9, first_number=88)
    assert sorted(name for name, _ in run(folder, assistant, out=out)) == ["b.mp4", "new.mp4"]
    assert sorted(Path(row["path"]).name for row in rows(out)) == [
        "a.mp4", "b.mp4", "bad.mp4", "c.mkv", "d.mp4", "new.mp4",
    ]  # fmt: skip

    write_clip(folder / "bad.mp4", frames=5, first_number=99)
    assert [name for name, text in run(folder, assistant, out=out) if text] == ["bad.mp4"]


def test_other_settings_give_new_captions_and_keep_the_old_ones_beside(
    folder: Path, assistant: Assistant, tmp_path: Path
) -> None:
    out = tmp_path / "captions.jsonl"
    old = dict(run(folder, assistant, out=out))
    new = dict(run(folder, assistant, out=out, prompt="What?"))
    assert old.keys() == new.keys()
    assert old != new
    assert {row["prompt"] for row in rows(out)} == {"What?"}
    assert len(rows(out)) == len(old)
    assert {row["prompt"] for row in rows(tmp_path / "captions.superseded.jsonl")} == {
        "Describe the video."
    }
    assert run(folder, assistant, out=out, prompt="What?", batch_size=1, readers=1) == []


def test_failures_are_tried_again_on_request_only(
    folder: Path, assistant: Assistant, tmp_path: Path
) -> None:
    out, bad = tmp_path / "captions.jsonl", folder / "bad.mp4"
    bad.touch()
    run(folder, assistant, out=out)
    assert run(folder, assistant, out=out, retry_failed=True) == [("bad.mp4", None)]
    assert len(rows(out)) == 5


def test_overwrite_starts_over(folder: Path, assistant: Assistant, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    first = run(folder, assistant, out=out)
    assert sorted(run(folder, assistant, out=out, overwrite=True)) == sorted(first)
    assert len(rows(out)) == len(first)


def test_overwriting_that_is_stopped_loses_no_caption(
    folder: Path, assistant: Assistant, tmp_path: Path
) -> None:
    out = tmp_path / "captions.jsonl"
    first = run(folder, assistant, out=out)
    with caption(folder, assistant, out=out, overwrite=True, batch_size=1) as stopped:
        next(iter(stopped))
        stopped.stop()
    old = rows(tmp_path / "captions.superseded.jsonl")
    assert sorted(Path(row["path"]).name for row in old) == sorted(name for name, _ in first)
    assert all(row["segments"] for row in old)
    said: list[str] = []
    for prompt in ("What?", "Who?"):
        out = tmp_path / "one.jsonl"
        run(folder / "b.mp4", assistant, out=out, prompt=prompt, on_notice=said.append)
    assert [line for line in said if line.startswith("1 caption of other settings or files moved")]


def test_a_moved_video_keeps_its_caption_and_copies_are_captioned_once(
    folder: Path, assistant: Assistant, tmp_path: Path
) -> None:
    out = tmp_path / "captions.jsonl"
    shutil.copy(folder / "b.mp4", folder / "copy.mp4")
    first = caption(folder, assistant, out=out)
    texts = {Path(result.path).name: result.caption for result in first}
    assert texts["copy.mp4"] == texts["b.mp4"]
    assert first.summary.copies == 1

    (folder / "b.mp4").rename(folder / "moved.mp4")
    moved = caption(folder, assistant, out=out)
    (result,) = moved
    assert (Path(result.path).name, result.caption) == ("moved.mp4", texts["b.mp4"])
    assert result.same_as in (str(folder / "b.mp4"), str(folder / "copy.mp4"))
    assert result.timing == {"decode": 0, "encode": 0, "generate": 0}


def test_a_prompt_with_the_file_name_is_asked_of_each_copy(
    folder: Path, assistant: Assistant
) -> None:
    shutil.copy(folder / "b.mp4", folder / "copy.mp4")
    copies = caption(folder, assistant, prompt="{filename}?")
    texts = {Path(result.path).stem: result.caption for result in copies}
    assert copies.summary.copies == 0
    for name in ("b", "copy"):
        asked = assistant.ask(folder / "b.mp4", f"{name}?", frames=4, max_new_tokens=6)
        assert texts[name] == asked.text


def test_stopping_finishes_what_has_begun_and_the_rest_is_done_later(
    folder: Path, assistant: Assistant, tmp_path: Path
) -> None:
    out = tmp_path / "captions.jsonl"
    first = caption(folder, assistant, out=out, batch_size=1)
    next(first)
    first.stop()
    done = 1 + len(list(first))
    assert first.summary.stopped
    assert 1 <= done < len(LENGTHS)
    assert len(rows(out)) == done
    assert len(run(folder, assistant, out=out)) == len(LENGTHS) - done


def test_two_runs_refuse_each_other(folder: Path, assistant: Assistant, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    with caption(folder, assistant, out=out, batch_size=1) as first:
        next(first)
        with pytest.raises(CrossLMMError, match="another run is writing to it"):
            next(caption(folder, assistant, out=out))
    assert len(run(folder, assistant, out=out)) == len(LENGTHS) - 1


def test_a_record_says_what_made_it(clips: Path, assistant: Assistant, tmp_path: Path) -> None:
    out = tmp_path / "captions.jsonl"
    run(clips / "b.mp4", assistant, out=out)
    (row,) = rows(out)
    assert row["path"] == str(clips / "b.mp4")
    assert row["duration"] == 3.0
    frames = crosslmm.sample(clips / "b.mp4", frames=4)
    assert tuple(frame["index"] for frame in row["segments"][0]["frames"]) == frames.indices
    assert row["model"] == assistant.name
    assert row["settings"]["dtype"] == "float32"
    assert row["settings"]["frames"] == 4
    assert row["versions"]["crosslmm"] == crosslmm.__version__
    assert row["error"] is None
    assert set(row["timing"]) == {"decode", "encode", "generate"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segments": 0}, "`segments` must be in seconds"),
        ({"segments": 5, "scenes": True}, "`segments` and `scenes` exclude"),
        ({"frames": 2, "fps": 1}, "`frames` and `fps` exclude"),
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": "{title}?"}, "{title} is not one of its placeholders"),
        ({"batch_size": 0}, "batch_size"),
        ({"readers": -1}, "readers"),
        ({"engine": "spark"}, "`engine` must be one of local, ray, not 'spark'"),
        (
            {"format": "doc"},
            "`format` must be one of jsonl, txt, srt, vtt, parquet, webdataset, not 'doc'",
        ),
        ({"deadline": 0}, "deadline"),
        ({"deadline": float("inf")}, "deadline"),
    ],
)
def test_impossible_options_are_refused_at_once(
    clips: Path, assistant: Assistant, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        caption(clips, assistant, **options)


def test_fps_is_capped_and_the_record_says_so() -> None:
    assert CaptionOptions(sampling=Sampling(fps=2)).as_dict()["max_frames"] == 256
    assert CaptionOptions(sampling=Sampling(fps=2, max_frames=7)).as_dict()["max_frames"] == 7


def test_braces_that_are_no_placeholder_stay() -> None:
    options = CaptionOptions(prompt='{filename} {start} {duration} {"json": 1}')
    assert options.render("/x/my film.mp4", start=2.5, duration=10) == 'my film 2.5 10 {"json": 1}'


# Segments


def test_segments_are_asked_about_apart_and_joined(clips: Path, assistant: Assistant) -> None:
    (result,) = caption(clips / "b.mp4", assistant, segments=1, prompt="at {start} for {duration}")
    asked = [
        assistant.ask(
            clips / "b.mp4", f"at {start} for 1", start=start, end=start + 1, frames=4,
            max_new_tokens=6,
        ).text
        for start in range(3)
    ]  # fmt: skip
    assert [segment.caption for segment in result.segments] == asked
    assert [(segment.start, segment.end) for segment in result.segments] == [(0, 1), (1, 2), (2, 3)]
    assert result.caption == "\n".join(asked)


def test_scenes_end_at_cuts(tmp_path: Path, assistant: Assistant) -> None:
    import av
    import numpy as np

    path, colours = tmp_path / "cuts.mp4", [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(45):
            picture = np.full((64, 64, 3), colours[number // 15], dtype=np.uint8)
            picture[30:34, number % 15 * 4 :][:, :4] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    (result,) = caption(path, assistant, scenes=True)
    assert [segment.start for segment in result.segments] == pytest.approx([0.0, 1.5, 3.0])
    assert result.segments[-1].end == pytest.approx(4.5)


def test_an_image_is_a_video_of_one_segment(tmp_path: Path, assistant: Assistant) -> None:
    from PIL import Image

    from tests.support.clips import picture

    Image.fromarray(picture(5)).save(tmp_path / "still.png")
    (result,) = caption(tmp_path, assistant, segments=2)
    assert result.caption
    assert len(result.segments) == 1


# What is written


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


def test_a_segment_comes_back_from_its_record(clips: Path, assistant: Assistant) -> None:
    (result,) = caption(clips / "b.mp4", assistant)
    part = Segment.from_dict(result.as_dict()["segments"][0])
    assert part.frames == result.frames
    assert part.caption == result.caption
