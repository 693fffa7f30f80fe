"""Images: resizing as PIL does it, images as videos, and what is refused."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import crosslmm
from crosslmm.errors import UsageError, VideoError
from crosslmm.video.image import Orientation, square
from tests.support.clips import number_of, picture, write_clip


@pytest.mark.parametrize("size", [(384, 384), (30, 90), (64, 64), (200, 33)])
@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_resizing_is_pil_s_to_the_byte(size: tuple, resample: int, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", frames=5, width=128, height=96, rotation=90, detail=40)
    full = crosslmm.sample(tmp_path / "clip.mp4")
    small = crosslmm.sample(tmp_path / "clip.mp4", size=size, resample=resample)
    for whole, resized in zip(full.pixels, small.pixels, strict=True):
        expected = Image.fromarray(whole).resize(size[::-1], resample=resample)
        np.testing.assert_array_equal(resized, np.asarray(expected))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff", "a.gif"])
def test_an_image_is_a_video_of_one_frame(name: str, tmp_path: Path) -> None:
    Image.fromarray(picture(77, width=80)).save(tmp_path / name, quality=95)
    frames = crosslmm.sample(tmp_path / name, frames=64)
    assert frames.pixels.shape == (1, 64, 80, 3)
    assert number_of(frames.pixels[0]) == 77
    assert (frames.indices, frames.times) == ((0,), (0.0,))
    assert frames.warnings == ()
    assert frames.source.frame_count == 1
    assert crosslmm.sample(tmp_path / name, size=(32, 48), fps=2).pixels.shape == (1, 32, 48, 3)


@pytest.mark.parametrize("tag", range(1, 9))
def test_photographs_are_turned_upright(tag: int, tmp_path: Path) -> None:
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = Image.fromarray(picture(901, width=96))
    stored = upright.transpose(back[tag]) if tag in back else upright
    exif = Image.Exif()
    exif[0x0112] = tag
    stored.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    frames = crosslmm.sample(tmp_path / "photo.jpg")
    assert frames.source.size == (64, 96)
    assert number_of(frames.pixels[0]) == 901


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK", "I;16", "F"])
def test_modes(mode: str, tmp_path: Path) -> None:
    kind = "tiff" if mode in ("CMYK", "F") else "png"
    if mode == "I;16":
        grey = Image.fromarray(np.full((8, 9), 0x8000, dtype=np.uint16))
    elif mode == "P":
        grey = Image.new("RGB", (9, 8), (128, 128, 128)).quantize()
    else:
        grey = Image.new("L", (9, 8), 128).convert(mode, dither=Image.Dither.NONE)
    if mode in ("RGBA", "LA"):
        grey.putalpha(Image.new("L", (9, 8), 0))
    grey.save(tmp_path / f"a.{kind}")
    pixels = crosslmm.sample(tmp_path / f"a.{kind}").pixels
    assert pixels.shape == (1, 8, 9, 3)
    expected = 255 if mode in ("RGBA", "LA", "1") else 128
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_an_image_under_a_video_s_name(tmp_path: Path) -> None:
    Image.fromarray(picture(5)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.mp4")
    frames = crosslmm.sample(tmp_path / "a.mp4")
    assert number_of(frames.pixels[0]) == 5
    assert frames.source.container == "image"


@pytest.mark.parametrize("name", ["a.webp", "a.png"])
def test_an_animated_image_says_that_only_its_first_frame_is_read(
    name: str, tmp_path: Path
) -> None:
    images = [Image.fromarray(picture(n)) for n in (1, 2, 3)]
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:], lossless=True)
    frames = crosslmm.sample(tmp_path / name)
    assert number_of(frames.pixels[0]) == 1
    assert "only its first frame" in frames.warnings[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_cut_off_image_is_an_error(kind: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        buffer, kind
    )
    (tmp_path / "a").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(VideoError, match="image cannot be read"):
        crosslmm.sample(tmp_path / "a")


def test_start_means_nothing_to_an_image_but_zero(tmp_path: Path) -> None:
    Image.fromarray(picture(5)).save(tmp_path / "a.png")
    assert len(crosslmm.sample(tmp_path / "a.png", start=0, end=3)) == 1
    with pytest.raises(VideoError, match="it is an image"):
        crosslmm.sample(tmp_path / "a.png", start=3)


@pytest.mark.parametrize(
    ("aspect", "shape"),
    [
        (None, (720, 576)),
        (Fraction(1), (720, 576)),
        (Fraction(16, 11), (1047, 576)),
        (Fraction(1, 2), (720, 1152)),
        (Fraction(60000), (720, 576)),
        (Fraction(1, 60000), (720, 576)),
        (Fraction(0), (720, 576)),
    ],
)
def test_square_pixels_lose_none_and_stay_sane(aspect: Fraction | None, shape: tuple) -> None:
    assert square(720, 576, aspect) == shape


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("flip_x", [False, True])
@pytest.mark.parametrize("flip_y", [False, True])
def test_orientation_moves_each_pixel_where_the_matrix_says(
    swapped: bool, flip_x: bool, flip_y: bool
) -> None:
    x, y = (-1 if flip_x else 1), (-1 if flip_y else 1)
    a, b, c, d = (0, y, x, 0) if swapped else (x, 0, 0, y)
    matrix = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 14], dtype=np.int32) * (1 << 16)
    orientation = Orientation.from_matrix(matrix.tobytes())
    assert orientation == Orientation(swapped, flip_x, flip_y)
    assert orientation.mirrored == (a * d - b * c < 0)
    stored = np.arange(2 * 3).reshape(2, 3, 1)
    shown = orientation.apply(stored)
    assert shown.shape[:2] == orientation.shape(3, 2)
    for row in range(2):
        for column in range(3):
            # Of a negative coordinate -n, the image's far side is the origin: n from the end.
            to_x, to_y = a * column + c * row, b * column + d * row
            assert shown[to_y - flip_y, to_x - flip_x] == stored[row, column]


@pytest.mark.parametrize(
    "options",
    [
        {"frames": 0},
        {"frames": -3},
        {"frames": 2.5},
        {"fps": 0},
        {"fps": float("nan")},
        {"frames": 3, "fps": 1},
        {"max_frames": 0},
        {"start": -1},
        {"end": 0},
        {"start": 5, "end": 5},
        {"start": float("inf")},
        {"seek": "sometimes"},
        {"reader": "opencv"},
        {"size": (0, 3)},
        {"size": 384},
        {"deadline": 0},
        {"resample": 9},
    ],
)
def test_options_that_mean_nothing(options: dict, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", frames=3)
    with pytest.raises(UsageError):
        crosslmm.sample(tmp_path / "clip.mp4", **options)
