"""Frames as images: turned upright, pixels made square, resized.

Resizing is PIL's, with its antialiasing, because the vision towers' own preprocessing resizes with
PIL too; FFmpeg's scaler differs from it by up to a few grey levels.
"""

import os
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from crosslmm.errors import VideoError
from crosslmm.limits import LARGE_PIXELS, MAX_ASPECT, MAX_COPIED_PIXELS
from crosslmm.video.file import VideoFile

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

BICUBIC = 3  # PIL.Image.Resampling.BICUBIC, known here without importing PIL

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}

_EXIF_TAG = 0x0112  # of the orientation

_ROWS = 256
_COPIED = ("WEBP", "AVIF")

_THINNEST = Fraction(1, 16)

# FFmpeg would take one tile of such an image for a video.
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"mif1")


def resize(
    pixels: "np.ndarray", size: tuple[int, int] | None, resample: int = BICUBIC
) -> "np.ndarray":
    """`pixels` (H, W, 3) uint8 at `size` (height, width); itself where it has that size."""
    import numpy as np
    from PIL import Image

    if size is None or pixels.shape[:2] == size:
        return np.ascontiguousarray(pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    resized = image.resize((size[1], size[0]), resample=Image.Resampling(resample))
    return np.array(resized)  # a copy, since PIL's own view is read-only


@dataclass(frozen=True)
class Orientation:
    """How a stored image is brought upright: the axes swapped, then each flipped or not."""

    swapped: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def from_matrix(cls, matrix: bytes) -> "Orientation":
        """From a display matrix, 9 native int32 (a b u c d v x y w): x' = ax + cy, y' = bx + dy.

        Turns that are no multiple of 90 degrees are taken to the nearest one.
        """
        a, b, _, c, d = struct.unpack("=5i", matrix[:20])
        if abs(b) > abs(a):
            return cls(swapped=True, flip_x=c < 0, flip_y=b < 0)
        return cls(flip_x=a < 0, flip_y=d < 0)

    @property
    def clockwise(self) -> int:
        """The turn in degrees, clockwise, that comes before any mirroring left to right."""
        if self.swapped:
            return 270 if self.flip_y else 90
        return 180 if self.flip_y else 0

    @property
    def mirrored(self) -> bool:
        """Whether it is a mirroring, and not a turn alone."""
        return (self.flip_x == self.flip_y) == self.swapped

    def apply(self, pixels: "np.ndarray") -> "np.ndarray":
        """`pixels` (H, W, 3) upright; a view."""
        if self.swapped:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """The upright (height, width) of a stored image."""
        return (width, height) if self.swapped else (height, width)


_EXIF_ORIENTATIONS = {
    2: Orientation(flip_x=True),
    3: Orientation(flip_x=True, flip_y=True),
    4: Orientation(flip_y=True),
    5: Orientation(swapped=True),
    6: Orientation(swapped=True, flip_x=True),
    7: Orientation(swapped=True, flip_x=True, flip_y=True),
    8: Orientation(swapped=True, flip_y=True),
}


def square(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """The (width, height) that shows pixels of this aspect ratio as square ones, losing none.

    A ratio that no video has is taken for damage and ignored.
    """
    if not aspect or aspect == 1 or not _THINNEST <= aspect <= 1 / _THINNEST:
        return width, height
    if aspect > 1:
        return round(width * aspect), height
    return width, round(height / aspect)


def image_format(path: str, head: bytes) -> str | None:
    """The format of an image that PIL reads, told by its first bytes; None for a video."""
    if path.lower().endswith((".mjpeg", ".mjpg")):
        return None
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF:
        raise VideoError(f"{path}: HEIC images are not supported; convert it to JPEG or PNG")
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def is_image_file(path: str) -> bool:
    """Whether this is a file of one of these formats. Raises VideoError for one of HEIC."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return image_format(path, file.read(16)) is not None
    except OSError:
        return False


def check_size(
    path: str, width: int, height: int, aspect: Fraction | None = None, *, max_pixels: int
) -> None:
    """Raise `VideoError` for frames of more than `max_pixels`, or thinner than 1 to MAX_ASPECT, as
    they are shown."""
    width, height = square(width, height, aspect)
    if width * height > max_pixels:
        raise VideoError(
            f"{path}: its frames have {width * height:,} pixels ({width}x{height}), the limit is "
            f"{max_pixels:,}; raise `max_pixels`"
        )
    if width and height and max(width, height) > MAX_ASPECT * min(width, height):
        raise VideoError(
            f"{path}: its frames are {width}x{height}, thinner than 1 to {MAX_ASPECT}, "
            "the thinnest that are read"
        )


def read_image(
    file: VideoFile, kind: str, *, max_pixels: int, size: tuple[int, int] | None
) -> "tuple[np.ndarray, tuple[int, int], list[str]]":
    """An image, upright by its EXIF tag, transparency over white: (H, W, 3) uint8, its (height, width)
    as it is stored, warnings.

    A large one comes reduced to about twice `size` (height, width), where one is given.
    """
    import numpy as np
    from PIL import Image

    warnings = []
    name = os.path.basename(file.path)
    Image.init()
    try:
        # Not `Image.open`, whose limit is one for the whole process, and a warning.
        make, _ = Image.OPEN[kind]
        with make(file, file.path) as image:  # type: ignore[arg-type]
            check_size(file.path, *image.size, max_pixels=max_pixels)
            if kind in _COPIED and image.size[0] * image.size[1] > MAX_COPIED_PIXELS:
                raise VideoError(
                    f"{file.path}: {kind} images of over {MAX_COPIED_PIXELS:,} pixels take too much "
                    "memory to be read; convert it to JPEG or PNG"
                )
            if getattr(image, "n_frames", 1) > 1 and kind != "JPEG":
                warnings.append(f"{name} is an animated {kind}; only its first frame is read")
            orientation = _EXIF_ORIENTATIONS.get(image.getexif().get(_EXIF_TAG, 1), Orientation())
            shown = orientation.shape(*image.size)
            upright = _reduced(image, size, swapped=orientation.swapped)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            elif upright.mode.startswith("I") or upright.mode == "F":
                upright = Image.fromarray(_to_eight_bits(np.asarray(upright)))
            pixels = orientation.apply(np.asarray(upright.convert("RGB")))
    except (VideoError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # of WebP, which asks Pillow's own limit itself
        raise VideoError(
            f"{file.path}: {kind} images over Pillow's limit of pixels are not read ({error})"
        ) from error
    except Exception as error:  # PIL's decoders raise all kinds of errors
        file.check()
        raise VideoError(f"{file.path}: this {kind} image cannot be read ({error})") from error
    return pixels, shown, warnings


def _reduced(image: "Image.Image", size: tuple[int, int] | None, *, swapped: bool) -> "Image.Image":
    """A large image at no less than twice `size`; a JPEG is never decoded larger than needed."""
    width, height = image.size
    if size is None or width * height <= LARGE_PIXELS:
        return image
    wide, high = size if swapped else size[::-1]
    image.draft(None, (2 * wide, 2 * high))
    factor = min(image.size[0] // (2 * wide), image.size[1] // (2 * high))
    if factor < 2:
        return image
    if image.mode in ("1", "P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode.startswith("I;16"):
        image = image.convert("I")
    return image.reduce(factor)


def _to_eight_bits(grey: "np.ndarray") -> "np.ndarray":
    import numpy as np

    shown = np.empty(grey.shape, dtype=np.uint8)
    for first in range(
        0, len(grey), _ROWS
    ):  # a part at a time, since the parts are converted twice
        part = grey[first : first + _ROWS]
        if grey.dtype.kind == "f":
            shown[first : first + _ROWS] = np.clip(part, 0, 255)
        else:
            shown[first : first + _ROWS] = np.clip(part, 0, 65535).astype(np.uint32) >> 8
    return shown
