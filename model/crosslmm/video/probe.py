"""What a file is, found once before any frame is read: its packet index, codec, size and flaws."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from crosslmm.errors import VideoError
from crosslmm.limits import DEADLINE, MAX_PIXELS
from crosslmm.options import Sampling
from crosslmm.video.converter import orientation_of
from crosslmm.video.decoder import Decoder
from crosslmm.video.file import Identity, VideoFile, check_identity
from crosslmm.video.image import Orientation, check_size, image_format, read_image, square
from crosslmm.video.index import PacketIndex, scan
from crosslmm.video.prefetch import Heartbeat
from crosslmm.video.source import SourceInfo, open_container, video_stream


@dataclass(frozen=True, eq=False)
class VideoProbe:
    """A file as it was found, whatever is then asked of it.

    `image` (H, W, 3) uint8 holds the pixels where the source is an image. `warnings` are about the
    file; `mirrored` says that it asks to be shown left to right. `identity` is that of the file, for
    whoever opens it again.
    """

    source: SourceInfo
    index: PacketIndex
    warnings: tuple[str, ...] = ()
    mirrored: bool = False
    image: np.ndarray | None = None
    identity: Identity | None = None


def check_file(path: str, *, deadline: float = DEADLINE, max_pixels: int = MAX_PIXELS) -> None:
    """Raise `VideoError` for what is neither an image nor a video, or too large, by its header only:
    quick, however long the video is. Damage further on is found when it is read."""
    with VideoFile(path, deadline=deadline) as file:
        kind = image_format(path, file.head)
        if kind is not None:
            read_image(file, kind, max_pixels=max_pixels, size=(1, 1))
            return
        with open_container(file) as container:
            stream = video_stream(container, path)
            context, aspect = stream.codec_context, stream.sample_aspect_ratio
            check_size(path, context.width, context.height, aspect, max_pixels=max_pixels)


def probe_file(
    path: str, sampling: Sampling, *, heartbeat: Heartbeat, size: tuple[int, int] | None = None
) -> tuple[VideoProbe, Decoder | None]:
    """Probe a video or an image; size: (height, width) that a large image need not be much larger
    than. Raises `VideoError` where it gives no frames.

    A video's decoder comes back open, for the same thread to read on with; the caller closes it.
    """
    file = VideoFile(path, deadline=sampling.deadline, cancelled=heartbeat.cancelled.is_set)
    file.open()
    try:
        kind = image_format(path, file.head)
        if kind is not None:
            with file:
                return _probe_image(file, kind, sampling.max_pixels, size), None
        decoder = Decoder(file, heartbeat=heartbeat, max_pixels=sampling.max_pixels)
        decoder.open()
    except BaseException:
        file.close()
        raise
    try:
        return _probe_video(decoder), decoder
    except BaseException:
        decoder.close()
        raise


def open_again(probe: VideoProbe, sampling: Sampling, *, heartbeat: Heartbeat) -> VideoFile:
    """The probed file, open. Raises `VideoError`, also where it is another one by now."""
    path = probe.source.path
    file = VideoFile(path, deadline=sampling.deadline, cancelled=heartbeat.cancelled.is_set)
    file.open()
    check_identity(file, probe.identity)
    return file


def _probe_video(decoder: Decoder) -> VideoProbe:
    path, stream = decoder.path, decoder.stream
    codec = stream.codec_context.name
    container = decoder.container.format.name.split(",")[0]
    declared = _declared_duration(stream, container)
    aspect = stream.sample_aspect_ratio
    index = scan(decoder)
    if index is None:
        raise VideoError(f"{path}: this video shows no frames; it may be cut off")
    upright, size, first = _probe_first_frame(decoder, aspect)
    intact = not decoder.bad_pts and not decoder.bad_reads
    if intact and first is not None and not index.sequential:
        index = index.shown_from(first)
    source = SourceInfo(
        path=path,
        duration=index.duration,
        fps=len(index) / index.duration,
        size=size,
        codec=codec,
        container=container,
        rotation=upright.clockwise,
        frame_count=len(index),
        reader="pyav",
    )
    return VideoProbe(
        source,
        index,
        warnings=tuple(_missing_end(index, declared)),
        mirrored=upright.mirrored,
        identity=decoder.file.identity,
    )


def _probe_first_frame(
    decoder: Decoder, aspect: Fraction | None
) -> tuple[Orientation, tuple[int, int], int | None]:
    """Of the first good frame: orientation, upright (height, width), pts."""
    decoder.reset_damage()
    frame = next(decoder.decode_from_start(), None)
    if frame is None:
        raise VideoError(f"{decoder.path}: no frame of this video could be decoded")
    upright = orientation_of(frame)
    return upright, upright.shape(*square(frame.width, frame.height, aspect)), frame.pts


def _declared_duration(stream: Any, container: str) -> float | None:
    """Seconds that the header gives the video stream, None where it gives the file's only."""
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
        f"the header says {declared:.6g} s, but the file holds only {index.duration:.6g} s; "
        "it was probably cut off"
    ]


def _probe_image(
    file: VideoFile, kind: str, max_pixels: int, size: tuple[int, int] | None
) -> VideoProbe:
    pixels, shown, warnings = read_image(file, kind, max_pixels=max_pixels, size=size)
    index = PacketIndex(
        pts=np.zeros(1, dtype=np.int64),
        keys=np.zeros(1, dtype=np.int64),
        time_base=Fraction(1),
        tail=0,
    )
    source = SourceInfo(
        path=file.path,
        duration=0.0,
        fps=0.0,
        size=shown,
        codec=kind.lower(),
        container="image",
        rotation=0,
        frame_count=1,
        reader="pillow",
    )
    return VideoProbe(source, index, warnings=tuple(warnings), image=pixels, identity=file.identity)
