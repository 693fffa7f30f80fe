"""Frames, times, bytes and kinds of files beyond the limits of `crosslmm.limits`, each told in words."""

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosslmm
from crosslmm.captioning.options import CaptionOptions
from crosslmm.captioning.reading import Clip, read_clips, read_request
from crosslmm.captioning.segments import equal_spans, spans_between
from crosslmm.errors import UsageError, VideoError
from crosslmm.options import Sampling
from crosslmm.video import file as video_file
from crosslmm.video import index, open_stream
from crosslmm.video.file import VideoFile
from crosslmm.video.index import PacketIndex
from crosslmm.video.sampling import choose
from tests.support.clips import number_of, numbers_of, write_clip
from tests.support.refusals import refusal


def test_any_number_of_frames_is_cut_to_what_the_video_has(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", frames=30)
    for options in ({"frames": 10**9}, {"frames": 10**40}, {"fps": 1e30}, {"fps": 1e9, "end": 2.5}):
        frames = crosslmm.sample(tmp_path / "a.mp4", size=(32, 32), **options)  # type: ignore[arg-type]
        assert numbers_of(frames.pixels) == list(range(25 if "end" in options else 30))


def clips_of(path: Path, *, frames: int, size: tuple[int, int]) -> list[Clip]:
    """What a caption reader gives of a tenth of a second each."""
    options = CaptionOptions(segments=0.1, sampling=Sampling(frames=frames))
    request = read_request(str(path), options, size=size, resample=3, default_frames=4)
    return list(read_clips(request))


def far_apart(seconds: int, frames: int = 2) -> PacketIndex:
    return PacketIndex(
        pts=np.linspace(0, seconds, frames).astype(np.int64),
        keys=np.arange(frames),
        time_base=Fraction(1),
        tail=1,
    )


def test_frames_far_apart_are_not_filled_with_nothing() -> None:
    centuries = far_apart(10**12)
    for options in ({"fps": 1.0}, {"fps": 1.0, "max_frames": 10**9}, {"frames": 10**12}):
        targets, _ = choose(centuries, Sampling(**options), path="a.mp4")  # type: ignore[arg-type]
        assert [target.index for target in targets] == [0, 1]


def test_two_frames_far_apart_at_one_frame_a_second(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv", times=[0, 2_000_000_000])
    assert len(crosslmm.sample(tmp_path / "a.mkv", fps=1)) == 2


@pytest.mark.parametrize("time", [1 << 50, (1 << 63) - 1])
def test_times_that_no_video_has_are_counted_instead(time: int, tmp_path: Path) -> None:
    """Seconds that float64 cannot tell apart made parts that ended before they began."""
    write_clip(tmp_path / "a.ivf", frames=12, codec="libvpx", options={"auto-alt-ref": "0"})
    data = (tmp_path / "a.ivf").read_bytes()
    at = 32
    for _ in range(11):
        at += 12 + int.from_bytes(data[at : at + 4], "little")
    (tmp_path / "b.ivf").write_bytes(data[: at + 4] + time.to_bytes(8, "little") + data[at + 12 :])
    clips = clips_of(tmp_path / "b.ivf", frames=4, size=(64, 64))
    frames = [frame for clip in clips if clip.frames for frame in clip.frames.pixels]
    assert numbers_of(frames) == list(range(12))
    assert clips[-1].duration == pytest.approx(1.2)


def test_more_source_frames_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "a.mp4", frames=30)
    monkeypatch.setattr(index, "MAX_SOURCE_FRAMES", 30)
    assert len(crosslmm.sample(tmp_path / "a.mp4", frames=3)) == 3
    monkeypatch.setattr(index, "MAX_SOURCE_FRAMES", 29)
    assert "over 29 frames" in refusal(tmp_path / "a.mp4", frames=3)


def test_segments_without_a_frame_of_their_own_get_no_caption() -> None:
    times = np.array([0.0, 0.05, 10**9])
    spans = equal_spans(10**9 + 0.08, 0.1, times)
    assert [round(start, 1) for start, _ in spans] == [0.0, 10**9]
    assert spans[-1][1] == 10**9 + 0.08
    assert equal_spans(30.0, 10.0, np.array([0.0, 10.0, 29.9])) == [(0, 10), (10, 20), (20, 30)]


def test_scenes_without_a_frame_of_their_own_get_no_caption() -> None:
    times = np.arange(10) / 10
    assert spans_between([0.0, 0.31, 0.35, 0.6, 2.0], 1.0, times) == [
        *((0.0, 0.31), (0.35, 0.6), (0.6, 1.0)),
    ]
    assert spans_between([], 1.0, times) == [(0.0, 1.0)]


def test_more_segments_than_are_captioned() -> None:
    times = np.arange(100_001, dtype=np.float64)
    assert len(equal_spans(100_000.0, 1.0, times[:-1])) == 100_000
    with pytest.raises(UsageError, match=r"100,001 parts .* at most 100,000 .* longer `segments`"):
        equal_spans(100_001.0, 1.0, times)


def test_captioned_segments_are_those_with_frames(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mkv", times=[0, 100, 200, 2_000_000_000], gop=1)
    clips = clips_of(tmp_path / "a.mkv", frames=2, size=(32, 32))
    assert [clip.start for clip in clips] == pytest.approx([0, 0.1, 0.2, 2_000_000])
    assert [clip.count for clip in clips] == [4] * 4
    assert [number_of(clip.frames.pixels[0]) for clip in clips if clip.frames] == [0, 1, 2, 3]


def test_what_is_read_without_a_frame_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of gigabytes, most of them a hole in the file."""
    write_clip(tmp_path / "a.mkv", frames=30, width=256, height=256, detail=60)
    monkeypatch.setattr(video_file, "MAX_FRAME_BYTES", 20_000)
    assert "without a frame" in refusal(tmp_path / "a.mkv")


def test_a_hole_without_an_end(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.ts", frames=20)
    with open(tmp_path / "a.ts", "r+b") as file:
        file.truncate(100 << 30)
    assert "without a frame" in refusal(tmp_path / "a.ts")


def test_reading_ends_at_the_deadline_and_when_nobody_waits(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1000))
    with VideoFile(str(tmp_path / "a"), deadline=1e-9) as file:
        assert file.read(10) == b""
        with pytest.raises(VideoError, match="raise `deadline`"):
            file.check()
    gone = [False]
    with VideoFile(str(tmp_path / "a"), cancelled=lambda: gone[0]) as file:
        assert file.read(10) == bytes(10)
        gone[0] = True
        assert file.read(10) == b""


def test_what_was_checked_is_what_is_read(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", frames=5)
    with VideoFile(str(tmp_path / "a.mp4")) as file:
        os.remove(tmp_path / "a.mp4")
        os.mkfifo(tmp_path / "a.mp4")
        assert file.read(8)[4:] == b"ftyp"


@pytest.mark.parametrize("reader", ["pyav", "decord"])
def test_a_file_that_is_replaced_before_it_is_opened_again(reader: Any, tmp_path: Path) -> None:
    if reader not in [s.name for s in crosslmm.video.reader_statuses() if s.version]:
        pytest.skip(f"{reader} is not installed")
    write_clip(tmp_path / "a.mp4", frames=5)
    write_clip(tmp_path / "b.mp4", frames=5)
    with open_stream(tmp_path / "a.mp4", frames=1) as stream:
        plan = stream.plan
    assert numbers_of(crosslmm.sample(tmp_path / "a.mp4", reader=reader, plan=plan).pixels)
    os.replace(tmp_path / "b.mp4", tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="was replaced while it was read"):
        crosslmm.sample(tmp_path / "a.mp4", reader=reader, plan=plan)


def test_only_containers_of_videos_are_opened(tmp_path: Path) -> None:
    """FFmpeg knows this one, and shows it as a video."""
    text = b"SAUCE00" + bytes(121)
    (tmp_path / "a.bin").write_bytes(bytes(160 * 25) + text)
    (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 W16 H16 F1:1\nFRAME\n" + bytes(384))
    assert "not a video" in refusal(tmp_path / "a.bin")
    assert len(crosslmm.sample(tmp_path / "a.y4m")) == 1


def test_the_whole_time_for_a_file(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", frames=60)
    message = refusal(tmp_path / "a.mp4", file_timeout=1e-6)
    assert message.endswith("reading took over 1e-06 s; raise `file_timeout`")
    request = read_request(
        str(tmp_path / "a.mp4"),
        CaptionOptions(segments=1, sampling=Sampling(frames=2, file_timeout=1e-6)),
        size=(32, 32),
        resample=3,
        default_frames=4,
    )
    with pytest.raises(VideoError, match="reading took over 1e-06 s; raise `file_timeout`"):
        list(read_clips(request))


def test_limits_are_options_of_the_commands(clip: Path, run: Any) -> None:
    done = run("ask", clip, "what?", "--max-pixels", "100")
    assert done.err.endswith("the limit is 100; raise --max-pixels\n")
    done = run("ask", clip, "what?", "--file-timeout", "0.000001", "--model", "demo")
    assert done.err.endswith("raise --file-timeout\n")
    assert run("ask", clip, "what?", "--file-timeout", "0").code == 2


def test_readers_share_the_deadline(clip: Path) -> None:
    """What no reader gets a frame of ends at the deadline, and not at one deadline per reader."""
    with open_stream(clip, frames=3, deadline=60) as stream:
        readers = 1 + len(stream._readers)
        assert stream._running is not None
        assert stream._running.deadline == pytest.approx(60 / readers)
    with open_stream(clip, frames=3, deadline=60, reader="pyav") as stream:
        assert stream._running is not None
        assert stream._running.deadline == 60


def test_defaults_are_numbers_in_the_help(run: Any) -> None:
    done = run("caption", "--help")
    assert "[default: 14400]" in " ".join(done.out.split())
    assert "[default: 178956970" in " ".join(done.out.split())
