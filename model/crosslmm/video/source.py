"""Opening a video, and refusing what is not one.

FFmpeg opens almost anything: a text file as an "ansi" video, an mp3's cover as a one-frame video, a
playlist as the files that it names. So the demuxers that take something else for a video are
excluded by name, and no protocol but plain files is allowed.
"""

import os
import re
import stat
from dataclasses import dataclass
from functools import cache
from typing import Any

from crosslmm.errors import VideoError

# Demuxers that read other files or the network, capture devices, or text and images as video.
_REFUSED_FORMATS = """
adf alias_pix avisynth bin brender_pix concat dash data fbdev ffmetadata hls idf image2 image2pipe
imf kmsgrab lavfi rawvideo rtp rtsp sap sdp tedcaptions tty txd video4linux2,v4l2 vapoursynth
webm_dash_manifest x11grab xbin
"""


_HEAD = 4096  # bytes that tell images, text and playlists from videos


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


def regular_file(path: str | bytes | os.PathLike[str]) -> str:
    """`path` as text if it is a non-empty regular file that may be read, else `VideoError`."""
    name = os.fsdecode(path)
    read_head(name)
    return name


def read_head(path: str) -> bytes:
    """The first bytes of a non-empty regular file, else `VideoError`; a pipe is never opened."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        if "://" in path:
            raise VideoError(
                f"{path}: this is a URL; only local files are supported, download it first"
            ) from error
        if isinstance(error, PermissionError):
            raise VideoError(f"{path}: permission denied") from error
        raise VideoError(f"{path}: no such file") from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(f"{path}: this is a folder; give a video file in it")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{path}: not a regular file ({_kind(status.st_mode)})")
    if status.st_size == 0:
        raise VideoError(f"{path}: the file is empty")
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from error


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def open_container(path: str, *, deadline: float) -> Any:
    """Open `path` with PyAV. Raises `VideoError` that says what is wrong with it."""
    import av

    try:
        return av.open(
            # The prefix keeps a name like "concat:a|b" a name.
            "file:" + os.path.abspath(path),
            metadata_errors="replace",
            timeout=deadline,
            options={"protocol_whitelist": "file", "format_whitelist": _allowed_formats()},
        )
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: {_why_not_opened(path, error)}") from error


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


@cache
def _allowed_formats() -> str:
    import av

    refused = set(_REFUSED_FORMATS.split())
    return ",".join(
        sorted(
            name
            for name in av.formats_available
            if name not in refused and not name.endswith("_pipe")
        )
    )


def _why_not_opened(path: str, error: Exception) -> str:
    head = read_head(path)
    if re.search(r"%\d*d", os.path.basename(path)):
        return "FFmpeg takes a name with %d for a numbered sequence of images; rename the file"
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
