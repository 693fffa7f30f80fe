"""decord and torchcodec open names: that of the descriptor that was checked, and no playlists."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import crosslmm
from crosslmm.errors import VideoError
from crosslmm.video import open_stream, reader_statuses
from crosslmm.video.prefetch import Heartbeat
from crosslmm.video.readers import job
from crosslmm.video.readers.job import DecodeJob
from crosslmm.video.readers.process import ProcessReader
from crosslmm.video.worker import WorkerProcess
from tests.support.clips import number_of, write_clip

HAS_DECORD = any(s.name == "decord" and s.version for s in reader_statuses())
needs_decord = pytest.mark.skipif(not HAS_DECORD, reason="decord is not installed here")


def read(job: DecodeJob) -> Iterator[tuple[int, Any]]:
    """A reader that opens a file by its name, as FFmpeg does."""
    with open(job.opened, "rb") as file:
        raise job.refuse("this reader", f"read {file.read(8)[4:]!r}")
    yield


def swapped_decode(fields: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """`decode`, while somebody puts another file in the place of the one that was checked."""
    check = job.check_identity

    def check_and_swap(*arguments: Any) -> None:
        check(*arguments)
        os.replace(fields["path"] + ".other", fields["path"])

    job.check_identity = check_and_swap
    try:
        yield from job.decode(fields)
    finally:
        job.check_identity = check


def fields_of(path: Path, function: str) -> dict[str, Any]:
    with open_stream(path, frames=2) as stream:
        reader = ProcessReader(stream.plan, function, heartbeat=Heartbeat())
    return asdict(reader._job())


@pytest.mark.skipif(not os.path.exists("/dev/fd/0"), reason="there are no names of descriptors")
def test_a_file_that_is_swapped_after_it_was_checked_is_not_opened(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", frames=4)
    (tmp_path / "a.mp4.other").write_bytes(b"other" * 9)
    with pytest.raises(VideoError, match="read b'ftyp'"):
        list(swapped_decode(fields_of(tmp_path / "a.mp4", f"{__name__}:read")))
    assert (tmp_path / "a.mp4").read_bytes() == b"other" * 9


@needs_decord
@pytest.mark.skipif(not os.path.exists("/dev/fd/0"), reason="there are no names of descriptors")
def test_decord_reads_the_file_that_was_checked(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", frames=4)
    write_clip(tmp_path / "b.mp4", frames=9)
    os.rename(tmp_path / "b.mp4", tmp_path / "a.mp4.other")
    fields = fields_of(tmp_path / "a.mp4", "crosslmm.video.readers.decord:read")
    worker = WorkerProcess(f"{__name__}:swapped_decode", timeout=60.0)
    worker.start()
    try:
        frames = [r.payload.reshape(r.head["shape"]) for r in worker.run(fields)]
    finally:
        worker.close()
    assert [number_of(frame) for frame in frames] == fields["indices"]


@needs_decord
@pytest.mark.parametrize("kind", ["m4v", "mjpeg", "dv"])
def test_no_playlist_in_front_of_a_video_is_followed(tmp_path: Path, kind: str) -> None:
    """FFmpeg goes on to the video in it, decord to the file that it names."""
    write_clip(tmp_path / "other.ts", frames=12)
    options: dict[str, Any] = {
        "m4v": {"codec": "mpeg4"},
        "mjpeg": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
        "dv": {"codec": "dvvideo", "width": 720, "height": 576, "fps": 25},
    }[kind]
    write_clip(tmp_path / f"a.{kind}", frames=12, **options)
    named = os.fsencode(tmp_path / "other.ts")
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n" + named + b"\n#EXT-X-ENDLIST\n"
    (tmp_path / "a.mp4").write_bytes(playlist + (tmp_path / f"a.{kind}").read_bytes())
    assert len(crosslmm.sample(tmp_path / "a.mp4", frames=2, reader="pyav")) == 2
    with pytest.raises(VideoError, match="decord is not used for files of this kind"):
        crosslmm.sample(tmp_path / "a.mp4", frames=2, reader="decord")
