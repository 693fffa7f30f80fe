"""Files that cost more than a file may: the limits of `crosslmm.limits`, each told with its number."""

import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import crosslmm
from crosslmm.captioning.options import CaptionOptions
from crosslmm.captioning.pool import ClipReader
from crosslmm.captioning.reading import read_clips, read_request
from crosslmm.captioning.segments import equal_spans, spans_between
from crosslmm.errors import UsageError, VideoError
from crosslmm.limits import MAX_PIXELS
from crosslmm.options import Sampling
from crosslmm.video import file as video_file
from crosslmm.video import index, open_stream
from crosslmm.video.file import VideoFile
from crosslmm.video.index import PacketIndex
from crosslmm.video.probe import check_file
from crosslmm.video.sampling import choose
from crosslmm.video.source import _probing_codecs, open_container
from crosslmm.video.worker import JobFailed, WorkerProcess, out_of_memory
from tests.support.clips import number_of, numbers_of, picture, write_clip
from tests.support.tiny import text_config, tiny_checkpoint


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def gif(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("P", (2, 2)).save(buffer, "GIF")
    data = bytearray(buffer.getvalue())
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + head[:12] + head[12:]


def jpeg(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def webp(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (16, 16)).save(buffer, "WEBP", lossless=True)
    data = bytearray(buffer.getvalue())
    at = data.index(b"VP8L") + 9
    bits = int.from_bytes(data[at : at + 4], "little") & ~((1 << 28) - 1)
    data[at : at + 4] = (bits | (width - 1) | (height - 1) << 14).to_bytes(4, "little")
    return bytes(data)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(VideoError) as caught:
        crosslmm.sample(path, size=(32, 32), **options)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", png(20_000, 20_000)),
        ("a.gif", gif(16_000, 16_000)),
        ("a.bmp", bmp(20_000, 20_000)),
        ("a.jpg", jpeg(20_000, 20_000)),
    ],
)
def test_a_header_that_promises_too_many_pixels(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    for message in (refusal(tmp_path / name), _checked(tmp_path / name)):
        assert f"the limit is {MAX_PIXELS:,}; raise `max_pixels`" in message


def test_a_webp_of_too_many_pixels(tmp_path: Path) -> None:
    """Pillow refuses it on its own, by the same limit, whatever `max_pixels` is."""
    (tmp_path / "a.webp").write_bytes(webp(16_000, 16_000))
    assert f"limit of {MAX_PIXELS} pixels" in refusal(tmp_path / "a.webp")


def _checked(path: Path) -> str:
    """What `ask` says before it loads a model."""
    with pytest.raises(VideoError) as caught:
        check_file(str(path))
    return str(caught.value)


def test_the_limit_of_pixels_is_an_option(tmp_path: Path) -> None:
    Image.new("RGB", (60, 50)).save(tmp_path / "a.png")
    write_clip(tmp_path / "a.mp4", frames=3, width=64, height=48)
    for name, pixels in (("a.png", 3000), ("a.mp4", 64 * 48)):
        assert len(crosslmm.sample(tmp_path / name, max_pixels=pixels)) >= 1
        message = refusal(tmp_path / name, max_pixels=pixels - 1)
        assert f"{pixels:,} pixels" in message
        assert f"the limit is {pixels - 1:,}" in message


def test_pixels_are_counted_after_the_pixel_aspect_ratio(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", frames=3, width=64, height=48, aspect=Fraction(2))
    assert "(128x48)" in refusal(tmp_path / "a.mp4", max_pixels=64 * 48)


def test_pillow_s_own_limit_is_not_touched(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    (tmp_path / "a.png").write_bytes(png(20_000, 20_000))
    assert "image cannot be read" in refusal(tmp_path / "a.png", max_pixels=500_000_000)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("shape", [(16 * 40 + 1, 40), (40, 16 * 40 + 1)])
def test_frames_beyond_one_to_sixteen_are_refused(shape: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", shape).save(tmp_path / "a.png")
    assert "thinner than 1 to 16" in refusal(tmp_path / "a.png")
    Image.new("RGB", (640, 40)).save(tmp_path / "a.png")
    assert len(crosslmm.sample(tmp_path / "a.png")) == 1


def test_a_stream_that_grows_past_the_limit_on_the_way(tmp_path: Path) -> None:
    """The container's header says one size, and the video's own data a larger one later."""
    write_clip(tmp_path / "a.ts", frames=20)
    write_clip(tmp_path / "b.ts", times=[2000 + 100 * n for n in range(20)], width=256, height=256)
    joined = tmp_path / "joined.ts"
    joined.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with suppress(VideoError):
        frames = crosslmm.sample(joined, frames=40, max_pixels=128 * 128, size=(64, 64))
        assert max(numbers_of(frames.pixels)) < 20
    assert len(crosslmm.sample(joined, frames=40, size=(64, 64))) > 20


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "gif"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_large_image_is_reduced_to_the_same_image(
    kind: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (kind, mode) == ("jpg", "P"):
        pytest.skip("JPEG has no palette")
    path = tmp_path / f"a.{kind}"
    image = Image.fromarray(picture(901, width=960, height=640))
    image.convert(mode).save(path)
    before = crosslmm.sample(path, size=(64, 96)).pixels
    monkeypatch.setattr("crosslmm.video.image.LARGE_PIXELS", 1000)
    monkeypatch.setattr("crosslmm.video.converter.LARGE_PIXELS", 1000)
    after = crosslmm.sample(path, size=(64, 96))
    assert after.source.size == (640, 960)
    if mode != "L":
        assert number_of(after.pixels[0]) == 901
    assert np.abs(after.pixels.astype(int) - before).mean() < 3


@pytest.mark.parametrize("tag", [1, 3, 6, 8])
def test_a_large_photograph_is_decoded_small_and_upright(
    tag: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
    back[8] = Image.Transpose.ROTATE_270
    upright = Image.fromarray(picture(901, width=960, height=640))
    exif = Image.Exif()
    exif[0x0112] = tag
    stored = upright.transpose(back[tag]) if tag in back else upright
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    monkeypatch.setattr("crosslmm.video.image.LARGE_PIXELS", 1000)
    with open_stream(tmp_path / "a.jpg", size=(64, 96)) as stream:
        (frame,) = list(stream)
        read = stream.plan.probe.image
    assert read is not None
    assert (128, 192) <= read.shape[:2] < (640, 960)
    assert number_of(frame.pixels) == 901
    assert stream.source.size == (640, 960)


def test_a_large_frame_is_scaled_while_it_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "a.mp4", frames=6, width=640, height=480, rotation=90)
    before = crosslmm.sample(tmp_path / "a.mp4", size=(96, 64))
    monkeypatch.setattr("crosslmm.video.converter.LARGE_PIXELS", 1000)
    after = crosslmm.sample(tmp_path / "a.mp4", size=(96, 64))
    assert numbers_of(after.pixels) == numbers_of(before.pixels) == list(range(6))
    assert after.source.size == before.source.size
    assert np.abs(after.pixels.astype(int) - before.pixels).mean() < 3
    monkeypatch.undo()
    full = crosslmm.sample(tmp_path / "a.mp4")
    assert full.pixels.shape[1:3] == full.source.size == before.source.size


def test_any_number_of_frames_is_cut_to_what_the_video_has(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", frames=30)
    for options in ({"frames": 10**9}, {"frames": 10**40}, {"fps": 1e30}, {"fps": 1e9, "end": 2.5}):
        frames = crosslmm.sample(tmp_path / "a.mp4", size=(32, 32), **options)  # type: ignore[arg-type]
        assert numbers_of(frames.pixels) == list(range(25 if "end" in options else 30))


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
    request = read_request(
        str(tmp_path / "b.ivf"),
        CaptionOptions(segments=0.1, sampling=Sampling(frames=4)),
        size=(64, 64),
        resample=3,
        default_frames=4,
    )
    clips = list(read_clips(request))
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
    request = read_request(
        str(tmp_path / "a.mkv"),
        CaptionOptions(segments=0.1, sampling=Sampling(frames=2)),
        size=(32, 32),
        resample=3,
        default_frames=4,
    )
    clips = list(read_clips(request))
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


def grab(job: dict[str, Any]) -> Iterator[tuple[Any, bytes]]:
    """What a worker does here: take so many bytes."""
    yield len(bytearray(job["size"])), b""


@pytest.mark.skipif(sys.platform != "linux", reason="kept on Linux")
def test_a_reading_process_has_a_limit_of_memory() -> None:
    worker = WorkerProcess(f"{__name__}:grab", timeout=60.0, memory=200 << 20)
    worker.start()
    try:
        assert [reply.head for reply in worker.run({"size": 100 << 20})] == [100 << 20]
        with pytest.raises(JobFailed, match="MemoryError"):
            list(worker.run({"size": 300 << 20}))
        assert [reply.head for reply in worker.run({"size": 100 << 20})] == [100 << 20]
    finally:
        worker.close()


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


def test_the_frames_that_were_asked_for_come_on_top(tmp_path: Path) -> None:
    options = CaptionOptions(sampling=Sampling(frames=1000))
    request = read_request("a.mp4", options, size=(384, 384), resample=3, default_frames=4)
    assert request.frame_bytes == 1000 * 384 * 384 * 3


def test_a_question_longer_than_the_context_is_named_before_the_video_is_read(
    checkpoint: Path, run: Any
) -> None:
    long = "why? " * 200_000
    began = time.monotonic()
    assistant = crosslmm.load(checkpoint)
    for ask in (
        lambda: assistant.ask("none.mp4", long),
        lambda: assistant.answer_batch([], [long]),
    ):
        with pytest.raises(UsageError, match=r"the question 'why\? .* context; shorten it"):
            ask()
    assert time.monotonic() - began < 20
    assistant.check_questions(["why?"])


def test_a_long_question_on_the_command_line(checkpoint: Path, clip: Path, run: Any) -> None:
    done = run("ask", clip, "why? " * 200_000, "--model", checkpoint)
    assert done.code == 2
    assert done.out == ""
    assert "the question 'why? why?" in done.err
    assert "frames" not in done.err


def test_frames_and_question_fit_into_the_context_together(
    tmp_path: Path, clip: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame has 4 tokens, and a letter is one; nothing is encoded for what does not fit."""
    folder = tiny_checkpoint(tmp_path / "model", text=text_config(max_position_embeddings=100))
    assistant = crosslmm.load(folder)
    assert assistant.ask(clip, "why?", frames=4, max_new_tokens=1).tokens.prompt <= 100
    session = assistant.open_video(clip, frames=10)
    with monkeypatch.context() as patch:
        patch.setattr("crosslmm.inference.encoding.FrameEncoder.add", None)
        for ask in (assistant.ask, lambda *a, **k: assistant.stream(*a, **k).answer):
            with pytest.raises(
                UsageError, match=r"^30 frames of 4 tokens and .* most 24 `frames`, or"
            ):
                ask(clip, "why?", frames=30)
            with pytest.raises(
                UsageError, match=r"90 tokens of text .* 100 .* shorten the question"
            ):
                ask(clip, "a" * 90, frames=10)
    with pytest.raises(UsageError, match="shorten the question"):
        session.ask("a" * 60)
    with pytest.raises(UsageError, match="shorten the question"):
        session.ask_all(["why?", "a" * 60])
    frames = crosslmm.sample(clip, frames=20, size=(30, 30))
    with pytest.raises(UsageError, match=r"20 frames of 4 tokens"):
        assistant.answer_batch([frames], ["why?" * 5])
    done = run("ask", clip, "why?", "--model", folder, "--frames", 30)
    assert (done.code, done.out) == (2, "")
    assert "use at most 24 --frames, or fewer --tokens-per-frame" in done.err


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosslmm_cli.inputs.MAX_TEXT_BYTES", 1 << 20)
    monkeypatch.setattr("crosslmm_cli.inputs.MAX_LIST_BYTES", 1 << 20)


@pytest.mark.usefixtures("small")
def test_what_commands_read_is_limited_and_regular(
    tmp_path: Path, clip: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    os.mkfifo(tmp_path / "pipe")
    for flag in ("--from", "--prompt-file"):
        paths = () if flag == "--from" else (clip,)
        for name, words in (
            ("large", "longer than 1,048,576 bytes"),
            ("pipe", "not a regular file"),
            ("/dev/zero", "not a regular file"),
        ):
            done = run("caption", *paths, flag, tmp_path / name)
            assert (done.code, words in done.err) == (2, True), done.err
    for command in (("ask", clip, "-"), ("caption", "-"), ("caption", "--from", "-")):
        stdin = io.TextIOWrapper(io.BytesIO(b"a" * ((1 << 20) + 1)))
        monkeypatch.setattr(sys, "stdin", stdin)
        done = run(*command)
        assert (done.code, done.err) == (
            2,
            "crosslmm: -: stdin holds over 1 MiB, the most that is read of it\n",
        )


def test_settings_are_a_regular_file_of_some_size(home: Path, run: Any) -> None:
    home.mkdir()
    os.mkfifo(home / "settings.json")
    assert "not a regular file" in run("models", "list").err
    (home / "settings.json").unlink()
    (home / "settings.json").write_bytes(b"[" * ((1 << 20) + 1))
    assert "longer than 1,048,576 bytes" in run("models", "list").err
    (home / "settings.json").write_bytes(b"[" * (1 << 19))
    assert "fix or delete it" in run("models", "list").err
    (home / "settings.json").unlink()


def test_recipes_are_regular_files_of_some_size(tmp_path: Path) -> None:
    from crosslmm.training.recipe import load_recipe

    (tmp_path / "a.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(UsageError, match="longer than 1,048,576 bytes"):
        load_recipe(tmp_path / "a.yaml")


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


def test_a_large_webp_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(webp(9000, 9000))
    assert "WEBP images of over 67,108,864 pixels" in refusal(tmp_path / "a.webp")


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
    assert "out of memory while reading it" in refusal(path, frames=60, reader="pyav")


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


def test_a_record_of_training_data_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crosslmm.training.records import Records

    monkeypatch.setattr("crosslmm.training.records.LONGEST_LINE", 1000)
    monkeypatch.setattr("crosslmm.files.read_lines.__kwdefaults__", {"longest": 1000})
    talk = [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so"}]
    line = json.dumps({"conversations": talk})
    path = tmp_path / "a.jsonl"
    path.write_text(f"{line}\n\n{line}{' ' * 1000}\n", "utf-8")
    with pytest.raises(UsageError, match=r"a\.jsonl, record 2: longer than 1,000 bytes"):
        Records(path)
    path.write_text(f"{line}\n\n{line}\n", "utf-8")
    assert len(Records(path)) == 2


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


def test_defaults_are_numbers_in_the_help(run: Any) -> None:
    done = run("caption", "--help")
    assert "[default: 14400.0]" in " ".join(done.out.split())
    assert "[default: 178956970" in " ".join(done.out.split())
