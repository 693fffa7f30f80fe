"""A short clip in every container, with every codec in it, that PyAV writes here; images by Pillow."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FRAMES = 12
FPS = 25
# Sizes that a codec insists on, and pixel formats, where they are not 96x64 and yuv420p.
SIZES = {"h261": (176, 144), "h263": (176, 144), "dvvideo": (720, 576)}
PIXELS = {
    "mjpeg": "yuvj420p",
    "png": "rgb24",
    "apng": "rgb24",
    "qtrle": "rgb24",
    "gif": "rgb8",
    "huffyuv": "yuv422p",
    "prores_ks": "yuv422p10le",
    "v210": "yuv422p",
    "cinepak": "rgb24",
    "zlib": "bgr24",
    "flashsv": "bgr24",
    "flashsv2": "bgr24",
    "zmbv": "bgr0",
    "rpza": "rgb555le",
    "msvideo1": "rgb555le",
}
AV1 = "libsvtav1"
OPTIONS = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    AV1: {"preset": "12"},
}
# By the name of FFmpeg's muxer.
CONTAINERS: dict[str, tuple[str, ...]] = {
    "mp4": ("libx264", "libx265", "mpeg4", AV1, "libvpx-vp9", "mpeg2video", "mjpeg", "png"),
    "mp4 in fragments": ("libx264", "libx265", AV1),
    "mov": (
        *("libx264", "prores_ks", "qtrle", "mjpeg", "png", "cinepak", "dvvideo", "h263"),
        *("jpeg2000", "v210", "rpza"),
    ),
    "3gp": ("h263", "libx264", "mpeg4"),
    "ismv": ("libx264",),
    "matroska": (
        *("libx264", "libx265", "libvpx", "libvpx-vp9", AV1, "ffv1", "mpeg4", "mpeg2video"),
        *("mjpeg", "rawvideo", "snow"),
    ),
    "webm": ("libvpx", "libvpx-vp9", AV1),
    "avi": (
        *("mpeg4", "libx264", "mjpeg", "msmpeg4v2", "msmpeg4", "h263p", "rawvideo", "huffyuv"),
        *("ffv1", "wmv1", "wmv2", "asv1", "asv2", "cinepak", "zlib", "flv", "dvvideo"),
        *("magicyuv", "utvideo", "jpeg2000", "snow", "msvideo1", "zmbv"),
    ),
    "mpegts": ("libx264", "libx265", "mpeg2video", "mpeg1video", "mpeg4"),
    "mpeg": ("mpeg1video", "mpeg2video"),
    "vob": ("mpeg2video",),
    "asf": ("wmv1", "wmv2", "msmpeg4", "libx264"),
    "wtv": ("mpeg2video", "libx264"),
    "flv": ("flv", "libx264", "libx265", "flashsv", "flashsv2"),
    "ogg": ("libvpx",),
    "nut": ("ffv1", "libx264", "snow", "mpeg4", "rawvideo", "ffvhuff", "huffyuv"),
    "mxf": ("mpeg2video", "libx264"),
    "gxf": ("mpeg2video",),
    "rm": ("rv10", "rv20"),
    "swf": ("flv", "mjpeg"),
    "ivf": ("libvpx", "libvpx-vp9", AV1),
    "dv": ("dvvideo",),
    "gif": ("gif",),
    "apng": ("apng",),
    "yuv4mpegpipe": ("rawvideo",),
    "h264": ("libx264",),
    "hevc": ("libx265",),
    "h261": ("h261",),
    "h263": ("h263",),
    "m4v": ("mpeg4",),
    "mjpeg": ("mjpeg",),
    "mpeg1video": ("mpeg1video",),
    "mpeg2video": ("mpeg2video",),
    "obu": (AV1,),
}
IMAGES = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF")


class Original(NamedTuple):
    """A file as it was written, before anything is done to it."""

    container: str
    codec: str
    data: bytes
    size: tuple[int, int]  # (width, height)


def write_originals(folder: Path, containers: dict[str, tuple[str, ...]]) -> Iterator[Original]:
    """Those that this build of PyAV writes; what it does not, is left out."""
    import av

    for container, codecs in containers.items():
        for codec in codecs:
            width, height = SIZES.get(codec, (96, 64))
            if container == "gxf":
                width, height = 720, 576
            path = folder / f"original.{container.split()[0]}"
            try:
                _write(path, container, codec, width, height)
            except (av.error.FFmpegError, ValueError, TypeError, AttributeError):
                continue
            finally:
                data = path.read_bytes() if path.exists() else b""
                path.unlink(missing_ok=True)
            yield Original(container, codec, data, (width, height))


def image_originals() -> Iterator[Original]:
    """One image of each kind that is read, 96x64 pixels."""
    import io

    from PIL import Image

    pixels = Image.fromarray(_picture(0, 96, 64))
    for kind in IMAGES:
        buffer = io.BytesIO()
        try:
            pixels.save(buffer, kind)
        except (KeyError, OSError):
            continue
        yield Original("image", kind, buffer.getvalue(), (96, 64))


def _write(path: Path, container: str, codec: str, width: int, height: int) -> None:
    import av

    name, _, fragments = container.partition(" ")
    options = {"movflags": "frag_keyframe+empty_moov"} if fragments else {}
    with av.open(str(path), "w", format=name, options=options) as out:
        stream: Any = out.add_stream(codec, rate=Fraction(FPS))
        stream.width, stream.height = width, height
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        stream.codec_context.gop_size = 5
        stream.codec_context.time_base = Fraction(1, FPS)
        stream.options = {"strict": "experimental", **OPTIONS.get(codec, {})}
        for number in range(FRAMES):
            pixels = _picture(number, width, height)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def _picture(number: int, width: int, height: int) -> np.ndarray:
    """A bright square that moves over a grain, (height, width, 3) uint8."""
    pixels = np.random.default_rng(number).integers(60, 120, (height, width, 3), dtype=np.uint8)
    side = height // 3
    left = number * (width - side) // FRAMES
    pixels[side : 2 * side, left : left + side] = (240, 200, 40)
    return pixels
