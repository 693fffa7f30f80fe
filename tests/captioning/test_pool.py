"""The readers' side: processes that hang or die, and how far they read ahead."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crosslmm.captioning.pool import ClipReader, ReaderPool
from crosslmm.captioning.reading import Clip, ReadRequest
from crosslmm.errors import VideoError
from tests.support.captioning import request


@pytest.fixture
def reader() -> Iterator[ClipReader]:
    reader = ClipReader(deadline=0.5, grace=2.0)
    yield reader
    reader.close()


def test_a_reading_process_that_hangs_is_killed_and_the_next_video_read(
    clips: Path, reader: ClipReader
) -> None:
    assert len(list(reader.read(request(clips / "a.mp4")))) == 1
    assert reader.pid is not None
    os.kill(reader.pid, signal.SIGSTOP)
    with pytest.raises(VideoError, match=r"b\.mp4: decoding stalled for 2.5 s and was stopped"):
        list(reader.read(request(clips / "b.mp4")))
    assert len(list(reader.read(request(clips / "b.mp4")))) == 1


def test_a_reading_process_that_dies_fails_its_video_alone(clips: Path, reader: ClipReader) -> None:
    reading = reader.read(request(clips / "b.mp4", segments=0.5))
    next(reading)
    assert reader.pid is not None
    os.kill(reader.pid, signal.SIGKILL)
    with pytest.raises(VideoError, match=r"b\.mp4: the decoding process died \(signal 9\)"):
        list(reading)
    assert len(list(reader.read(request(clips / "a.mp4")))) == 1


def test_a_video_that_is_read_in_part_does_not_mix_with_the_next(
    clips: Path, reader: ClipReader
) -> None:
    reading = reader.read(request(clips / "b.mp4", segments=0.5))
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert [clip.path for clip in reader.read(request(clips / "a.mp4"))] == [str(clips / "a.mp4")]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_readers_stay_a_bounded_way_ahead_and_end_when_closed(clips: Path) -> None:
    asked: list[int] = []

    def requests() -> Iterator[ReadRequest]:
        for number in range(40):
            asked.append(number)
            yield request(clips / "a.mp4")

    pool = ReaderPool(requests(), readers=1, ahead=3, deadline=10)
    assert asked == []
    pool.start()
    (first,) = pool.gather(1)
    assert first.path == str(clips / "a.mp4")
    assert first.frames is not None
    for given in range(1, 9):
        # Beside what was given out and what is held, one clip waits to be held.
        until = time.monotonic() + 100
        while len(asked) < given + 4 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(asked) == given + 4
        assert pool.buffered == (3, 3 * first.frames.pixels.nbytes)
        pool.gather(1)
    pids = pool.pids
    pool.close()
    assert len(pids) == 1
    assert not any(map(is_running, pids))
    assert len(asked) <= 14


def test_readers_stay_within_the_bytes_ahead(clips: Path) -> None:
    requests = (request(clips / "a.mp4") for _ in range(9))
    pool = ReaderPool(requests, readers=1, ahead=9, deadline=10, ahead_bytes=1)
    pool.start()
    sizes = []
    while pool.gather(1):
        time.sleep(0.1)
        sizes.append(pool.buffered[0])
    pool.close()
    assert len(sizes) == 9
    assert max(sizes) == 1


def test_a_pool_gives_every_clip_and_every_error(clips: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"nothing")
    paths = [clips / "a.mp4", bad, clips / "b.mp4"]
    pool = ReaderPool(
        (request(path, segments=1) for path in paths), readers=2, ahead=4, deadline=10
    )
    pool.start()
    gathered: list[Clip] = []
    while got := pool.gather(2):
        gathered += got
    pool.close()
    errors = {Path(clip.path).name: clip.problem for clip in gathered if not clip.count}
    assert errors == {"bad.mp4": f"{bad}: this is text, not a video"}
    assert [clip.number for clip in gathered if clip.path == str(clips / "a.mp4")] == [0]
    clips_of_b = [clip for clip in gathered if clip.path == str(clips / "b.mp4")]
    assert [(clip.number, clip.start, clip.end) for clip in clips_of_b] == [
        (0, 0.0, 1.0), (1, 1.0, 2.0), (2, 2.0, 3.0),
    ]  # fmt: skip
    assert clips_of_b[1].frames is not None
    assert all(1.0 <= time < 2.0 for time in clips_of_b[1].frames.times)
