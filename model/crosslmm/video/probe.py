"""What is to be read of a video: found once, by PyAV, before any reader decodes."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from crosslmm.errors import VideoError
from crosslmm.options import Sampling
from crosslmm.video import image
from crosslmm.video.index import PacketIndex, scan
from crosslmm.video.prefetch import Heartbeat
from crosslmm.video.readers.pyav import Decoder, orientation
from crosslmm.video.sampling import Target, choose
from crosslmm.video.source import SourceInfo, open_container, regular_file, video_stream


@dataclass(frozen=True, eq=False)
class Plan:
    """The frames to read, of what, and at which ``size`` (height, width).

    ``still`` (H, W, 3) holds the picture itself where the source is one. Of the ``warnings``,
    ``flaws`` are those about the file, whatever is asked of it.
    """

    path: str
    source: SourceInfo
    index: PacketIndex
    targets: tuple[Target, ...]
    size: tuple[int, int]
    resample: int
    warnings: tuple[str, ...] = ()
    flaws: tuple[str, ...] = ()
    mirrored: bool = False
    still: np.ndarray | None = None

    def answering(
        self, sampling: Sampling, *, size: tuple[int, int] | None, resample: int
    ) -> "Plan":
        """The plan for other frames of the same file, which is not looked through again.

        Raises ``VideoError`` when the range lies beyond the video.
        """
        targets: tuple[Target, ...] = (Target(0),)
        warnings: list[str] = []
        if self.still is None:
            targets, warnings = choose(self.index, sampling, path=self.path)
        elif sampling.start:
            raise VideoError(
                f"{self.path}: start ({sampling.start:g} s) lies beyond a still picture"
            )
        return replace(
            self,
            targets=targets,
            size=size or self.source.size,
            resample=resample,
            warnings=(*self.flaws, *warnings),
        )

    def after(self, number: int) -> "Plan":
        """The part of the plan that lies after frame ``number``."""
        return replace(self, targets=tuple(t for t in self.targets if t.index > number))


def make_plan(
    path: str,
    sampling: Sampling,
    *,
    size: tuple[int, int] | None,
    resample: int,
    heartbeat: Heartbeat,
    deadline: float,
) -> Plan:
    """Look through the file and choose its frames; ``VideoError`` where it gives none."""
    path = regular_file(path)
    kind = image.still_format(path)
    if kind is not None:
        plan = _still_plan(path, kind, resample=resample)
        return plan.answering(sampling, size=size, resample=resample)

    container = open_container(path, deadline=deadline)
    try:
        stream = video_stream(container, path)
        codec = stream.codec_context.name
        format_name = container.format.name.split(",")[0]
        aspect = stream.sample_aspect_ratio
        declared = _declared_duration(stream, format_name)
        index = scan(container, stream, heartbeat=heartbeat)
    finally:
        stream = None
        container.close()
    if index is None:
        raise VideoError(f"{path}: this video has no frames that are shown; it may be cut off")

    upright, shape, first, bad = _first_frame(path, aspect, heartbeat=heartbeat, deadline=deadline)
    if not bad and first is not None and not index.sequential:
        index = index.shown_from(first)
    source = SourceInfo(
        path=path,
        duration=index.duration,
        fps=len(index) / index.duration,
        size=shape,
        codec=codec,
        container=format_name,
        rotation=upright.clockwise,
        frame_count=len(index),
        reader="pyav",
    )
    plan = Plan(
        path,
        source,
        index,
        (),
        shape,
        resample,
        flaws=tuple(_missing_end(index, declared)),
        mirrored=upright.mirrored,
    )
    return plan.answering(sampling, size=size, resample=resample)


def _declared_duration(stream: Any, container: str) -> float | None:
    """Seconds that the header gives the video, where it does not mean the whole file's."""
    if container in ("mov", "avi") and stream.duration is not None:
        return float(stream.duration * stream.time_base)
    match = re.match(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _missing_end(index: PacketIndex, declared: float | None) -> list[str]:
    if declared is None or index.hidden or declared - index.duration < max(1.0, 0.02 * declared):
        return []
    return [
        f"the file says that it lasts {declared:.6g} s, but only {index.duration:.6g} s are there; "
        "it was probably cut off"
    ]


def _first_frame(
    path: str, aspect: Fraction | None, *, heartbeat: Heartbeat, deadline: float
) -> tuple[image.Orientation, tuple[int, int], int | None, int]:
    """Of the first good frame: orientation, upright (height, width), pts, bad packets before."""
    decoder = Decoder(path, heartbeat=heartbeat, deadline=deadline)
    try:
        frame = next(decoder.from_start(), None)
        if frame is None:
            raise VideoError(f"{path}: not one frame of this video could be decoded")
        upright = orientation(frame)
        shape = upright.shape(*image.square(frame.width, frame.height, aspect))
        return upright, shape, frame.pts, len(decoder.bad_pts) + decoder.bad_reads
    finally:
        frame = None
        decoder.close()


def _still_plan(path: str, kind: str, *, resample: int) -> Plan:
    pixels, warnings = image.read_still(path, kind)
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
    return Plan(path, source, index, (), source.size, resample, flaws=tuple(warnings), still=pixels)
