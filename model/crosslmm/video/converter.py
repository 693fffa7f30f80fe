"""FFmpeg's frames to upright RGB arrays with square pixels."""

from fractions import Fraction
from typing import Any

import numpy as np

from crosslmm.limits import LARGE_PIXELS
from crosslmm.video.image import Orientation, check_size, square


class Converter:
    """Converts decoded frames to (H, W, 3) uint8 RGB, upright, at full size; a large one at about
    twice `size` (height, width).

    The scaler is made once: it is the costly part of a conversion.
    """

    def __init__(self, size: tuple[int, int], *, path: str, max_pixels: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._size, self._path, self._max_pixels = size, path, max_pixels

        self._reformatter = VideoReformatter()
        self._rotation = 0
        self._orientation: Orientation | None = None

    def __call__(self, frame: Any, aspect: Fraction | None) -> np.ndarray:
        """Raises `VideoError` for a frame over the limits, which the file's header may have hidden."""
        check_size(self._path, frame.width, frame.height, aspect, max_pixels=self._max_pixels)
        if self._orientation is None or frame.rotation != self._rotation:
            self._rotation, self._orientation = frame.rotation, orientation_of(frame)
        width, height = square(frame.width, frame.height, aspect)
        if width * height > LARGE_PIXELS:
            width, height = self._near(width, height, self._orientation.swapped)
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="BICUBIC", threads=1
        )
        return self._orientation.apply(rgb.to_ndarray())

    def _near(self, width: int, height: int, swapped: bool) -> tuple[int, int]:
        """The (width, height) to which a large frame is scaled: no less than twice what is wanted."""
        wide, high = self._size if swapped else self._size[::-1]
        scale = min(1.0, max(2 * wide / width, 2 * high / height))
        return max(1, round(width * scale)), max(1, round(height * scale))


def orientation_of(frame: Any) -> Orientation:
    """How the frame's display matrix says that it is brought upright.

    Not for every frame: looking at its side data ties the frame into a reference cycle, and frames
    would pile up until the garbage collector runs.
    """
    from av.sidedata.sidedata import Type

    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    return Orientation() if matrix is None else Orientation.from_matrix(bytes(matrix))
