"""The one way to write a small clip: frames in, the same frames out, complete or absent."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

import crosslmm
from crosslmm.video.writing import default_codec, write_frames
from tests.support.clips import numbers_of, picture


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "libsvtav1"])
@pytest.mark.parametrize("fps", [8, 29.97])
def test_what_is_written_is_read_back(codec: str, fps: float, tmp_path: Path) -> None:
    options = {"libx265": {"x265-params": "log-level=none"}}.get(codec)
    frames = (picture(number, width=96, height=64) for number in range(12))
    write_frames(tmp_path / "clip.mp4", frames, fps=fps, codec=codec, options=options)
    read = crosslmm.sample(tmp_path / "clip.mp4")
    assert numbers_of(read.pixels) == list(range(12))
    np.testing.assert_allclose(read.times, np.arange(12) / fps, atol=1e-3)
    assert read.source.size == (64, 96)
    assert os.listdir(tmp_path) == ["clip.mp4"]


def test_options_reach_the_encoder_and_any_file_will_do() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    sizes = []
    for crf in ("10", "45"):
        file = io.BytesIO()
        write_frames(file, noise, fps=8, codec="libx264", options={"crf": crf})
        sizes.append(len(file.getvalue()))
    assert sizes[0] > 3 * sizes[1]


def test_an_error_on_the_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield picture(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_frames(tmp_path / "clip.mp4", frames(), fps=8)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"precious")
    (tmp_path / "clip.mp4").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="link"):
        write_frames(tmp_path / "clip.mp4", [picture(0)], fps=8)
    assert (tmp_path / "other").read_bytes() == b"precious"


def test_the_default_codec_is_one_that_every_reader_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_codec() == "libx264"
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    assert default_codec() == "mpeg4"
