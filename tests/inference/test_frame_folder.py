"""A folder of images as a video: in the order of their names, read as they are needed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crosslmm.errors import UsageError, VideoError
from crosslmm.inference import given
from crosslmm.inference.assistant import Assistant
from crosslmm.video.frame_folder import frame_files
from tests.support.clips import write_clip

Run = Callable[..., Any]  # the fixture `run`


@pytest.fixture
def images() -> list[np.ndarray]:
    noise = np.random.default_rng(0)
    return [noise.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(12)]


@pytest.fixture
def folder(tmp_path: Path, images: list[np.ndarray]) -> Path:
    """`frame0.png` to `frame11.png`, and what is none of them."""
    path = tmp_path / "frames"
    path.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(path / f"frame{number}.png")
    (path / "notes.txt").write_text("frames of a camera")
    (path / ".hidden.png").write_bytes((path / "frame0.png").read_bytes())
    (path / "sub").mkdir()
    return path


def test_images_come_by_name_with_numbers_by_value(folder: Path) -> None:
    assert [Path(path).name for path in frame_files(folder)] == [
        f"frame{number}.png" for number in range(12)
    ]


def test_it_is_the_video_of_its_images(
    assistant: Assistant,
    folder: Path,
    images: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: Any = {"fps": 2, "max_frames": 4, "max_new_tokens": 6}
    expected = assistant.ask(images, "what?", **options)
    read: list[str] = []
    read_frame = given.read_frame
    monkeypatch.setattr(
        given, "read_frame", lambda path, **rest: (read.append(path), read_frame(path, **rest))[1]
    )
    answer = assistant.ask(folder, "what?", **options)
    assert (answer.text, answer.frames) == (expected.text, expected.frames)
    assert [Path(path).name for path in read[1:]] == [f"frame{n}.png" for n in (1, 4, 7, 10)]
    assert answer.video == str(folder)
    timed = assistant.ask(folder, "what?", times=[n / 2 for n in range(12)], at=["#1", 2.0])
    assert [frame.index for frame in timed.frames] == [1, 4]


def test_evidence_shows_its_images(assistant: Assistant, folder: Path, tmp_path: Path) -> None:
    video = assistant.open_video(folder, fps=2)
    evidence = video.evidence(video.ask("what?", max_new_tokens=6))
    for name in ("e.html", "e.png"):
        evidence.save(tmp_path / name)
    assert "<video" not in (tmp_path / "e.html").read_text()
    for path in folder.glob("frame*.png"):
        path.unlink()
    Image.new("RGB", (8, 8)).save(folder / "frame0.png")
    with pytest.raises(VideoError, match="has fewer frames than when it was read first"):
        evidence.save(tmp_path / "again.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "frames: a folder of frames has no times: give `fps`"),
        ({"frames": 3}, "needs `fps`, the rate at which they were taken, and `max_frames`"),
        (
            {"fps": 2, "sampler": "scene"},
            "`sampler` is for video files, not for a folder of frames",
        ),
        ({"fps": 2, "static_threshold": 1}, "`static_threshold` is for video files"),
    ],
)
def test_what_is_refused(assistant: Assistant, folder: Path, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assistant.open_video(folder, **options)


def test_what_cannot_be_read(
    assistant: Assistant, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VideoError, match=r"sub: this is a folder without images"):
        assistant.ask(folder / "sub", "what?", fps=2)
    with pytest.raises(VideoError, match=r"frame0\.png: .*`max_pixels`"):
        assistant.ask(folder, "what?", fps=2, max_pixels=10)
    (folder / "frame3.png").write_bytes((folder / "frame3.png").read_bytes()[:99])
    with pytest.raises(VideoError, match=r"frame3\.png: "):
        assistant.ask(folder, "what?", fps=2)
    monkeypatch.setattr("crosslmm.video.frame_folder.MAX_FOLDER_FRAMES", 3)
    with pytest.raises(VideoError, match=r"frames: holds more than the 3 files"):
        assistant.ask(folder, "what?", fps=2)


def test_on_the_command_line(run: Run, folder: Path, checkpoint: Path, home: Path) -> None:
    few = ("--model", checkpoint, "--max-new-tokens", 4)
    asked = ("ask", f"{folder}/", "what?", *few, "--fps", 2, "--max-frames", 3)
    done = run(*asked, "--json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert [frame["index"] for frame in record["frames"]] == [2, 6, 10]
    assert record["video"] == f"{folder}/"
    assert "3 of 12 frames, one per 2 s" in done.err
    more = run("ask", "-c", "and?", "--max-new-tokens", 1, "--json")
    assert json.loads(more.out)["frames"] == record["frames"]
    clip = folder.with_name("clip.mp4")
    write_clip(clip, frames=12, fps=6)
    both = run("ask", f"{folder}/", clip, "-Q", "which?", *few, "--fps", 2, "--max-frames", 4)
    assert both.err.splitlines()[0].startswith("video 1, frames: 2 of 12 frames")
    refused = run("ask", folder, "what?", *few)
    assert refused.code == 1
    assert refused.err == (
        f"crosslmm: {folder}: this is a folder; give a video file in it, or, where it holds the frames "
        "of one, --fps, the rate at which they were taken\n"
    )
    empty = run("ask", folder / "sub", "what?", *few, "--fps", 2)
    assert "this is a folder without images" in empty.err
