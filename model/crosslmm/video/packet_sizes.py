"""Frames chosen by what they cost the codec: a frame that shows something new takes more bytes.

The sizes are in the packet index, so nothing is decoded to choose. Evenly spaced keyframes are large
whatever they show, so a keyframe is compared with keyframes only, any other frame with all others.
(After KFFocus, arXiv 2508.08989, which chooses keyframes by what they cost a codec.)
"""

from itertools import pairwise

import numpy as np

from crosslmm.errors import VideoError
from crosslmm.video.index import PacketIndex


def choose_by_size(
    index: PacketIndex, first: int, count: int, middles: np.ndarray, *, path: str
) -> list[int]:
    """Of each of equal slices of time the frame that is largest for its kind, ascending.

    middles: (S,) seconds, of the slices, which together hold the `count` frames from `first` on. A slice
    without a frame gives none. Raises `VideoError` where the sizes are not known.
    """
    if len(index.sizes) != len(index):
        raise VideoError(f"{path}: the sizes of its frames are not known: use another `sampler`")
    times, scores = (
        index.times[first : first + count],
        _relative_sizes(index)[first : first + count],
    )
    edges = np.searchsorted(times, (middles[1:] + middles[:-1]) / 2).tolist()
    return [
        first + start + int(scores[start:end].argmax())
        for start, end in pairwise([0, *edges, count])
        if start < end
    ]


def _relative_sizes(index: PacketIndex) -> np.ndarray:
    """(N,), of each frame, relative to the median of the keyframes or of the others."""
    sizes = index.sizes.astype(np.float64)
    is_key = np.zeros(len(index), dtype=bool)
    is_key[index.keys] = True
    for kind in (is_key, ~is_key):
        if kind.any():
            sizes[kind] /= max(float(np.median(sizes[kind])), 1.0)
    return sizes
