"""Whether a frame shows what the last encoded one shows.

Videos of slides and screens repeat their pictures, but an encoder such as x264 refines a picture over
many frames, so that few of them are equal to the last bit. By the mean over a frame a small thing that
appears counts for nothing; by blocks it counts.
"""

import numpy as np

BLOCK = 16
"""Pixels on a side."""


def is_still(frame: np.ndarray, last: np.ndarray, threshold: float) -> bool:
    """Whether no block of 16 by 16 pixels differs from that of `last` by more than `threshold`, of 255,
    on average in any colour. With 0, whether the frames are equal.

    frame, last: (H, W, 3) uint8.
    """
    height, width = frame.shape[:2]
    for top in range(0, height, BLOCK):  # a row of blocks at a time: a cut shows in the first
        rows = slice(top, top + BLOCK)
        difference = np.abs(frame[rows].astype(np.int16) - last[rows])
        blocks = np.add.reduceat(difference.sum(axis=0), range(0, width, BLOCK), axis=0)
        pixels = len(difference) * np.minimum(BLOCK, width - np.arange(0, width, BLOCK))
        if (blocks > threshold * pixels[:, None]).any():
            return False
    return True
