"""Reading many videos and long ones: what it leaves in memory."""

import os
from pathlib import Path

import pytest

import crosslmm
from crosslmm.errors import VideoError
from crosslmm.video import open_stream, reader_statuses
from tests.support.clips import write_clip
from tests.support.threads import no_thread_within

HAS_DECORD = any(s.name == "decord" and s.version for s in reader_statuses())
needs_decord = pytest.mark.skipif(not HAS_DECORD, reason="decord is not installed here")
ROOT = Path(__file__).parents[2]

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")


def resident() -> float:
    """MiB of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@needs_proc
def test_many_videos_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, frames=20, width=320, height=240)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(path.read_bytes()[:2000])

    def rounds(count: int) -> None:
        for number in range(count):
            with open_stream(path, frames=4, size=(64, 64)) as stream:
                for taken, _ in enumerate(stream):
                    if number % 3 == 0 and taken == 1:
                        break
            with pytest.raises(VideoError):
                crosslmm.sample(broken)

    rounds(40)
    memory, files = resident(), len(os.listdir("/proc/self/fd"))
    rounds(100)
    assert resident() - memory < 20
    assert len(os.listdir("/proc/self/fd")) == files
    assert no_thread_within(5)


@needs_proc
def test_a_stream_never_holds_all_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, frames=200, width=640, height=480, options={"preset": "ultrafast"})
    crosslmm.sample(path, frames=4)
    before, most = resident(), 0.0
    with open_stream(path, frames=200) as stream:
        for frame in stream:
            most = max(most, resident() - before)
            assert frame.pixels.nbytes == 640 * 480 * 3
    assert most < 40  # all of them together are 176 MiB
