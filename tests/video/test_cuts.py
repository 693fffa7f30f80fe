"""Cuts are found where they are, and nowhere else."""

import numpy as np
import pytest

from crosslmm.video import Frame
from crosslmm.video.cuts import Differences

RATE = 10.0


def moving(seed: int, count: int, *, speed: int = 2) -> np.ndarray:
    """A shot in which the camera moves along a wall: (count, 36, 64, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 20, 3), np.uint8)
    wall = coarse.repeat(12, axis=0).repeat(32, axis=1)
    return np.stack([wall[:, speed * n : speed * n + 64] for n in range(count)])


def differences(*shots: np.ndarray) -> Differences:
    pixels = np.concatenate(shots)
    return Differences.of(Frame(each, row, row / RATE) for row, each in enumerate(pixels))


@pytest.mark.parametrize("speed", [0, 1, 4])
def test_cuts_between_moving_shots(speed: int) -> None:
    lengths = [12, 7, 30, 5, 9]
    found = differences(*(moving(n, length, speed=speed) for n, length in enumerate(lengths)))
    assert found.cuts().tolist() == np.cumsum(lengths)[:-1].tolist()


def test_no_cut_in_motion_noise_or_a_fade() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 36, 64, 3), np.uint8)
    assert not len(differences(noise).cuts())
    assert not len(differences(moving(0, 60, speed=6)).cuts())
    share = np.linspace(0, 1, 30)[:, None, None, None]
    fade = (moving(1, 30, speed=0) * (1 - share) + moving(2, 30, speed=0) * share).astype(np.uint8)
    assert not len(differences(moving(1, 20, speed=0), fade, moving(2, 20, speed=0)).cuts())


def test_a_short_shot_is_none() -> None:
    found = differences(moving(0, 20), moving(1, 3), moving(2, 20), moving(3, 3))
    assert found.cuts(shortest=0.5).tolist() == [20]
    assert found.times[found.cuts(shortest=0.5)] == pytest.approx([2.0])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_frames_have_no_cut(count: int) -> None:
    assert not len(
        differences(moving(0, count) if count else np.zeros((0, 4, 4, 3))).cuts(shortest=0.5)
    )
