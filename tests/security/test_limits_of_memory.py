"""What reading processes may hold, and what is said where it is not enough."""

import gc
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import crosslmm
from crosslmm.captioning import reading
from crosslmm.captioning.options import CaptionOptions
from crosslmm.captioning.pool import ClipReader
from crosslmm.captioning.reading import read_request
from crosslmm.errors import CrossLMMError, ReadingOutOfMemory, VideoError
from crosslmm.options import Sampling
from crosslmm.video import open_stream, stream
from crosslmm.video.file import VideoFile
from crosslmm.video.memory_limit import limit_memory, memory_left, out_of_memory, watch_memory
from crosslmm.video.source import _probing_codecs, open_container
from crosslmm.video.worker import JobFailed, WorkerDied, WorkerProcess
from tests.support.clips import numbers_of, write_clip
from tests.support.refusals import refusal


def grab(job: dict[str, Any]) -> Iterator[tuple[Any, bytes]]:
    """What a worker does here: take so many bytes."""
    yield len(bytearray(job["size"])), b""


@pytest.mark.skipif(sys.platform != "linux", reason="kept on Linux")
def test_a_reading_process_has_a_limit_of_memory() -> None:
    worker = WorkerProcess(f"{__name__}:grab", timeout=60.0, memory=200 << 20)
    worker.start()
    try:
        assert [reply.head for reply in worker.run({"size": 100 << 20})] == [100 << 20]
        for size in (300 << 20, 195 << 20):  # the latter with what the process itself takes
            with pytest.raises(JobFailed, match="MemoryError"):
                list(worker.run({"size": size}))
        assert [reply.head for reply in worker.run({"size": 100 << 20})] == [100 << 20]
    finally:
        worker.close()


def watched(job: dict[str, Any]) -> Iterator[tuple[Any, bytes]]:
    """What a worker does here, as on a system without such limits: take so many bytes, and wait."""
    watch_memory(job["limit"])
    taken = bytearray(job["size"])
    for _ in range(4):
        time.sleep(0.05)
        yield len(taken), b""


def test_where_no_limit_is_kept_a_reading_process_is_watched() -> None:
    worker = WorkerProcess(f"{__name__}:watched", timeout=60.0)
    worker.start()
    try:
        enough = {"limit": 1 << 30, "size": 100 << 20}
        assert [reply.head for reply in worker.run(enough)] == [100 << 20] * 4
        with pytest.raises(WorkerDied, match="the process died \\(out of memory\\)"):
            list(worker.run({"limit": 200 << 20, "size": 1200 << 20}))
    finally:
        worker.close()


def test_elsewhere_the_limit_is_a_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("crosslmm.video.memory_limit.sys.platform", "darwin")
    monkeypatch.setattr("crosslmm.video.memory_limit.watch_memory", asked.append)
    monkeypatch.setattr("crosslmm.video.memory_limit._memory_limit", None)
    assert memory_left() == float("inf")
    limit_memory(1 << 40)
    assert asked == [1 << 40]
    assert 0 < memory_left() < 1 << 40


@pytest.mark.skipif(sys.platform != "linux", reason="kept on Linux")
def test_a_reader_of_captions_ends_in_words_without_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosslmm.captioning.pool.READER_MEMORY", 200 << 20)
    Image.new("RGB", (9000, 9000)).save(tmp_path / "a.png")
    Image.new("RGB", (60, 60)).save(tmp_path / "b.png")
    reader = ClipReader(deadline=60)
    request = read_request(
        str(tmp_path / "a.png"), CaptionOptions(), size=(32, 32), resample=3, default_frames=4
    )
    try:
        with pytest.raises(VideoError, match=r"a\.png: out of memory while reading it"):
            list(reader.read(request))
        assert len(list(reader.read(replace(request, path=str(tmp_path / "b.png"))))) == 1
    finally:
        reader.close()


@pytest.mark.parametrize("segments", [None, 0.3])
def test_what_ran_out_of_memory_is_freed_before_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segments: float | None
) -> None:
    """A decoder is in a cycle with the error that it ended in; where it held all that a reader may hold,
    every later video failed."""
    write_clip(tmp_path / "a.mp4", frames=6)
    request = read_request(
        str(tmp_path / "a.mp4"),
        CaptionOptions(segments=segments),
        size=(32, 32),
        resample=3,
        default_frames=4,
    )
    held: list[weakref.ref[Any]] = []
    sample = reading.sample

    def first_fails(*arguments: Any, **options: Any) -> Any:
        if held:
            assert held[0]() is None
            return sample(*arguments, **options)
        decoder = np.zeros(10).view(Cyclic)
        decoder.itself = decoder
        held.append(weakref.ref(decoder))
        raise ReadingOutOfMemory("out of memory")

    monkeypatch.setattr(reading, "sample", first_fails)
    gc.disable()
    try:
        if segments is None:
            with pytest.raises(VideoError, match="out of memory"):
                list(reading.read_packed(asdict(request)))
            assert len(list(reading.read_packed(asdict(request)))) == 1
        else:
            clips = [head for head, _ in reading.read_packed(asdict(request))]
            assert [clip["problem"] for clip in clips] == ["out of memory", None]
    finally:
        gc.enable()


class Cyclic(np.ndarray):
    """An array that can hold itself."""


def test_the_frames_that_were_asked_for_come_on_top(tmp_path: Path) -> None:
    options = CaptionOptions(sampling=Sampling(frames=1000))
    request = read_request("a.mp4", options, size=(384, 384), resample=3, default_frames=4)
    assert request.frame_bytes == 1000 * 384 * 384 * 3


def test_large_frames_are_read_in_a_process_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "a.mp4", frames=40, width=96, height=64, rotation=90)
    options: Any = {"frames": 7, "size": (48, 32)}
    here = crosslmm.sample(tmp_path / "a.mp4", **options)
    monkeypatch.setattr("crosslmm.video.decoder.LARGE_PIXELS", 1000)
    started: list[int | None] = []
    start = WorkerProcess.start

    def counted(self: WorkerProcess) -> None:
        started.append(self.memory)
        start(self)

    monkeypatch.setattr(WorkerProcess, "start", counted)
    with open_stream(tmp_path / "a.mp4", **options) as stream:
        apart = list(stream)
    assert started == [1 << 30]
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in apart]), here.pixels)
    assert [(frame.index, frame.time) for frame in apart] == list(
        zip(here.indices, here.times, strict=True)
    )
    assert stream.source == here.source
    again = crosslmm.sample(tmp_path / "a.mp4", **options, plan=stream.plan)
    np.testing.assert_array_equal(again.pixels, here.pixels)
    assert crosslmm.sample(tmp_path / "a.mp4", frames=2).pixels.shape == (2, 64, 96, 3)


def test_what_is_wrong_with_large_frames_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "a.mp4", frames=40, width=96, height=64)
    monkeypatch.setattr("crosslmm.video.decoder.LARGE_PIXELS", 1000)
    assert "beyond the end" in refusal(tmp_path / "a.mp4", start=99)
    monkeypatch.setattr("crosslmm.video.apart.READER_MEMORY", 1 << 20)
    assert "out of memory" in refusal(tmp_path / "a.mp4") or sys.platform != "linux"


def test_frames_that_get_no_memory_are_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H.264's decoder says invalid data where no memory is left for a frame."""
    path = tmp_path / "a.mp4"
    front = {"movflags": "+faststart"}
    write_clip(path, frames=60, width=128, height=128, detail=30, container_options=front)
    data = bytearray(path.read_bytes())
    first, last = len(data) // 2, len(data) * 2 // 3
    data[first:last] = np.random.default_rng(0).bytes(last - first)
    path.write_bytes(data)
    frames = crosslmm.sample(path, frames=60, size=(32, 32))
    assert "damaged" in frames.warnings[0]
    monkeypatch.setattr("crosslmm.video.decoder.memory_left", lambda: 100)
    monkeypatch.setattr("crosslmm.video.stream.candidates", lambda reader: ["pyav", "other"])
    assert "out of memory while reading it" in refusal(path, frames=60)  # the other is not tried


def test_a_reader_that_failed_holds_no_frames_while_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.mp4"
    write_clip(path, frames=12)
    held: list[weakref.ref[Any]] = []
    make = stream.make_reader

    class Failing:
        warnings, bad_packets = (), 0

        def read(self) -> Iterator[Any]:
            pictures = np.zeros(10)
            held.append(weakref.ref(pictures))
            try:
                raise ValueError("damaged")
            except ValueError as error:
                raise VideoError("damaged") from error
            yield

    def chosen(reader: str, plan: Any, **options: Any) -> Any:
        if reader == "broken":
            return Failing()
        assert held[0]() is None
        return make("pyav", plan, **options | {"decoder": None})

    monkeypatch.setattr(stream, "candidates", lambda reader: ["broken", "pyav"])
    monkeypatch.setattr(stream, "make_reader", chosen)
    frames = crosslmm.sample(path, frames=4)
    assert len(frames) == 4
    assert "the reader broken could not decode it; pyav took over" in frames.warnings[0]


@pytest.mark.parametrize("kind", ["mp4", "ts", "h264"])
def test_no_frame_of_h264_is_decoded_to_open_a_file(kind: str, tmp_path: Path) -> None:
    """It is not known yet how large and how many they are."""
    path = tmp_path / f"a.{kind}"
    write_clip(path, frames=30, width=128, height=128)
    assert numbers_of(crosslmm.sample(path, frames=30, size=(64, 64)).pixels) == list(range(30))
    with VideoFile(str(path)) as file, open_container(file) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.width, context.height) == ("h264", 128, 128)
    allowed = _probing_codecs().split(",")
    assert {"mpeg2video", "hevc", "mjpeg"} <= set(allowed)
    assert not [name for name in allowed if "h264" in name]


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read of Linux")
def test_opening_a_stream_of_many_large_frames_takes_little_memory(tmp_path: Path) -> None:
    """Its size is not in the container, and each of its 16 references would be held."""
    path = tmp_path / "a.ts"
    options = {"preset": "ultrafast", "x264-params": "ref=16:bframes=0:keyint=100:scenecut=0"}
    write_clip(path, frames=18, width=4096, height=2304, options=options)
    code = "; ".join(
        [
            "import sys, crosslmm",
            "from crosslmm.video.probe import check_file",
            "check_file(sys.argv[1])",
            "print(next(line for line in open('/proc/self/status') if line[:5] == 'VmHWM'))",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[1]) < 120 << 10


def test_no_memory_for_a_thread_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "a.mp4", frames=3)

    def refuse(self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    assert "out of memory while reading it" in refusal(tmp_path / "a.mp4")


@pytest.mark.parametrize("limited", [True, False])
def test_an_array_that_the_decoder_left_no_memory_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    write_clip(tmp_path / "a.mp4", frames=3)
    empty = np.empty

    def refuse(shape: Any, *arguments: Any, **options: Any) -> Any:
        if np.size(shape) == 4:
            raise MemoryError
        return empty(shape, *arguments, **options)

    monkeypatch.setattr(np, "empty", refuse)
    monkeypatch.setattr("crosslmm.video.memory_limit._memory_limit", 1 << 30 if limited else None)
    words = "a reader may take 1,024 MiB" if limited else "3 frames of 64x64 need 0.0 GiB"
    with pytest.raises(CrossLMMError, match=words):
        crosslmm.sample(tmp_path / "a.mp4", frames=3)


def remember(job: dict[str, Any]) -> Iterator[tuple[Any, bytes]]:
    yield out_of_memory(), b""


def test_out_of_memory_tells_the_limit_there_was() -> None:
    assert out_of_memory() == "out of memory while reading it"
    for size in (1 << 30, 3 << 30):
        worker = WorkerProcess(f"{__name__}:remember", timeout=60.0, memory=size)
        worker.start()
        try:
            assert [reply.head for reply in worker.run({})] == [out_of_memory(size)]
        finally:
            worker.close()
    assert out_of_memory(3 << 30).endswith("a reader may take 3,072 MiB")
