"""Frames from an hour of H.264: our reader against PyAV, decord and torchcodec used plainly.

    python -m benchmarks.frame_sampling --frames 8,64,256,1024,4096
    python -m benchmarks.frame_sampling --b-frames 3 --size 640x360

"Plainly" is what their users write: PyAV decoding from the start and keeping the wanted frames (which
takes the same for any number of them, so it is done once), PyAV decoding keyframes only and keeping the
nearest ones (which are no more than the keyframes), decord's `get_batch`, torchcodec's `get_frames_at`.
All give frames at 384 by 384. The hour is one minute that is encoded once and its packets copied sixty
times, with a keyframe at least every ten seconds. Beside wall time stands the processor's time, which
other programs on the machine disturb less.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.fresh import fresh
from benchmarks.record import Record, say, table

SIDE = 384
FPS = 25
SIZE = (1280, 720)


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as scratch:
        clip = options.clip or Path(scratch) / "hour.mp4"
        if not clip.exists():
            say(f"writing {options.minutes} minutes")
            write_long_clip(
                clip, copies=options.minutes, size=options.size, b_frames=options.b_frames
            )
        rows = []
        for frames in options.frames:
            for name, reader in READERS.items():
                again = name in ONCE and frames != options.frames[0]
                if name not in options.readers or again:
                    continue
                rows.append(_row(frames, name, fresh(run, reader, clip, frames, options.repeats)))
                say(f"{frames} frames, {name}: {rows[-1]['seconds']}")
    settings = {
        "minutes": options.minutes,
        "size": options.size,
        "b_frames": options.b_frames,
        "fps": FPS,
        "side": SIDE,
    }
    notes = [f"{row['reader']}: {row['problem']}" for row in rows if row["problem"]]
    name = "frame_sampling_b_frames" if options.b_frames else "frame_sampling"
    path = Record(name, settings, rows, list(dict.fromkeys(notes))).write(options.out)
    print(table(rows))
    say(f"wrote {path}")


@dataclass(frozen=True)
class Run:
    """Seconds of every repeat, on the clock and of the processor, the frames that came, the peak of
    memory above the start, and what went wrong, if anything."""

    seconds: tuple[float, ...] = ()
    processor: tuple[float, ...] = ()
    got: int = 0
    peak: int | None = None
    problem: str = ""


def run(reader: Callable[[Path, int], np.ndarray], clip: Path, frames: int, repeats: int) -> Run:
    """Read so many frames, again and again for up to a minute."""
    import torch

    from crosslmm.inference.measurement import peak_memory

    seconds, processor, got = [], [], 0
    try:
        with peak_memory(torch.device("cpu")) as peak:
            for _ in range(repeats):
                started, worked = time.perf_counter(), time.process_time()
                pixels = reader(clip, frames)
                seconds.append(time.perf_counter() - started)
                processor.append(time.process_time() - worked)
                got = len(pixels)
                assert pixels.shape == (got, SIDE, SIDE, 3), pixels.shape
                del pixels
                if sum(seconds) > 60:
                    break
    except ImportError as error:
        return Run(problem=f"not installed ({error.name})")
    return Run(tuple(seconds), tuple(processor), got, peak.bytes)


def crosslmm_auto(clip: Path, frames: int) -> np.ndarray:
    from crosslmm import sample

    return sample(clip, frames=frames, size=(SIDE, SIDE), reader="pyav").pixels


def crosslmm_exact(clip: Path, frames: int) -> np.ndarray:
    from crosslmm import sample

    return sample(clip, frames=frames, size=(SIDE, SIDE), reader="pyav", seek="exact").pixels


def pyav(clip: Path, frames: int) -> np.ndarray:
    import av

    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        wanted = set(_indices(stream.frames, frames).tolist())
        kept = []
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                kept.append(frame.to_ndarray(format="rgb24", width=SIDE, height=SIDE))
                if len(kept) == frames:
                    break
    return np.stack(kept)


def pyav_keyframes(clip: Path, frames: int) -> np.ndarray:
    import av

    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONKEY"
        numbers, kept = [], []
        for frame in container.decode(stream):
            numbers.append(round(float(frame.pts * stream.time_base) * FPS))
            kept.append(frame.to_ndarray(format="rgb24", width=SIDE, height=SIDE))
        off = np.abs(_indices(stream.frames, frames)[:, None] - np.array(numbers))
    return np.stack([kept[key] for key in np.unique(off.argmin(axis=1))])


def decord(clip: Path, frames: int) -> np.ndarray:
    from decord import VideoReader

    reader = VideoReader(str(clip), width=SIDE, height=SIDE)
    return reader.get_batch(_indices(len(reader), frames)).asnumpy()


def torchcodec(clip: Path, frames: int) -> np.ndarray:
    from torch.nn.functional import interpolate
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(clip))
    batch = decoder.get_frames_at(_indices(len(decoder), frames).tolist()).data.float()
    resized = interpolate(batch, (SIDE, SIDE), mode="bicubic", antialias=True)
    return resized.clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


READERS: dict[str, Callable[[Path, int], np.ndarray]] = {
    "crosslmm": crosslmm_auto,
    "crosslmm, seek exact": crosslmm_exact,
    "PyAV": pyav,
    "PyAV, keyframes only": pyav_keyframes,
    "decord": decord,
    "torchcodec": torchcodec,
}


# Those that read the same of the file for any number of frames.
ONCE = ("PyAV", "PyAV, keyframes only")


def write_long_clip(
    path: Path,
    *,
    copies: int,
    frames: int = 60 * FPS,
    size: tuple[int, int] = SIZE,
    b_frames: int = 0,
) -> None:
    """So many frames encoded once, whose packets are written `copies` times in a row."""
    import av

    from crosslmm.inference.measurement import write_clip

    with tempfile.TemporaryDirectory() as scratch:
        encoded = Path(scratch) / "encoded.mp4"
        options = {"preset": "ultrafast", "crf": "32", "g": str(10 * FPS), "bf": str(b_frames)}
        write_clip(encoded, frames=frames, size=size, fps=FPS, codec_options=options)
        partial = path.with_name(f".{path.name}")
        with av.open(str(partial), "w", format="mp4") as target:
            stream, offset = None, 0
            for _ in range(copies):
                with av.open(str(encoded)) as source:
                    template = source.streams.video[0]
                    stream = stream or target.add_stream_from_template(template)
                    end = offset
                    for packet in source.demux(template):
                        if packet.dts is None or packet.pts is None:
                            continue
                        end = max(end, offset + packet.pts + (packet.duration or 0))
                        packet.pts += offset
                        packet.dts += offset
                        packet.stream = stream
                        target.mux(packet)
                    offset = end
        partial.replace(path)


def _indices(count: int, frames: int) -> np.ndarray:
    """The middles of equal slices."""
    return ((np.arange(frames) + 0.5) * count / frames).astype(int)


def _row(frames: int, name: str, run: Run) -> dict[str, Any]:
    return {
        "frames": frames,
        "reader": name,
        "got": run.got,
        "seconds": round(median(run.seconds), 2) if run.seconds else None,
        "fastest": round(min(run.seconds), 2) if run.seconds else None,
        "processor": round(min(run.processor), 2) if run.processor else None,
        "runs": len(run.seconds),
        "peak_mb": None if run.peak is None else round(run.peak / 1e6),
        "problem": run.problem,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=_numbers, default=[8, 64, 256, 1024])
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--size", type=_size, default=SIZE, help="width x height, 640x360")
    parser.add_argument("--b-frames", type=int, default=0, help="in a row, at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--readers", type=_names, default=list(READERS))
    parser.add_argument("--clip", type=Path, help="keep the clip here, or use the one there")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(";")]


if __name__ == "__main__":
    main()
