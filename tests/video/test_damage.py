"""Damage and nonsense end in a clear error, or in the good frames and a warning; never a hang."""

import errno
import os
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import crosslmm
from crosslmm.errors import VideoError
from tests.support.clips import number_of, numbers_of, write_clip, write_sound

DEADLINE = 20.0


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < DEADLINE


def refusal(path: object) -> str:
    """The message of the error for a path: one or two lines that name it."""
    with pytest.raises(VideoError) as caught:
        crosslmm.sample(path, deadline=DEADLINE)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(os.fsdecode(path))  # type: ignore[arg-type]
    assert len(message.splitlines()) <= 2
    assert len(message) < len(os.fsdecode(path)) + 200  # type: ignore[arg-type]
    return message


def long_clip(path: Path, **options: object) -> bytes:
    """A clip with some detail, so that its packets are long enough to be damaged."""
    write_clip(path, frames=100, gop=10, width=128, height=128, detail=30, **options)  # type: ignore[arg-type]
    return path.read_bytes()


def test_missing_and_impossible_paths(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.mp4")
    assert "no such file" in refusal("a\0b.mp4")
    assert "this is a folder" in refusal(tmp_path)
    assert "this is a URL" in refusal("http://127.0.0.1:9/a.mp4")
    assert "this is a URL" in refusal("concat://a.mp4|b.mp4")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    assert "the file is empty" in refusal(tmp_path / "empty.mp4")


def test_fifo_and_socket_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    assert "not a regular file (a pipe)" in refusal(tmp_path / "fifo.mp4")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        assert "not a regular file (a socket)" in refusal(tmp_path / "s")
    assert "not a regular file (a device)" in refusal("/dev/zero")


@pytest.mark.skipif(os.name == "nt", reason="permissions are another thing there")
def test_no_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, frames=2)
        path.chmod(0)
        os.chmod(folder, 0o755)
        me = os.geteuid()
        if me == 0:  # root may read everything, so be nobody
            os.seteuid(65534)
        try:
            assert "cannot be read" in refusal(path)
        finally:
            os.seteuid(me)


@pytest.mark.parametrize("name", ["notes.mp4", "notes.txt", "notes.nfo", "notes.ans", "notes.srt"])
def test_text_is_no_video(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("A letter, not a film.\n" * 200)
    assert "text, not a video" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["noise.mp4", "noise.bin", "noise.xb", "noise.adf", "noise.yuv"])
def test_noise_is_no_video(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(50_000))
    assert "not a video" in refusal(tmp_path / name)


def test_sound_is_no_video(tmp_path: Path) -> None:
    write_sound(tmp_path / "sound.m4a")
    assert "only audio" in refusal(tmp_path / "sound.m4a")
    (tmp_path / "sound.m4a").rename(tmp_path / "sound.mp4")
    assert "only audio" in refusal(tmp_path / "sound.mp4")


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    """An mp3 with an image in its ID3 tag: FFmpeg shows the image as a one-frame video."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "cover.jpg")
    cover = (tmp_path / "cover.jpg").read_bytes()
    content = b"\0image/jpeg\0\x03\0" + cover
    frame = b"APIC" + struct.pack(">I", len(content)) + b"\0\0" + content
    size = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    silence = (b"\xff\xfb\x10\xc4" + bytes(100)) * 40
    path = tmp_path / "song.mp3"
    path.write_bytes(b"ID3\x03\0\0" + size + frame + silence)
    with av.open(str(path)) as container:
        assert any(stream.type == "video" for stream in container.streams)
    assert "only audio" in refusal(path)


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
def test_playlists_are_not_followed(name: str, tmp_path: Path) -> None:
    write_clip(tmp_path / "secret.ts", frames=20)
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:2", "#EXTINF:2,", "secret.ts", "#EXT-X-ENDLIST"]
    (tmp_path / name).write_text("\n".join(lines))
    assert "this is a playlist" in refusal(tmp_path / name)
    (tmp_path / "join.mp4").write_text("ffconcat version 1.0\nfile secret.ts\n")
    assert "this is a playlist" in refusal(tmp_path / "join.mp4")


def test_names_are_names(tmp_path: Path) -> None:
    """Nothing in a file's name is taken for a protocol, an option or a pattern."""
    for name in (
        "concat:a|b.mp4",
        "pipe:0",
        "frame%03d.mp4",
        "naïve видео 動画 'x' \".mp4",
        "-i.mp4",
    ):
        write_clip(tmp_path / "plain.mp4", frames=3)
        os.rename(tmp_path / "plain.mp4", tmp_path / name)
        assert numbers_of(crosslmm.sample(tmp_path / name).pixels) == [0, 1, 2]


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_name_that_is_no_text(tmp_path: Path) -> None:
    write_clip(tmp_path / "plain.mp4", frames=3)
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4")
    os.rename(tmp_path / "plain.mp4", name)
    assert numbers_of(crosslmm.sample(os.fsdecode(name)).pixels) == [0, 1, 2]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_cut_off_with_the_index_in_front(share: float, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    whole = long_clip(path, container_options={"movflags": "+faststart"})
    path.write_bytes(whole[: int(len(whole) * share)])
    frames = crosslmm.sample(path, frames=8)
    assert 1 <= len(frames) <= 8
    assert numbers_of(frames.pixels) == list(frames.indices)
    assert frames.times[-1] < 10 * share + 0.5
    if share < 0.9:
        assert any("cut off" in warning for warning in frames.warnings)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_cut_off_with_the_index_at_the_end(share: float, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    whole = long_clip(path)
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "cut off" in refusal(path)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.ts", "clip.avi", "clip.webm"])
def test_cut_off_in_other_containers(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    fast = {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}}
    whole = long_clip(path, **(fast if name == "clip.webm" else {}))
    path.write_bytes(whole[: len(whole) // 2])
    frames = crosslmm.sample(path, frames=8)
    assert 4 <= len(frames) <= 8
    assert numbers_of(frames.pixels) == list(frames.indices)
    assert 1 < frames.times[-1] < 7


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
@pytest.mark.parametrize("fill", ["zeros", "noise"])
def test_bytes_lost_in_the_middle(name: str, fill: str, tmp_path: Path) -> None:
    path = tmp_path / name
    options = {"movflags": "+faststart"} if name == "clip.mp4" else None
    data = bytearray(long_clip(path, container_options=options))
    first, last = int(len(data) * 0.45), int(len(data) * 0.6)
    noise = np.random.default_rng(0).bytes(last - first)
    data[first:last] = bytes(last - first) if fill == "zeros" else noise
    path.write_bytes(data)
    frames = crosslmm.sample(path, frames=20, seek="exact")
    damage = [warning for warning in frames.warnings if warning.startswith("damaged video")]
    assert damage, frames.warnings
    assert frames.source.damaged_packets > 0
    assert list(frames.indices) == sorted(set(frames.indices))
    good = [(t, p) for t, p in zip(frames.times, frames.pixels, strict=True) if not 4.2 < t < 7]
    assert len(good) >= 12
    # A frame's number is told by its time: with packets gone, its index is another one.
    assert [number_of(pixels) for _, pixels in good] == [round(t * 10) for t, _ in good]


def test_no_frame_left(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    data = bytearray(long_clip(path, container_options={"movflags": "+faststart"}))
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    path.write_bytes(data)
    assert "no frame of this video" in refusal(path)


def test_decoder_settings_destroyed(tmp_path: Path) -> None:
    """The decoder cannot even be opened, and says so at every packet and at the end, for ever."""
    path = tmp_path / "clip.mp4"
    write_clip(path, frames=24, codec="libx265")
    data = bytearray(path.read_bytes())
    start = data.index(b"hvcC") + 27
    data[start : start + 60] = bytes(60)
    path.write_bytes(data)
    assert "no frame of this video" in refusal(path)


def test_heic_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    assert "convert it to JPEG" in refusal(tmp_path / "photo.heic")


def test_a_stream_that_appears_on_the_way_ends_nothing(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.ts", frames=20)
    write_clip(
        tmp_path / "b.ts", times=[2000 + 100 * n for n in range(20)], first_number=20, sound=True
    )
    joined = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    for name in ("joined.ts", "again.ts"):  # what PyAV finds beyond its list of streams is chance
        (tmp_path / name).write_bytes(joined)
        frames = crosslmm.sample(tmp_path / name, frames=1000)
        # The second part's first frame goes lost at the seam: the packet before it has no end.
        assert numbers_of(frames.pixels) == [*range(20), *range(21, 40)]


def test_random_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    outcomes = {"frames": 0, "error": 0}
    for name in ("a.mp4", "a.mkv", "a.ts", "a.avi", "a.gif"):
        gif = {"codec": "gif", "pixel_format": "rgb8"} if name == "a.gif" else {}
        write_clip(tmp_path / name, frames=30, **gif)
        whole = (tmp_path / name).read_bytes()
        for _ in range(12):
            data = bytearray(whole)
            for _ in range(int(rng.integers(1, 30))):
                data[int(rng.integers(len(data)))] = int(rng.integers(256))
            if rng.random() < 0.5:
                data = data[: int(rng.integers(1, len(data)))]
            (tmp_path / name).write_bytes(data)
            try:
                frames = crosslmm.sample(tmp_path / name, frames=8, size=(32, 32))
            except VideoError:
                outcomes["error"] += 1
            else:
                assert 1 <= len(frames) <= 8
                assert list(frames.times) == sorted(frames.times)
                outcomes["frames"] += 1
    assert min(outcomes.values()) > 5


def test_a_seek_to_before_the_file_is_ffmpeg_s_to_handle(tmp_path: Path) -> None:
    """Some demuxers, as NUT's, seek backwards from the end of a file that is shorter than they think."""
    write_clip(tmp_path / "a.nut", frames=12, codec="ffv1")
    data = (tmp_path / "a.nut").read_bytes()
    for length in (*range(1, 400, 7), len(data) - 1):
        (tmp_path / "cut.nut").write_bytes(data[:length])
        with suppress(VideoError):
            crosslmm.sample(tmp_path / "cut.nut", reader="pyav")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.png"])
def test_a_disk_that_cannot_be_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "a.png":
        Image.new("RGB", (60, 50)).save(tmp_path / name)
    else:
        long_clip(tmp_path / name)
    left, read = [1], os.read
    file = os.stat(tmp_path / name)

    def fail(descriptor: int, size: int) -> bytes:
        if os.path.samestat(os.fstat(descriptor), file):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(VideoError, match="Input/output error"):
        crosslmm.sample(tmp_path / name, reader="pyav")
