"""Frames that show the same as the last one that differed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import crosslmm
from crosslmm.errors import UsageError
from crosslmm.options import Sampling
from crosslmm.video.still import is_still
from crosslmm.video.writing import write_frames


def is_still_by_loops(frame: np.ndarray, last: np.ndarray, threshold: float) -> bool:
    height, width, colours = frame.shape
    for top in range(0, height, 16):
        for left in range(0, width, 16):
            for colour in range(colours):
                here = np.s_[top : top + 16, left : left + 16, colour]
                if np.abs(frame[here].astype(float) - last[here]).mean() > threshold:
                    return False
    return True


@pytest.mark.parametrize("shape", [(48, 64, 3), (37, 50, 3), (5, 9, 3)])
def test_blocks_are_compared_as_by_plain_loops(shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(0)
    found = set()
    for _ in range(40):
        last = random.integers(0, 256, shape, np.uint8)
        frame = last.copy()
        row, column = random.integers(shape[0]), random.integers(shape[1])
        frame[row : row + 4, column : column + 4, random.integers(3)] ^= 63
        for threshold in (0.0, 0.5, 1.0, 2.0, 4.0):
            still = is_still(frame, last, threshold)
            assert still == is_still_by_loops(frame, last, threshold)
            found.add(still)
    assert found == {True, False}


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides of which the second has one more letter, as x264 writes them: refined from frame to
    frame."""
    path = tmp_path_factory.mktemp("slides") / "slides.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    first = Image.fromarray(noise).resize((256, 192), Image.Resampling.BICUBIC)
    second = first.copy()
    ImageDraw.Draw(second).text((120, 90), "A", fill="white", font_size=12)
    write_frames(path, (np.asarray(first if n < 20 else second) for n in range(40)), fps=10)
    return path


def test_a_slide_is_one_picture_and_a_letter_makes_another(slides: Path) -> None:
    as_they_are = crosslmm.sample(slides, frames=20).pixels
    frames = crosslmm.sample(slides, frames=20, static_threshold=2)
    assert len({pixels.tobytes() for pixels in as_they_are}) > 2
    distinct = [pixels.tobytes() for pixels in frames.pixels]
    assert distinct == [distinct[0]] * 10 + [distinct[10]] * 10
    assert distinct[0] != distinct[10]
    assert np.array_equal(frames.pixels[[0, 10]], as_they_are[[0, 10]])


@pytest.mark.parametrize("threshold", [-1, 256, float("nan")])
def test_a_threshold_that_means_nothing_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match=r"`static_threshold` must be a number from 0 to 255"):
        Sampling(static_threshold=threshold)
