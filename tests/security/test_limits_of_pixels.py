"""Frames of more pixels than may be, and large ones that are scaled as they are decoded."""

import io
import struct
import zlib
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crosslmm
from crosslmm.errors import VideoError
from crosslmm.limits import MAX_PIXELS
from crosslmm.video import open_stream
from crosslmm.video.probe import check_file
from tests.support.clips import number_of, numbers_of, picture, write_clip
from tests.support.refusals import refusal


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


def test_a_large_webp_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(webp(9000, 9000))
    assert "WEBP images of over 67,108,864 pixels" in refusal(tmp_path / "a.webp")
