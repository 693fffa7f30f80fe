"""Test clips whose frames carry their own number in their pixels.

A frame is a grid of 4 x 4 cells. The first row is red, green, blue, white: it tells which way is
up. The other twelve cells are the bits of the frame's number, black or white, lowest bit first.

    times = write_clip(tmp_path / "clip.mp4", frames=30, fps=10)     # true times, in seconds
    number_of(pixels)                                                 # 0..4095, or ValueError
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_TOP = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)])
_QUIET = {"libx265": {"x265-params": "log-level=none"}, "libx264": {"preset": "veryfast"}}


def picture(number: int, *, width: int = 64, height: int = 64) -> np.ndarray:
    """The frame of that number: (height, width, 3) uint8."""
    cells = np.zeros((4, 4, 3), dtype=np.uint8)
    cells[0] = _TOP
    bits = [(number >> bit) & 1 for bit in range(12)]
    cells[1:] = 255 * np.array(bits, dtype=np.uint8).reshape(3, 4, 1)
    rows = np.arange(height) * 4 // height
    columns = np.arange(width) * 4 // width
    return cells[rows][:, columns]


def number_of(pixels: np.ndarray) -> int:
    """The number in a frame of any size; `ValueError` where it is not upright or not readable."""
    height, width = pixels.shape[:2]
    ys = [int((row + 0.5) * height / 4) for row in range(4)]
    xs = [int((column + 0.5) * width / 4) for column in range(4)]
    cells = pixels[np.ix_(ys, xs)].astype(int)
    if np.abs(cells[0] - _TOP).max() > 90:
        raise ValueError(f"not an upright test frame: its first row is {cells[0].tolist()}")
    bits = cells[1:].mean(axis=-1).ravel()
    if np.abs(bits - 127).min() < 60:
        raise ValueError(f"the number cannot be read from {bits.astype(int).tolist()}")
    return sum(1 << bit for bit, value in enumerate(bits) if value > 127)


def numbers_of(frames: Iterable[np.ndarray]) -> list[int]:
    """The numbers in a stack of frames (T, H, W, 3)."""
    return [number_of(frame) for frame in frames]


def write_clip(
    path: str | Path,
    *,
    frames: int = 30,
    fps: int | Fraction = 10,
    times: Sequence[int] | None = None,
    width: int = 64,
    height: int = 64,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    gop: int = 10,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    aspect: Fraction | None = None,
    sound: bool = False,
    detail: int = 0,
    first_number: int = 0,
) -> list[float]:
    """Write a clip and return the true time of each frame, in seconds from the first one.

    `times` are milliseconds, one per frame, for a variable frame rate (any offset); without it
    the rate is `fps`. `rotation` is the clockwise turn a player must give it: the stored frames
    are turned the other way, as a phone stores them. `sound` adds a silent audio track.
    `detail` adds noise of that many grey levels, the same each time, for packets of some size.
    """
    ticks = list(times) if times is not None else list(range(frames))
    time_base = Fraction(1, 1000) if times is not None else 1 / Fraction(fps)
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        turned = rotation % 180 != 0
        stream.width, stream.height = (height, width) if turned else (width, height)
        stream.pix_fmt = pixel_format
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = time_base
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        stream.options = {**_QUIET.get(codec, {}), **(options or {})}
        if rotation or mirrored:
            stream.set_display_rotation(-rotation, hflip=mirrored)
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number, tick in enumerate(ticks, start=first_number):
            pixels = picture(number, width=width, height=height)
            if detail:
                grain = noise.integers(-detail, detail + 1, pixels.shape)
                pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
            if mirrored:
                pixels = pixels[:, ::-1]
            pixels = np.rot90(pixels, rotation // 90)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = tick, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            _write_silence(container, audio, seconds=len(ticks) * float(1 / Fraction(fps)))
    return [float((tick - ticks[0]) * time_base) for tick in ticks]


def write_sound(path: str | Path, *, seconds: float = 1.0) -> None:
    """Write a file with sound and no video."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=16000, layout="mono")
        _write_silence(container, audio, seconds=seconds)


def copy_from(source: str | Path, path: str | Path, *, start: float) -> None:
    """Copy a clip from `start` seconds on without encoding, as `ffmpeg -ss -c copy` does.

    The copy begins at the keyframe before `start` and an edit list hides the frames up to it.
    """
    with av.open(str(source)) as reading, av.open(str(path), "w") as writing:
        stream = reading.streams.video[0]
        copy = writing.add_stream_from_template(stream)
        cut = round(start / stream.time_base)
        reading.seek(cut, stream=stream, backward=True)
        for packet in reading.demux(stream):
            if packet.size:
                packet.pts -= cut
                packet.dts -= cut
                packet.stream = copy
                writing.mux(packet)


def _write_silence(container, audio, *, seconds: float) -> None:  # type: ignore[no-untyped-def]
    for start in range(0, int(seconds * 16000), 1024):
        silence = np.zeros((1, 1024), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        container.mux(audio.encode(frame))
    container.mux(audio.encode())
