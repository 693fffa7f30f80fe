"""Where one shot ends and the next begins: a frame that differs from the one before by much more than
its neighbours do. What moves differs evenly, so that it takes no detector of motion.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crosslmm.video.frames import Frame

# Levels of 255 below which a difference is no cut, and how many times its neighbours' it must be.
_LEAST = 10.0
_RATIO = 3.0
_NEIGHBOURS = 2  # on either side


@dataclass(frozen=True, eq=False)
class Differences:
    """levels: (N,) float64, the mean absolute difference of each frame's values to those of the frame
    before, 0 for the first; times: (N,) float64 seconds, ascending."""

    levels: np.ndarray
    times: np.ndarray

    @classmethod
    def of(cls, frames: Iterable[Frame]) -> "Differences":
        """frames: of one size; a small one will do."""
        levels, times = [], []
        before: np.ndarray | None = None
        for frame in frames:
            pixels = frame.pixels.astype(np.int16)
            levels.append(0.0 if before is None else float(np.abs(pixels - before).mean()))
            times.append(frame.time)
            before = pixels
        return cls(np.array(levels), np.array(times))

    def cuts(self, *, shortest: float = 0.0) -> np.ndarray:
        """The rows that begin a shot, the first not among them; each shot lasts `shortest` seconds, or a
        frame less."""
        count = len(self.levels)
        sums, used = np.zeros(count), np.zeros(count)
        for off in range(1, _NEIGHBOURS + 1):
            sums[off:] += self.levels[:-off]
            sums[:-off] += self.levels[off:]
            used[off:] += 1
            used[:-off] += 1
        usual = sums / np.maximum(used, 1)
        found = np.flatnonzero((self.levels >= _LEAST) & (self.levels >= _RATIO * usual))
        kept: list[int] = []
        for row in found.tolist():
            since = self.times[row] - self.times[kept[-1] if kept else 0]
            if min(since, self.times[-1] - self.times[row]) >= shortest:
                kept.append(row)
        return np.array(kept, dtype=np.int64)
