"""What is to be read of a video: found once, by PyAV, before any reader decodes."""

from dataclasses import dataclass, replace

import numpy as np

from crosslmm.errors import VideoError
from crosslmm.video import picture
from crosslmm.video.index import PacketIndex, scan
from crosslmm.video.prefetch import Pulse
from crosslmm.video.pyav_reader import Decoder, quarter_turns
from crosslmm.video.sampling import Request, Target, choose
from crosslmm.video.source import SourceInfo, open_container, regular_file, video_stream


@dataclass(frozen=True, eq=False)
class Plan:
    """The frames to read, of what, and at which ``size`` (height, width).

    ``still`` (H, W, 3) holds the picture itself where the source is one.
    """

    path: str
    source: SourceInfo
    index: PacketIndex
    targets: tuple[Target, ...]
    size: tuple[int, int]
    resample: int
    warnings: tuple[str, ...] = ()
    still: np.ndarray | None = None

    def after(self, number: int) -> "Plan":
        """The part of the plan that lies after frame ``number``."""
        return replace(self, targets=tuple(t for t in self.targets if t.index > number))


def make_plan(
    path: str,
    request: Request,
    *,
    size: tuple[int, int] | None,
    resample: int,
    pulse: Pulse,
    deadline: float,
) -> Plan:
    """Look through the file and choose its frames; ``VideoError`` where it gives none."""
    path = regular_file(path)
    kind = picture.still_format(path)
    if kind is not None:
        return _still_plan(path, kind, request, size=size, resample=resample)

    container = open_container(path, deadline=deadline)
    try:
        stream = video_stream(container, path)
        codec = stream.codec_context.name
        format_name = container.format.name.split(",")[0]
        aspect = stream.sample_aspect_ratio
        index = scan(container, stream, beat=pulse)
    finally:
        stream = None
        container.close()
    if index is None:
        raise VideoError(f"{path}: this video has no frames that are shown; it may be cut off")

    turns, shape, first, bad = _first_frame(path, aspect, pulse=pulse, deadline=deadline)
    if not bad and first is not None and not index.sequential:
        index = index.shown_from(first)
    targets, warnings = choose(index, request, path=path)
    source = SourceInfo(
        path=path,
        duration=index.duration,
        fps=len(index) / index.duration,
        size=shape,
        codec=codec,
        container=format_name,
        rotation=-90 * turns % 360,
        frame_count=len(index),
        reader="pyav",
    )
    return Plan(path, source, index, targets, size or shape, resample, tuple(warnings))


def _first_frame(
    path: str, aspect: object, *, pulse: Pulse, deadline: float
) -> tuple[int, tuple[int, int], int | None, int]:
    """Of the first frame that decodes: turns, upright (height, width), pts, bad packets before."""
    decoder = Decoder(path, pulse=pulse, deadline=deadline)
    try:
        frame = next(decoder.from_start(), None)
        if frame is None:
            raise VideoError(f"{path}: not one frame of this video could be decoded")
        turns = quarter_turns(frame)
        width, height = picture.square(frame.width, frame.height, aspect)  # type: ignore[arg-type]
        shape = (width, height) if turns % 2 else (height, width)
        return turns, shape, frame.pts, decoder.bad_packets
    finally:
        frame = None
        decoder.close()


def _still_plan(
    path: str, kind: str, request: Request, *, size: tuple[int, int] | None, resample: int
) -> Plan:
    from fractions import Fraction

    pixels, warnings = picture.read_still(path, kind)
    index = PacketIndex(
        pts=np.zeros(1, dtype=np.int64),
        keys=np.zeros(1, dtype=np.int64),
        time_base=Fraction(1),
        tail=0,
    )
    source = SourceInfo(
        path=path,
        duration=0.0,
        fps=0.0,
        size=(pixels.shape[0], pixels.shape[1]),
        codec=kind.lower(),
        container="picture",
        rotation=0,
        frame_count=1,
        reader="pillow",
    )
    shown = size or source.size
    return Plan(path, source, index, (Target(0),), shown, resample, tuple(warnings), pixels)
