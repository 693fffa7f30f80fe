"""Captioning in bulk with a tiny model: what is done, what is done again, what is written."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.captioning import Segment
from crosslmm.captioning.options import CaptionOptions
from crosslmm.errors import CrossLMMError, UsageError
from crosslmm.inference.assistant import Assistant
from crosslmm.options import Sampling
from tests.support.captioning import LENGTHS, caption, run
from tests.support.clips import write_clip, write_sound


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


def test_a_segment_comes_back_from_its_record(clips: Path, assistant: Assistant) -> None:
    (result,) = caption(clips / "b.mp4", assistant)
    part = Segment.from_dict(result.as_dict()["segments"][0])
    assert part.frames == result.frames
    assert part.caption == result.caption
