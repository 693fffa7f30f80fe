"""Frames of a video, each with its index and its real time in the source."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from crosslmm.video.source import SourceInfo


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame: `pixels` (H, W, 3) uint8, upright, RGB.

    `index` counts the shown frames of the source from 0; `time` is in seconds from the first
    shown frame.
    """

    pixels: "np.ndarray"
    index: int
    time: float


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames sampled from one video: `pixels` (T, H, W, 3) uint8, upright, RGB.

    `indices` and `times` (seconds) are those of each frame in the source, strictly ascending.
    `warnings` says where the result is not quite what was asked for.
    """

    pixels: "np.ndarray"
    indices: tuple[int, ...]
    times: tuple[float, ...]
    source: "SourceInfo"
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        height, width = self.pixels.shape[1:3]
        return f"<Frames {self.source.path}: {self.summary}, {width}x{height}>"

    @cached_property
    def summary(self) -> str:
        """What was sampled: `64 of 5,340 frames, one per 2.8 s`."""
        return summary(self.times, self.source)


def summary(times: "tuple[float, ...]", source: "SourceInfo") -> str:
    """What was sampled of a source: `64 of 5,340 frames, one per 2.8 s`."""
    text = f"{len(times):,} of {source.frame_count:,} frame{'s' * (source.frame_count != 1)}"
    if len(times) < 2:
        return text
    spacing = (times[-1] - times[0]) / (len(times) - 1)
    seconds = f"{spacing:.2g}" if spacing < 10 else f"{spacing:,.0f}"
    return f"{text}, one per {seconds} s"
