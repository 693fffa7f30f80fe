"""The default reader: PyAV, in this process.

One pass in ascending order: decoding goes on from frame to frame, and seeks only when a keyframe
lies between where it is and the wanted frame. A packet that cannot be decoded is counted and passed
over, and the nearest good frame is given in place of a missing one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from crosslmm.errors import VideoError
from crosslmm.video import image
from crosslmm.video.frames import Frame
from crosslmm.video.index import PacketIndex, packets
from crosslmm.video.sampling import Target
from crosslmm.video.source import open_container, video_stream

if TYPE_CHECKING:
    from crosslmm.video.prefetch import Heartbeat
    from crosslmm.video.probe import Plan

# More threads than this were slower on two cores; fewer cost a third of the speed.
_THREADS = 2

# Codecs whose frames marked as no reference are truly needed by no other frame. (In HEVC another
# temporal layer may still need them.)
_DROPPABLE = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4"})

# Frames that a decoder may still owe at the end; a damaged one can raise without end.
_MOST_LATE = 64

# Packets read after a seek in search of one keyframe.
_MOST_BEFORE_KEY = 256


class Decoder:
    """An open file and the frames decoded from it, in presentation order from wherever it sought.

    ``bad_pts`` are the times of packets that could not be decoded, ``bad_reads`` counts errors
    between packets. ``wanted`` makes it pass over
    the frames at other times which no frame refers to; that halves the cost of exact frames.
    """

    def __init__(self, path: str, *, heartbeat: "Heartbeat", deadline: float) -> None:
        self.path, self.heartbeat, self.deadline = path, heartbeat, deadline
        self.bad_pts: set[int] = set()
        self.wanted: frozenset[int] | None = None
        self.bad_reads = 0
        self._open()

    def _open(self) -> None:
        self.container = open_container(self.path, deadline=self.deadline)
        try:
            self.stream = video_stream(self.container, self.path)
            self.stream.codec_context.thread_type = "AUTO"
            self.stream.codec_context.thread_count = _THREADS
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. Its stream is let go first: using it afterwards is a use after free."""
        self.stream = None
        self.container.close()

    def droppable(self) -> bool:
        """Whether frames that no frame refers to can be told from the others."""
        return self.stream.codec_context.codec.name in _DROPPABLE

    def from_start(self) -> Iterator[Any]:
        """All frames from the start, in a newly opened file."""
        self.close()
        self._open()
        return self._frames()

    def from_key(self, pts: int) -> Iterator[Any]:
        """Frames from the keyframe at or before ``pts``."""
        import av

        try:
            self.container.seek(pts, stream=self.stream, backward=True)
        except av.error.FFmpegError:
            return self.from_start()
        return self._frames()

    def key_alone(self, pts: int) -> Any | None:
        """The keyframe at ``pts``, decoded without what follows; None where that fails."""
        import av

        try:
            self.container.seek(pts, stream=self.stream, backward=True)
            for read, packet in enumerate(self._packets()):
                if packet.pts == pts:
                    frames = [*packet.decode(), *self.stream.codec_context.decode(None)]
                    return next((frame for frame in frames if frame.pts == pts), None)
                if read > _MOST_BEFORE_KEY:
                    return None
        except av.error.FFmpegError:
            self.bad_pts.add(pts)
        return None

    def _packets(self) -> Iterator[Any]:
        return packets(
            self.container, self.stream, heartbeat=self.heartbeat, on_error=self._count_bad
        )

    def _count_bad(self, pts: int | None = None) -> None:
        if pts is None:
            self.bad_reads += 1
        else:
            self.bad_pts.add(pts)

    def _frames(self) -> Iterator[Any]:
        import av

        context = self.stream.codec_context
        context.skip_frame = "DEFAULT"
        for packet in self._packets():
            if packet.is_corrupt:
                self._count_bad(packet.pts)
            if self.wanted is not None:
                context.skip_frame = "DEFAULT" if packet.pts in self.wanted else "NONREF"
            try:
                frames = packet.decode()
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                self._count_bad(packet.pts)
                continue
            yield from frames
        for _ in range(_MOST_LATE):
            self.heartbeat()
            try:
                yield from context.decode(None)
                return
            except av.error.EOFError:
                return
            except av.error.FFmpegError:
                self._count_bad()


class PyAVReader:
    """Reads the frames of a plan; ``warnings`` and ``bad_packets`` are complete at the end."""

    name = "pyav"

    def __init__(self, plan: "Plan", *, heartbeat: "Heartbeat", deadline: float) -> None:
        self.plan = plan
        self.warnings: list[str] = []
        self.bad_packets = 0
        self._heartbeat, self._deadline = heartbeat, deadline

    def read(self) -> Iterator[Frame]:
        """The frames of the plan, ascending; ``VideoError`` when there is not one good one."""
        index, plan = self.plan.index, self.plan
        decoder = Decoder(plan.path, heartbeat=self._heartbeat, deadline=self._deadline)
        fetch: _CountingFetch | _SeekingFetch
        if index.sequential:
            fetch = _CountingFetch(decoder)
        else:
            fetch = _SeekingFetch(decoder, index, plan.targets)
        converter = Converter()
        last, damage = -1, _Damage()
        try:
            for target in plan.targets:
                number, frame = fetch(target.index, target.key)
                if frame is not None and fetch.suspect(frame):
                    number, frame = fetch.better(number, frame, after=last)
                    damage.suspect += fetch.suspect(frame)
                if frame is None or number <= last:
                    damage.lost += 1
                    continue
                pixels = self._convert(converter, frame, decoder)
                if pixels is None:
                    damage.lost += 1
                    continue
                last = number
                damage.given += 1
                damage.replaced += number != target.index
                yield Frame(
                    image.resize(pixels, plan.size, plan.resample),
                    number,
                    float(index.times[number]),
                )
        finally:
            bad_pts = decoder.bad_pts | index.bad_pts
            self.bad_packets = len(bad_pts) + max(index.bad_reads, decoder.bad_reads)
            self.warnings = damage.words(self.bad_packets)
            fetch.release()
            decoder.close()
        if not damage.given:
            raise VideoError(f"{plan.path}: not one frame of this video could be decoded")

    @staticmethod
    def _convert(converter: "Converter", frame: Any, decoder: Decoder) -> np.ndarray | None:
        """The frame's pixels; None where its format or colours are damaged."""
        import av

        try:
            return converter(frame, decoder.stream.sample_aspect_ratio)
        except av.error.FFmpegError:
            decoder.bad_pts.add(frame.pts)
            return None


@dataclass
class _Damage:
    """What became of the wanted frames."""

    given: int = 0
    replaced: int = 0
    lost: int = 0
    suspect: int = 0

    def words(self, bad_packets: int) -> list[str]:
        """The warnings, most often none."""
        wanted = self.given + self.lost
        said = []
        if self.replaced:
            said.append(f"the nearest good frame stands in for {self.replaced} of {wanted}")
        if self.lost:
            said.append(f"{self.lost} of {wanted} were left out, with no good frame of their own")
        if self.suspect:
            said.append(f"{self.suspect} of {wanted} follow a damaged place and may show it")
        if not bad_packets and not said:
            return []
        if bad_packets:
            said.insert(0, f"{bad_packets} packet{'s' * (bad_packets != 1)} could not be decoded")
        return ["damaged video: " + "; ".join(said)]


class _SeekingFetch:
    """Fetches frames by their presentation time; numbers must ascend."""

    def __init__(self, decoder: Decoder, index: PacketIndex, targets: Sequence[Target]) -> None:
        self.decoder, self.pts = decoder, index.pts
        self.keys, self.key_pts = index.keys, index.pts[index.keys]
        self.targets = np.array([target.index for target in targets])
        self.bad_pts = index.bad_pts
        if decoder.droppable():
            decoder.wanted = frozenset(int(self.pts[target.index]) for target in targets)
        self.release()

    def release(self) -> None:
        """Let go of every frame held."""
        self.run: Iterator[Any] | None = None
        self.before: Any = None
        self.ahead: Any = None

    def __call__(self, number: int, key: bool) -> tuple[int, Any]:
        """The frame of that number, or the nearest good one: (its number, it), (_, None)."""
        wanted = int(self.pts[number])
        if key:
            self.release()
            frame = self.decoder.key_alone(wanted)
            if frame is not None:
                return number, frame
        frame = self._exact(wanted)
        if frame is None:
            return number, None
        return self._number(frame.pts), frame

    def suspect(self, frame: Any) -> bool:
        """Whether something between the frame and its keyframe could not be decoded."""
        if frame.is_corrupt:
            return True
        before = self.key_pts[self.key_pts <= frame.pts]
        key = before[-1] if len(before) else self.pts[0]
        return any(key <= pts <= frame.pts for pts in self.decoder.bad_pts | self.bad_pts)

    def better(self, number: int, frame: Any, *, after: int) -> tuple[int, Any]:
        """The keyframe nearest to a suspect frame, if it is good, wanted by none, and near."""
        upcoming = self.targets[self.targets > number]
        limit = int(upcoming[0]) if len(upcoming) else len(self.pts)
        keys = self.keys[(self.keys > after) & (self.keys < limit) & (self.keys != number)]
        for key in sorted(keys, key=lambda key: abs(int(self.pts[key]) - frame.pts))[:2]:
            self.release()
            found = self.decoder.key_alone(int(self.pts[key]))
            if found is not None and not self.suspect(found):
                return int(key), found
        return number, frame

    def _number(self, pts: int) -> int:
        return max(0, int(np.searchsorted(self.pts, pts, side="right")) - 1)

    def _exact(self, wanted: int) -> Any | None:
        key = int(np.searchsorted(self.key_pts, wanted, side="right")) - 1
        position = self.ahead or self.before
        if self.run is None or (
            key >= 0 and (position is None or int(self.key_pts[key]) > position.pts)
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
            self.run = self.decoder.from_start()
        else:
            self.run = self.decoder.from_key(int(self.key_pts[key]))

    def _advance(self, wanted: int) -> bool:
        """Decode until ``ahead`` is at or past ``wanted``; whether it is exactly there."""
        assert self.run is not None
        while self.ahead is None or self.ahead.pts < wanted:
            if self.ahead is not None:
                self.before = self.ahead
            self.ahead = next((frame for frame in self.run if frame.pts is not None), None)
            if self.ahead is None:
                return False
        return self.ahead.pts == wanted

    def _nearest(self, wanted: int) -> Any | None:
        candidates = [frame for frame in (self.before, self.ahead) if frame is not None]
        return min(candidates, key=lambda frame: abs(frame.pts - wanted), default=None)


class _CountingFetch:
    """Fetches frames by counting from the start, for containers without presentation times."""

    def __init__(self, decoder: Decoder) -> None:
        self.run: Iterator[Any] | None = decoder.from_start()
        self.frame: Any = None
        self.number = -1

    def release(self) -> None:
        self.run = self.frame = None

    def __call__(self, number: int, key: bool) -> tuple[int, Any]:
        while self.number < number and self.run is not None:
            frame = next(self.run, None)
            if frame is None:
                break
            self.frame, self.number = frame, self.number + 1
        return self.number, self.frame

    def suspect(self, frame: Any) -> bool:
        """Whether the decoder itself marks the frame as damaged."""
        return bool(frame.is_corrupt)

    def better(self, number: int, frame: Any, *, after: int) -> tuple[int, Any]:
        """Nothing better can be sought here."""
        return number, frame


class Converter:
    """FFmpeg frames to upright (H, W, 3) uint8 RGB with square pixels, at full size."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._rotation = 0
        self._orientation: image.Orientation | None = None

    def __call__(self, frame: Any, aspect: Fraction | None) -> np.ndarray:
        width, height = image.square(frame.width, frame.height, aspect)
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="BICUBIC", threads=1
        )
        if self._orientation is None or frame.rotation != self._rotation:
            self._rotation, self._orientation = frame.rotation, orientation(frame)
        return self._orientation.apply(rgb.to_ndarray())


def orientation(frame: Any) -> image.Orientation:
    """How the frame's display matrix says that it is brought upright.

    Not for every frame: looking at its side data ties the frame into a reference cycle, and frames
    would pile up until the garbage collector runs.
    """
    from av.sidedata.sidedata import Type

    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    return image.Orientation() if matrix is None else image.Orientation.from_matrix(bytes(matrix))
