"""An open video file and the frames decoded from it, by PyAV.

One decoder belongs to one thread: the one that probes the file and then reads it. FFmpeg's objects
must not be touched once their file is closed: that is a use after free.
"""

import errno
from collections.abc import Callable, Iterator
from itertools import chain
from math import prod
from typing import Any

from crosslmm.limits import LARGE_PIXELS, MAX_PIXELS
from crosslmm.video.file import VideoFile
from crosslmm.video.image import check_size, square
from crosslmm.video.memory_limit import memory_is_limited, memory_left
from crosslmm.video.source import open_container, video_stream

# More threads than this were slower on two cores; fewer cost a third of the speed.
_THREADS = 2

# Read errors in a row after which the rest of a file is skipped.
_MOST_FAILURES = 8

# Codecs whose frames marked as no reference are truly needed by no other frame. (In HEVC another
# temporal layer may still need them.)
_DROPPABLE = frozenset({"h264", "mpeg1video", "mpeg2video", "mpeg4"})

# Frames that a decoder may still owe at the end; a damaged one can raise without end.
_MOST_LATE = 64

# Packets read after a seek in search of one keyframe.
_MOST_BEFORE_KEY = 256


class LargeFrames(Exception):
    """The video's frames are so large that it must be read apart, see `apart`."""


class Decoder:
    """The packets and frames of the best video stream of a file; frames in presentation order.

    `heartbeat` is called at each packet. `bad_pts` are the times of packets that could not be decoded,
    `bad_reads` counts errors between packets. `wanted` makes it skip the frames at other times which
    no frame refers to; that halves the cost of exact frames.

    file: open; it is the decoder's from here on, which closes it.
    """

    def __init__(
        self, file: VideoFile, *, heartbeat: Callable[[], None], max_pixels: int = MAX_PIXELS
    ) -> None:
        self.path, self.file, self.heartbeat = file.path, file, heartbeat
        self.max_pixels = max_pixels
        self.container: Any = None
        self.stream: Any = None
        self.wanted: frozenset[int] | None = None
        self._first: tuple[Any, ...] | None = None
        self._untouched = False
        self.reset_damage()

    def open(self) -> None:
        """Find the video in the file. Raises `VideoError` and LargeFrames, and then it is closed."""
        try:
            self.container = open_container(self.file)
            self.stream = video_stream(self.container, self.path)
            context, aspect = self.stream.codec_context, self.stream.sample_aspect_ratio
            check_size(self.path, context.width, context.height, aspect, max_pixels=self.max_pixels)
            most = self.max_pixels
            if not memory_is_limited():
                if prod(square(context.width, context.height, aspect)) > LARGE_PIXELS:
                    raise LargeFrames
                most = min(most, LARGE_PIXELS)
            context.thread_type = "AUTO"
            context.thread_count = _THREADS
            # A frame further on may be larger than the header says.
            context.options = {"max_pixels": str(most)}
        except BaseException:
            self.close()
            raise
        self._untouched = True

    def close(self) -> None:
        """Close the file, once; its stream is let go first."""
        self._close_container()
        self.file.close()

    def _close_container(self) -> None:
        container, self.container, self.stream = self.container, None, None
        if container is not None:
            container.close()

    def reset_damage(self) -> None:
        """Count damage from here on."""
        self.bad_pts: set[int] = set()
        self.bad_reads = 0

    def can_drop_frames(self) -> bool:
        """Whether frames that no frame refers to can be told from the others."""
        return self.stream.codec_context.codec.name in _DROPPABLE

    def packets(self) -> Iterator[Any]:
        """The packets from here on, past read errors."""
        import av

        failures = 0
        while failures < _MOST_FAILURES:
            try:
                for packet in self.container.demux(self.stream):
                    self.file.check()
                    self.file.expect_frame()
                    self.heartbeat()
                    failures = 0
                    if self._untouched and packet.size:
                        self._untouched, self._first = False, _identity(packet)
                    if packet.size:
                        yield packet
                        self.file.expect_frame()  # whoever took the packet may have had it for long
                self.file.check()
                return
            except (av.error.EOFError, IndexError):
                self.file.check()
                return  # PyAV raises an IndexError at the end where damage made a stream appear
            except av.error.FFmpegError:
                self.bad_reads += 1
                self._untouched = False
                failures += 1

    def decode_from_start(self) -> Iterator[Any]:
        """All frames from the start."""
        packets = self._rewound()
        if packets is None:
            # Many a demuxer cannot seek, or not to the first packet: raw streams, MPEG-TS, some GIFs.
            self._close_container()
            self.open()
            packets = self.packets()
        return self._frames(packets)

    def decode_from_key(self, pts: int) -> Iterator[Any]:
        """Frames from the keyframe at or before `pts`."""
        import av

        try:
            self._seek(pts)
        except av.error.FFmpegError:
            return self.decode_from_start()
        return self._frames(self.packets())

    def decode_keyframe(self, pts: int) -> Any | None:
        """The keyframe at `pts`, decoded without what follows; None where that fails."""
        import av

        try:
            self._seek(pts)
            for read, packet in enumerate(self.packets()):
                if packet.pts == pts:
                    frames = [*packet.decode(), *self.stream.codec_context.decode(None)]
                    return next((frame for frame in frames if frame.pts == pts), None)
                if read > _MOST_BEFORE_KEY:
                    return None
        except av.error.FFmpegError:
            self.bad_pts.add(pts)
        return None

    def _seek(self, pts: int) -> None:
        self._untouched = False
        self.file.expect_frame(limited=False)
        self.container.seek(pts, stream=self.stream, backward=True)

    def _rewound(self) -> Iterator[Any] | None:
        """The packets from the start, if they begin as those of a newly opened file do."""
        import av

        if self._untouched:
            return self.packets()
        if self._first is None:
            return None
        start = self._first[0] if self._first[0] is not None else self._first[1]
        if start is None:
            return None
        bad_reads = self.bad_reads
        try:
            self._seek(start)
        except av.error.FFmpegError:
            return None
        packets = self.packets()
        first = next(packets, None)
        if first is None or _identity(first) != self._first:
            self.bad_reads = bad_reads
            return None
        return chain([first], packets)

    def _frames(self, packets: Iterator[Any]) -> Iterator[Any]:
        import av

        context = self.stream.codec_context
        context.skip_frame = "DEFAULT"
        for packet in packets:
            if packet.is_corrupt:
                self._count_bad(packet.pts)
            if self.wanted is not None:
                context.skip_frame = "DEFAULT" if packet.pts in self.wanted else "NONREF"
            try:
                frames = packet.decode()
            except av.error.EOFError:
                break
            except av.error.FFmpegError as error:
                # Most decoders call it invalid data where they get no memory for a frame.
                if (
                    error.errno == errno.ENOMEM
                    or memory_left() < 3 * context.width * context.height
                ):
                    raise MemoryError from error
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
                self._count_bad(None)

    def _count_bad(self, pts: int | None) -> None:
        if pts is None:
            self.bad_reads += 1
        else:
            self.bad_pts.add(pts)


def _identity(packet: Any) -> tuple[Any, ...]:
    """What tells a packet from the others of its file, its decoding and presentation time first."""
    return packet.dts, packet.pts, packet.pos, packet.size, packet.is_keyframe
