"""FFmpeg's frames to upright RGB arrays with square pixels."""

from fractions import Fraction
from typing import Any

import numpy as np

from crosslmm.video.image import Orientation, square


class Converter:
    """Converts decoded frames to (H, W, 3) uint8 RGB, upright, at full size.

    The scaler is made once: it is the costly part of a conversion.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._rotation = 0
        self._orientation: Orientation | None = None

    def __call__(self, frame: Any, aspect: Fraction | None) -> np.ndarray:
        width, height = square(frame.width, frame.height, aspect)
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="BICUBIC", threads=1
        )
        if self._orientation is None or frame.rotation != self._rotation:
            self._rotation, self._orientation = frame.rotation, orientation_of(frame)
        return self._orientation.apply(rgb.to_ndarray())


def orientation_of(frame: Any) -> Orientation:
    """How the frame's display matrix says that it is brought upright.

    Not for every frame: looking at its side data ties the frame into a reference cycle, and frames
    would pile up until the garbage collector runs.
    """
    from av.sidedata.sidedata import Type

    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    return Orientation() if matrix is None else Orientation.from_matrix(bytes(matrix))
