"""Opening a video and refusing what is none.

FFmpeg opens almost anything: a text file as an "ansi" film, an mp3's cover as a one-frame video, a
playlist as the files that it names. So the kinds of input that only look like a video are kept from
it, by name, and no protocol but plain files is allowed.
"""

import os
import stat
from dataclasses import dataclass
from functools import cache
from typing import Any

from crosslmm.errors import VideoError

# Demuxers that read other files or the network, capture devices, or text and pictures as video.
_REFUSED_FORMATS = """
adf alias_pix avisynth bin brender_pix concat dash data fbdev ffmetadata hls idf image2 image2pipe
imf kmsgrab lavfi rawvideo rtp rtsp sap sdp tedcaptions tty txd video4linux2,v4l2 vapoursynth
webm_dash_manifest x11grab xbin
"""


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """A video as it was found.

    ``duration`` in seconds; ``fps`` the mean rate; ``size`` (height, width) upright, with square
    pixels; ``rotation`` the clockwise turn in degrees (0, 90, 180, 270) that its tag asked for and
    that the frames already have; ``frame_count`` the frames that are shown; ``reader`` the one that
    decoded it; ``damaged_packets`` those met so far that could not be decoded.
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


def regular_file(path: str | bytes | os.PathLike) -> str:
    """``path`` as text if it is a non-empty regular file that may be read, else ``VideoError``."""
    name = os.fsdecode(path)
    try:
        status = os.stat(name)
    except (OSError, ValueError) as error:
        if "://" in name:
            raise VideoError(
                f"{name}: this is an address; only local files are read, download it first"
            ) from error
        if isinstance(error, PermissionError):
            raise VideoError(f"{name}: no permission to reach this file") from error
        raise VideoError(f"{name}: there is no such file") from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(f"{name}: this is a folder; give a video file in it")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{name}: this is no regular file but a pipe, socket or device")
    if status.st_size == 0:
        raise VideoError(f"{name}: this file is empty")
    try:
        with open(name, "rb"):
            pass
    except OSError as error:
        raise VideoError(f"{name}: this file cannot be read ({error.strerror})") from error
    return name


def open_container(path: str, *, deadline: float) -> Any:
    """PyAV's container of ``path``, or ``VideoError`` in the user's words."""
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
    """The stream to watch; cover art is none. ``VideoError`` where there is none."""
    from av.stream import Disposition

    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        streams = list(container.streams)
        what = "only sound" if any(s.type == "audio" for s in streams) else "no pictures"
        raise VideoError(f"{path}: there is {what} in this file, no video")
    if stream.codec_context is None:
        raise VideoError(f"{path}: its video is in a format that no reader here knows")
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
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[4:8] == b"ftyp":
        return (
            "its index is missing, so it cannot be played; it was cut off, "
            "perhaps while being downloaded or recorded"
        )
    if head.startswith((b"#EXTM3U", b"ffconcat", b"<?xml", b"v=0")):
        return "this is a list of other files or addresses; give the video itself"
    if b"\0" not in head and not any(byte < 9 for byte in head):
        return "this is text, not a video"
    reason = getattr(error, "strerror", None) or str(error)
    return f"this is not a video that can be read ({reason})"
