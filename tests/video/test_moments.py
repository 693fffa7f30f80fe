"""Frames that somebody names, by time or by index."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.errors import UsageError, VideoError
from crosslmm.options import Sampling
from tests.support.clips import numbers_of, picture, write_clip


def test_they_come_in_order_of_time_and_are_exact(clip: Path) -> None:
    frames = crosslmm.sample(clip, at=[2.25, "#3", 0, 1.0])
    assert numbers_of(frames.pixels) == [0, 3, 10, 22]
    assert frames.indices == (0, 3, 10, 22)
    assert frames.times == pytest.approx((0.0, 0.3, 1.0, 2.2))
    assert frames.warnings == ()


def test_a_variable_rate_is_followed(tmp_path: Path) -> None:
    times = write_clip(tmp_path / "v.mp4", frames=6, times=[0, 40, 500, 540, 2000, 2100])
    shown = [max(n for n, begin in enumerate(times) if begin <= t) for t in (0.45, 1.9, 2.05)]
    assert list(crosslmm.sample(tmp_path / "v.mp4", at=(0.45, 1.9, 2.05)).indices) == shown


def test_a_frame_named_twice_is_used_once_and_said(clip: Path) -> None:
    frames = crosslmm.sample(clip, at=[1.0, "#10", 1.05, 2.0])
    assert frames.indices == (10, 20)
    (warning,) = frames.warnings
    assert "#10 (as 1 s), 1.05 s (as 1 s)" in warning


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ([3.0], "3 s is beyond the end of the video, which lasts 3 s"),
        (["#30"], "#30 is beyond the last frame, #29"),
    ],
)
def test_what_the_video_does_not_have_is_refused(clip: Path, at: list[Any], words: str) -> None:
    with pytest.raises(VideoError, match=words):
        crosslmm.sample(clip, at=at)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"at": []}, "names no frame"),
        ({"at": [-1]}, "-1 is neither"),
        ({"at": [float("nan")]}, "nan is neither"),
        ({"at": ["12"]}, "'12' is neither"),
        ({"at": ["#" + "9" * 30]}, "is neither"),
        ({"at": [True]}, "True is neither"),
        ({"at": [1], "frames": 3}, "`at` and `frames` exclude each other"),
        ({"at": [1], "start": 3}, "`at` and `start` exclude each other"),
        ({"at": [1], "seek": "keyframe"}, "`seek`"),
    ],
)
def test_what_means_nothing_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Sampling(**options)


def test_max_frames_thins_them_and_says_so(clip: Path) -> None:
    frames = crosslmm.sample(clip, at=range(3), max_frames=2)
    assert frames.indices == (0, 20)
    assert "2 of the 3 frames" in frames.warnings[0]


def test_it_survives_json() -> None:
    sampling = Sampling(at=[1.5, "#3"])
    assert Sampling(**json.loads(json.dumps(asdict(sampling)))) == sampling
    assert sampling.or_frames(8) == sampling
    assert sampling.most_frames == 2


def test_an_image_has_one_moment(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(picture(5)).save(tmp_path / "a.png")
    assert len(crosslmm.sample(tmp_path / "a.png", at=[0])) == 1
    with pytest.raises(VideoError, match="single image"):
        crosslmm.sample(tmp_path / "a.png", at=[1.0])
