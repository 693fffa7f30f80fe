"""Opening a video, and refusing what is not one.

FFmpeg opens almost anything: a text file as an "ansi" video, an mp3's cover as a one-frame video, a
playlist as the files that it names. So only the containers of this list are opened, and no protocol:
FFmpeg reads through a file that is open already, and can open no other one.
"""

import errno
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

from crosslmm.errors import VideoError
from crosslmm.options import Sampling
from crosslmm.video.file import VideoFile

# Those of videos, as a person has them; then sound, to say that there is only sound.
_FORMATS = """
mov matroska webm avi mpegts mpeg mpegvideo asf flv ogg rm mxf gxf nut dv wtv swf ivr nsv gif apng ivf
h261 h263 h264 hevc vvc evc m4v mjpeg obu av1 vc1 cavsvideo avs2 avs3 dirac yuv4mpegpipe
aac ac3 aiff flac mp3 wav
"""


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """A video or image as it was found.

    `duration` in seconds; `fps` the mean rate; `size` (height, width) upright, with square
    pixels; `rotation` the clockwise turn in degrees (0, 90, 180, 270) that its tag asked for and
    that the frames already have; `frame_count` the frames that are shown; `reader` the one that
    decoded it; `damaged_packets` those met so far that could not be decoded.
    """

    path: str
    duration: float
    fps: float
    size: tuple[int, int]
    codec: str
    container: str
    rotation: int
    frame_count: int
    reader: str
    damaged_packets: int = 0


def over_time(path: str, sampling: Sampling) -> VideoError:
    """The error for a file that takes longer than it may."""
    return VideoError(
        f"{path}: reading took over {sampling.file_timeout:g} s; raise `file_timeout`"
    )


def open_container(file: VideoFile) -> Any:
    """Open an open file with PyAV. Raises `VideoError` that says what is wrong with it."""
    import av

    file.seek(0)
    file.expect_frame()
    try:
        container = av.open(
            _ForFFmpeg(file),
            metadata_errors="replace",
            options={
                "protocol_whitelist": "none",
                "format_whitelist": ",".join(_FORMATS.split()),
                "codec_whitelist": _probing_codecs(),
            },
        )
    except av.error.FFmpegError as error:
        file.check()
        raise VideoError(f"{file.path}: {_why_not_opened(file.head, error)}") from error
    try:
        file.check()
    except VideoError:
        container.close()
        raise
    return container


@cache
def _probing_codecs() -> str:
    """What FFmpeg may decode with while it opens a file: before it is known how large the frames are,
    and by default as many of H.264's as its decoder keeps, up to sixteen. The parser of H.264 finds all
    that is needed; of some others, such as MPEG-2, it does not find the pixels' aspect ratio.
    """
    import av

    return ",".join(sorted(name for name in av.codecs_available if not name.startswith("h264")))


class _ForFFmpeg:
    """The file as FFmpeg knows files: a seek that fails gives a negative number, and it goes on."""

    def __init__(self, file: VideoFile) -> None:
        self.name, self.read, self.tell = file.name, file.read, file.tell
        self._seek = file.seek

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._seek(offset, whence)
        except OSError as error:
            return -(error.errno or errno.EIO)


def video_stream(container: Any, path: str) -> Any:
    """The best video stream, which cover art is not. Raises `VideoError` where there is none."""
    from av.stream import Disposition

    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        streams = list(container.streams)
        found = "only audio" if any(s.type == "audio" for s in streams) else "no video"
        raise VideoError(f"{path}: there is {found} in this file")
    if stream.codec_context is None:
        raise VideoError(f"{path}: its video codec is unknown to FFmpeg")
    return stream


def _why_not_opened(head: bytes, error: Exception) -> str:
    if head[4:8] == b"ftyp":
        return (
            "its index is missing; the file was probably cut off while being downloaded or recorded"
        )
    if head.startswith((b"#EXTM3U", b"ffconcat", b"<?xml", b"v=0")):
        return "this is a playlist, not a video; give the video itself"
    if b"\0" not in head and not any(byte < 9 for byte in head):
        return "this is text, not a video"
    reason = getattr(error, "strerror", None) or str(error)
    return f"not a video that FFmpeg can read ({reason})"
