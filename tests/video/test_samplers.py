"""Frames chosen by what they show, on clips whose shots are known."""

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import crosslmm
from crosslmm.errors import VideoError
from crosslmm.options import Sampler, Sampling
from crosslmm.synthetic import write_needles
from crosslmm.video import Frame, open_stream
from crosslmm.video.index import PacketIndex
from crosslmm.video.packet_sizes import choose_by_size
from crosslmm.video.samplers import by_scene, diverse
from crosslmm.video.sampling import choose
from crosslmm.video.writing import write_frames
from tests.video.test_cuts import moving

LENGTHS = [100, 10, 60, 8, 22]  # of the shots; two are too short for an even sample of eight
EDGES = [0, *np.cumsum(LENGTHS).tolist()]


@pytest.fixture(scope="module")
def shots() -> np.ndarray:
    return np.concatenate([moving(n, length, speed=1) for n, length in enumerate(LENGTHS)])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, shots: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("shots") / "shots.mp4"
    write_frames(path, iter(shots), fps=10)
    return path


def shots_of(indices: tuple[int, ...] | list[int]) -> list[int]:
    """How many of them lie in each shot."""
    return [sum(start <= each < end for each in indices) for start, end in pairwise(EDGES)]


def test_scene_takes_some_of_each_shot_by_its_length(clip: Path) -> None:
    even = crosslmm.sample(clip, frames=8, seek="exact")
    assert 0 in shots_of(even.indices)
    chosen = crosslmm.sample(clip, frames=8, sampler="scene", seek="exact")
    assert shots_of(chosen.indices) == [3, 1, 2, 1, 1]
    assert chosen.times == pytest.approx([index / 10 for index in chosen.indices])
    assert chosen.pixels.shape == (8, 36, 64, 3)
    reference = crosslmm.sample(clip, at=[f"#{index}" for index in chosen.indices])
    assert np.array_equal(chosen.pixels, reference.pixels)


def test_codec_takes_the_largest_frame_of_each_slice_as_by_plain_loops() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        frames, slices = int(random.integers(2, 60)), int(random.integers(1, 12))
        times = np.sort(random.choice(1000, frames, replace=False))
        index = PacketIndex(
            pts=times,
            keys=np.flatnonzero(random.random(frames) < 0.2),
            time_base=Fraction(1),
            tail=1,
            sizes=random.integers(0, 9, frames).astype(np.uint32),
        )
        first = int(random.integers(frames))
        length = index.duration / slices
        middles = (np.arange(slices) + 0.5) * length
        expected = []
        for number in range(slices):
            best = None
            for row in range(first, frames):
                of_slice = min(int(index.times[row] // length), slices - 1)
                kind = [i for i in range(frames) if (i in index.keys) == (row in index.keys)]
                score = index.sizes[row] / max(np.median(index.sizes[kind]), 1)
                if of_slice == number and (best is None or score > best[0]):
                    best = score, row
            expected += [] if best is None else [best[1]]
        chosen = choose_by_size(index, first, frames - first, middles, path="a.mp4")
        assert chosen == expected


def test_codec_shows_what_is_seen_for_four_frames(tmp_path: Path) -> None:
    row = json.loads(
        write_needles(tmp_path, clips=1, seed=3, lengths=(256,)).read_text().splitlines()[0]
    )
    video = tmp_path / row["video"]

    def shows(sampler: Sampler) -> bool:
        frames = crosslmm.sample(video, frames=12, sampler=sampler)
        assert len(frames) == 12
        return any(row["start"] <= time < row["end"] for time in frames.times)

    assert (shows("uniform"), shows("codec")) == (False, True)


def test_codec_needs_the_sizes_of_frames() -> None:
    index = PacketIndex(pts=np.arange(9), keys=np.array([0]), time_base=Fraction(1), tail=1)
    with pytest.raises(VideoError, match=r"a\.mp4: the sizes of its frames are not known"):
        choose(index, Sampling(frames=3, sampler="codec"), path="a.mp4")


def test_diverse_misses_no_shot_and_gives_each_frame_once(clip: Path) -> None:
    chosen = crosslmm.sample(clip, frames=10, sampler="diverse", seek="exact")
    assert len(set(chosen.indices)) == 10
    assert list(chosen.indices) == sorted(chosen.indices)
    assert all(shots_of(chosen.indices))


@pytest.mark.parametrize(
    ("sampler", "reader"), [("scene", "pyav"), ("diverse", "pyav"), ("scene", "decord")]
)
def test_the_range_the_reader_and_a_plan_that_is_there_are_kept(
    clip: Path, sampler: str, reader: str
) -> None:
    if reader == "decord":
        pytest.importorskip("decord")
    options = Sampling(frames=4, start=10, end=17, sampler=sampler, reader=reader)  # type: ignore[arg-type]
    with open_stream(clip, options, size=(18, 32)) as stream:
        frames = list(stream)
        assert stream.count == len(frames) == 4
        assert stream.source.reader == reader
    assert all(10 <= frame.time < 17 for frame in frames)
    assert frames[0].pixels.shape == (18, 32, 3)
    again = crosslmm.sample(clip, options, plan=stream.plan)
    assert again.indices == tuple(frame.index for frame in frames)


def test_more_frames_than_there_are_come_once_each(clip: Path, tmp_path: Path) -> None:
    assert len(crosslmm.sample(clip, frames=500, sampler="scene")) == EDGES[-1]
    still = np.zeros((20, 32, 32, 3), np.uint8)
    write_frames(tmp_path / "still.mp4", iter(still), fps=10)
    for sampler in ("scene", "diverse"):
        chosen = crosslmm.sample(tmp_path / "still.mp4", frames=7, sampler=sampler)  # type: ignore[arg-type]
        assert len(set(chosen.indices)) == 7


def test_fewer_frames_than_shots_are_of_the_longest(shots: np.ndarray) -> None:
    frames = [Frame(each, row, row / 10) for row, each in enumerate(shots)]
    assert shots_of(by_scene(frames, 3)) == [1, 0, 1, 0, 1]
    assert shots_of(by_scene(frames, len(frames))) == LENGTHS
    assert len(set(diverse(frames, len(frames)))) == len(frames)


def test_where_they_make_no_sense_they_are_refused(clip: Path) -> None:
    with pytest.raises(crosslmm.UsageError, match="`at` and `sampler` exclude"):
        Sampling(at=[1.0], sampler="scene")
    with pytest.raises(crosslmm.UsageError, match="`sampler` must be one of uniform, scene"):
        Sampling(sampler="random")  # type: ignore[arg-type]
    with pytest.raises(crosslmm.UsageError, match="`sampler` codec takes exact frames"):
        Sampling(sampler="codec", seek="keyframe")
    with pytest.raises(crosslmm.UsageError, match="`sampler` is not for captioning"):
        list(crosslmm.caption(clip, sampling=Sampling(sampler="scene")))
    assert "sampler" not in Sampling().settings
    assert Sampling(sampler="scene").settings["sampler"] == "scene"
