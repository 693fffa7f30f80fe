"""Small files that promise large ones: what reading them takes.

    python -m benchmarks.large

Headers of frames that no memory holds, files that are one hole, times and counts of frames that no video
has. Each is read twice, as in `benchmarks.robustness`, and held to the same limits. POSIX only.
"""

import argparse
import random
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import Record, say, table
from benchmarks.robustness import DOORS, MEMORY, read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    record = run()
    path = record.write(options.out)
    print(table(record.rows))
    say(f"wrote {path}")


def run(names: tuple[str, ...] | None = None) -> Record:
    """Read the files of these names, all by default."""
    import av

    import crosslmm.captioning.reading
    import crosslmm.video.stream  # noqa: F401  for all processes at once

    av.logging.set_level(None)
    rows, notes = [], []
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as scratch:
        for name in names or tuple(CASES):
            path = Path(scratch) / "a.video"
            CASES[name](path)
            row: dict[str, Any] = {"file": name, "on_disk": path.stat().st_blocks * 512}
            for door in DOORS:
                outcome = read(path, door, chance=random.Random(0))
                row[door] = outcome.kind
                row[f"{door}_s"] = round(outcome.seconds, 1)
                row[f"{door}_mib"] = outcome.peak >> 20
                notes.append(f"{name}, {door}: {outcome.words.replace(str(path), 'PATH')}")
            rows.append(row)
            say(f"{row}")
            path.unlink()
    return Record("large", {"memory": MEMORY}, rows, notes)


def _gif(path: Path) -> None:
    screen = struct.pack("<6sHHBBB", b"GIF89a", 65535, 65535, 0x80, 0, 0)
    frame = struct.pack("<BHHHHB", 0x2C, 0, 0, 65535, 65535, 0)
    path.write_bytes(screen + bytes(6) + frame + b"\x02\x02\x44\x01\0;")


def _gif_frames(path: Path) -> None:
    """A million frames of one pixel, without an end."""
    screen = struct.pack("<6sHHBBB", b"GIF89a", 1, 1, 0x80, 0, 0)
    frame = struct.pack("<BHHHHB", 0x2C, 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    path.write_bytes(screen + bytes(6) + frame * 1_000_000)


def _png(path: Path, width: int, height: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    packer = zlib.compressobj(9)
    line = bytes(1 + 3 * width)
    rows = b"".join(packer.compress(line) for _ in range(height)) if height < 20_000 else b""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", rows + packer.flush())
        + chunk(b"IEND", b"")
    )


def _tiff(path: Path) -> None:
    tags = [(256, 200_000), (257, 200_000), (258, 8), (259, 1), (262, 1), (273, 8), (279, 1 << 31)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4))


def _bmp(path: Path) -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0)
    path.write_bytes(struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + header + bytes(64))


def _y4m(path: Path) -> None:
    path.write_bytes(b"YUV4MPEG2 W100000 H100000 F25:1\nFRAME\n" + bytes(4096))


def _clip(path: Path, container: str, times: tuple[int, ...]) -> None:
    """Frames of grey at these times, in milliseconds."""
    from fractions import Fraction

    import av
    import numpy as np

    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.options = {"preset": "ultrafast", "tune": "zerolatency"}
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            for packet in stream.encode(frame):
                file.mux(packet)
        file.mux(stream.encode(None))


def _hole(path: Path, container: str, size: int) -> None:
    _clip(path, container, tuple(range(0, 800, 40)))
    with path.open("r+b") as file:
        file.truncate(size)


def _zeros(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _far_apart(path: Path) -> None:
    _clip(path, "matroska", (0, 40, 2_000_000_000))


def _count(path: Path, box: bytes) -> None:
    """An mp4 whose table says that its first entry stands for as many frames as there are numbers."""
    _clip(path, "mp4", tuple(range(0, 800, 40)))
    data = bytearray(path.read_bytes())
    at = data.index(box) + len(box) + 4
    for place in (at, at + 4, at + 8):
        data[place : place + 4] = b"\x7f\xff\xff\xff"
    path.write_bytes(data)


CASES: dict[str, Callable[[Path], None]] = {
    "GIF of 65,535×65,535": _gif,
    "GIF of a million frames": _gif_frames,
    "PNG of 60,000×60,000": lambda path: _png(path, 60_000, 60_000),
    "PNG of 13,000×13,000, all black": lambda path: _png(path, 13_000, 13_000),
    "TIFF of 200,000×200,000": _tiff,
    "BMP of 2³¹×2³¹": _bmp,
    "YUV4MPEG2 of 100,000×100,000": _y4m,
    "MPEG-TS with a hole of 100 GiB": lambda path: _hole(path, "mpegts", 100 << 30),
    "mp4 with a hole of 100 GiB": lambda path: _hole(path, "mp4", 100 << 30),
    "Matroska with a hole of 100 GiB": lambda path: _hole(path, "matroska", 100 << 30),
    "zeros, 1 TiB": _zeros,
    "Matroska of three frames in 23 days": _far_apart,
    "mp4 of 2³¹ frames (stts)": lambda path: _count(path, b"stts"),
    "mp4 of 2³¹ frames (stsz)": lambda path: _count(path, b"stsz"),
    "mp4 of 2³¹ chunks (stsc)": lambda path: _count(path, b"stsc"),
}


if __name__ == "__main__":
    main()
