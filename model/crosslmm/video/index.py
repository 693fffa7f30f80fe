"""The packet index of a video: when each frame is shown, and where decoding can start.

It is built by reading every packet once without decoding (0.2 s for an hour), because headers lie:
frame counts include frames that an edit list hides, and `duration * rate` is wrong for a variable
rate.
"""

from array import array
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from crosslmm.errors import VideoError
from crosslmm.limits import MAX_SOURCE_FRAMES
from crosslmm.video.decoder import Decoder

NONE = -(1 << 63)  # FFmpeg's own mark, which no time can be

# Seconds (272 years) up to which float64 tells microseconds apart. Times further apart are not believed.
_LONGEST = 1 << 33


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """The shown frames in presentation order.

    `pts` (N,) int64, ticks of `time_base`, strictly ascending; `sizes` (N,) the bytes of their
    packets, empty where that is not known; `keys` (K,) the indices of keyframes; `tail` the ticks for
    which the last frame is shown. `sequential` says that the container gives no usable presentation
    times: `pts` is then counted, and frames must be counted too, from the start. `hidden` packets are
    hidden by an edit list. `leading` says that a keyframe is followed by packets shown before it (an
    open GOP). `bad_pts` are the times of packets that the container marks as damaged, or that follow
    a hole; `bad_reads` counts errors between packets.
    """

    pts: np.ndarray
    keys: np.ndarray
    time_base: Fraction
    tail: int
    sequential: bool = False
    leading: bool = False
    hidden: int = 0
    bad_pts: frozenset[int] = frozenset()
    bad_reads: int = 0
    sizes: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint32))

    def __len__(self) -> int:
        return len(self.pts)

    @cached_property
    def times(self) -> np.ndarray:
        """(N,) float64 seconds from the first shown frame."""
        ticks = (self.pts - self.pts[0]).astype(np.float64)
        times: np.ndarray = ticks * self.time_base.numerator / self.time_base.denominator
        return times

    @property
    def duration(self) -> float:
        """Seconds from the first frame's appearance to the last one's end."""
        return float((int(self.pts[-1] - self.pts[0]) + self.tail) * self.time_base)

    def shown_from(self, pts: int) -> "PacketIndex":
        """The same without the packets before `pts`, which no decoder can show."""
        first = int(np.searchsorted(self.pts, pts))
        if first == 0 or first >= len(self.pts):
            return self
        keys = self.keys - first
        return replace(self, pts=self.pts[first:], keys=keys[keys >= 0], sizes=self.sizes[first:])


def scan(decoder: Decoder) -> PacketIndex | None:
    """Read every packet of a newly opened file once; None when there is none to be shown."""
    container, stream = decoder.container, decoder.stream
    # Arrays, since there may be ten million packets; NONE stands for a time that is not given.
    pts, dts, keys, packet_sizes = array("q"), array("q"), bytearray(), array("I")
    hidden = 0
    bad_pts: set[int] = set()
    leading, last_key = False, None
    last, tail = NONE, 0

    for packet in decoder.packets():
        if len(pts) + hidden > decoder.file.size:
            break  # more packets than bytes: a damaged index that loops
        if len(pts) >= MAX_SOURCE_FRAMES:
            raise VideoError(
                f"{decoder.path}: over {MAX_SOURCE_FRAMES:,} frames, the most that are read of a video"
            )
        if packet.is_discard:
            hidden += 1
            continue
        time, key = packet.pts, packet.is_keyframe
        pts.append(NONE if time is None else time)
        dts.append(NONE if packet.dts is None else packet.dts)
        keys.append(key)
        packet_sizes.append(packet.size)
        if time is not None:
            if key:
                last_key = time
            elif last_key is not None and time < last_key:
                leading = True
            if time >= last:
                last, tail = time, packet.duration or 0
            if packet.is_corrupt:
                bad_pts.add(time)
    if not pts:
        return None

    time_base = stream.time_base or Fraction(1, 90_000)
    times = np.frombuffer(pts, dtype=np.int64)
    order = np.argsort(times)
    times = times[order]
    distinct = times[0] != NONE and bool(np.all(times[1:] > times[:-1]))
    distinct = distinct and _are_believable(times, time_base)
    if distinct and not _times_are_guesses(container, stream):
        key_indices = np.flatnonzero(np.frombuffer(keys, dtype=bool)[order])
        sizes, sequential = np.frombuffer(packet_sizes, dtype=np.uint32)[order], False
    else:
        times, time_base = _counted_times(np.frombuffer(dts, dtype=np.int64), stream, time_base)
        key_indices = np.zeros(1, dtype=np.int64)
        sizes = np.frombuffer(packet_sizes, dtype=np.uint32)
        tail, sequential = 0, True
    if tail <= 0 or tail * time_base > _LONGEST:
        steps = np.diff(times)
        tail = int(np.median(steps)) if len(steps) else _one_frame(stream, time_base)
    if not sequential and not _has_sample_table(container):
        bad_pts.update(int(times[after]) for after in _holes(times))
    return PacketIndex(
        pts=times,
        keys=key_indices,
        time_base=time_base,
        tail=tail,
        sequential=sequential,
        leading=leading,
        hidden=hidden,
        bad_pts=frozenset(bad_pts),
        bad_reads=decoder.bad_reads,
        sizes=sizes,
    )


def _times_are_guesses(container: Any, stream: Any) -> bool:
    """AVI has no presentation times: FFmpeg guesses them, wrongly for reordered frames."""
    return container.format.name == "avi" and bool(stream.codec_context.has_b_frames)


def _has_sample_table(container: Any) -> bool:
    """Whether a table lists all packets, so that damage to the data leaves no hole in the times."""
    name: str = container.format.name
    return name.startswith("mov") or name == "gif"


def _holes(times: np.ndarray) -> np.ndarray:
    """Indices of the frames after a hole in an otherwise constant rate."""
    steps = np.diff(times)
    if len(steps) < 8:
        return np.zeros(0, dtype=np.int64)
    usual = float(np.median(steps))
    regular = np.abs(steps - usual) <= 0.1 * usual
    if regular.mean() < 0.9:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(steps > 3.5 * usual) + 1


def _counted_times(
    dts: np.ndarray, stream: Any, time_base: Fraction
) -> tuple[np.ndarray, Fraction]:
    """Times of frames whose container gives none: decoding times where they rise, else a count."""
    rising = not np.any(dts == NONE) and bool(np.all(dts[1:] > dts[:-1]))
    if rising and _are_believable(dts, time_base):
        return dts, time_base
    step = 1 / _rate(stream)
    return np.arange(len(dts), dtype=np.int64), min(step, Fraction(_LONGEST, len(dts)))


def _are_believable(times: np.ndarray, time_base: Fraction) -> bool:
    ticks = int(times[-1]) - int(times[0])  # which may be more than an int64 holds
    return ticks < 1 << 62 and ticks * time_base <= _LONGEST


def _one_frame(stream: Any, time_base: Fraction) -> int:
    return max(1, round(1 / _rate(stream) / time_base))


def _rate(stream: Any) -> Fraction:
    return stream.guessed_rate or stream.average_rate or Fraction(25)
