"""Fetching the wanted frames from a decoder, in ascending order.

Decoding goes on from frame to frame, and seeks only when a keyframe lies between the current position
and the wanted frame, some frames away. The nearest good frame is given in place of a missing one.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from crosslmm.video.decoder import Decoder
from crosslmm.video.index import PacketIndex
from crosslmm.video.sampling import Target

# Frames that a decoder has already worked on ahead of the one it gave, threads and reordering together:
# a seek over no more than these saves nothing, and throws them away.
_IN_FLIGHT = 5


class SeekingFetcher:
    """Fetches frames by their presentation time; indices must ascend."""

    def __init__(self, decoder: Decoder, index: PacketIndex, targets: Sequence[Target]) -> None:
        self.decoder, self.pts = decoder, index.pts
        self.keys, self.key_pts = index.keys, index.pts[index.keys]
        self.targets = np.array([target.index for target in targets])
        groups, sizes = np.unique(self._group_of(self.targets), return_counts=True)
        self._shared_groups = frozenset(groups[sizes > 1].tolist())
        self.bad_pts = index.bad_pts
        if decoder.can_drop_frames():
            decoder.wanted = frozenset(int(self.pts[target.index]) for target in targets)
        self.release()

    def release(self) -> None:
        """Let go of every frame held."""
        self.run: Iterator[Any] | None = None
        self.before: Any = None
        self.ahead: Any = None

    def fetch(self, index: int, key: bool) -> tuple[int, Any]:
        """The frame of that index, or the nearest good one, as (index, frame); None without one."""
        wanted = int(self.pts[index])
        # Where more of a group of pictures is wanted, decoding goes on from its keyframe.
        if key and int(self._group_of(index)) not in self._shared_groups:
            self.release()
            frame = self.decoder.decode_keyframe(wanted)
            if frame is not None:
                return index, frame
        frame = self._exact(wanted)
        if frame is None:
            return index, None
        return self._index_of(frame.pts), frame

    def is_suspect(self, frame: Any) -> bool:
        """Whether something between the frame and its keyframe could not be decoded."""
        if frame.is_corrupt:
            return True
        before = self.key_pts[self.key_pts <= frame.pts]
        key = before[-1] if len(before) else self.pts[0]
        return any(key <= pts <= frame.pts for pts in self.decoder.bad_pts | self.bad_pts)

    def find_better(self, index: int, frame: Any, *, after: int) -> tuple[int, Any]:
        """The keyframe nearest to a suspect frame, if it is good, wanted by none, and near."""
        upcoming = self.targets[self.targets > index]
        limit = int(upcoming[0]) if len(upcoming) else len(self.pts)
        keys = self.keys[(self.keys > after) & (self.keys < limit) & (self.keys != index)]
        for key in sorted(keys, key=lambda key: abs(int(self.pts[key]) - frame.pts))[:2]:
            self.release()
            found = self.decoder.decode_keyframe(int(self.pts[key]))
            if found is not None and not self.is_suspect(found):
                return int(key), found
        return index, frame

    def _group_of(self, index: int | np.ndarray) -> np.ndarray:
        """The numbers of the groups of pictures, each of which begins with a keyframe."""
        return np.asarray(np.searchsorted(self.keys, index, side="right"))

    def _index_of(self, pts: int) -> int:
        return max(0, int(np.searchsorted(self.pts, pts, side="right")) - 1)

    def _exact(self, wanted: int) -> Any | None:
        key = int(np.searchsorted(self.key_pts, wanted, side="right")) - 1
        position = self.ahead or self.before
        if self.run is None or (
            key >= 0
            and (
                position is None or int(self.keys[key]) > self._index_of(position.pts) + _IN_FLIGHT
            )
        ):
            self._restart(key)
        if self._advance(wanted):
            return self.ahead
        if self.decoder.wanted is not None:
            self.decoder.wanted = None
            self._restart(key)
        step = 1
        while True:
            if self._advance(wanted) or self.before is not None or key < 0:
                break
            # The seek landed after the frame (MPEG-TS, open GOP): go further back.
            key = key - step if step <= 4 else -1
            step *= 2
            self._restart(key)
        return self._nearest(wanted)

    def _restart(self, key: int) -> None:
        self.release()
        if key < 0:
            self.run = self.decoder.decode_from_start()
        else:
            self.run = self.decoder.decode_from_key(int(self.key_pts[key]))

    def _advance(self, wanted: int) -> bool:
        """Decode until `ahead` is at or past `wanted`; whether it is exactly there."""
        assert self.run is not None
        while self.ahead is None or self.ahead.pts < wanted:
            if self.ahead is not None:
                self.before = self.ahead
            self.ahead = next((frame for frame in self.run if frame.pts is not None), None)
            if self.ahead is None:
                return False
        return bool(self.ahead.pts == wanted)

    def _nearest(self, wanted: int) -> Any | None:
        candidates = [frame for frame in (self.before, self.ahead) if frame is not None]
        return min(candidates, key=lambda frame: abs(frame.pts - wanted), default=None)


class CountingFetcher:
    """Fetches frames by counting from the start, for containers without presentation times."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.run: Iterator[Any] | None = None
        self.frame: Any = None
        self.index = -1

    def release(self) -> None:
        """Let go of the frame held."""
        self.run = self.frame = None

    def fetch(self, index: int, key: bool) -> tuple[int, Any]:
        """The frame of that index, or the last one before the end, as (index, frame)."""
        if self.run is None:
            self.run = self.decoder.decode_from_start()
        while self.index < index:
            frame = next(self.run, None)
            if frame is None:
                break
            self.frame, self.index = frame, self.index + 1
        return self.index, self.frame

    def is_suspect(self, frame: Any) -> bool:
        """Whether the decoder itself marks the frame as damaged."""
        return bool(frame.is_corrupt)

    def find_better(self, index: int, frame: Any, *, after: int) -> tuple[int, Any]:
        """Nothing better can be sought here."""
        return index, frame
