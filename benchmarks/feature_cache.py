"""Questions about one video: the first, a second in its session, and the first of a new process.

    python -m benchmarks.feature_cache --shape middle --frames 64

Each process is a new one, and has answered a question about a blank image before its time begins, so
that all it needs is imported. Then it loads the model, opens the video and computes the first token: the
first process encodes the video and keeps it in the cache on disk, the second reads it from there. Every
gate is open, so the features are kept, too. Seconds of the processor are those of all threads: on a
machine that others use they say more than the clock does.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.against_llava_onevision import Contender, prepare
from benchmarks.checkpoints import SHAPES, random_checkpoint
from benchmarks.fresh import fresh
from benchmarks.record import Record, say, table

TOKENS = 8


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as scratch:
        folder = options.checkpoint or Path(scratch) / "model"
        fresh(random_checkpoint, options.shape, folder)
        rows = [
            row
            for frames in options.frames
            for row in _rows(folder, Path(scratch), frames, options)
        ]
    settings = {"shape": options.shape, "device": options.device, "repeats": options.repeats}
    record = Record(
        f"feature_cache_{options.shape}_{options.device.partition(':')[0]}", settings, rows
    )
    path = record.write(options.out)
    print(table(rows))
    say(f"wrote {path}")


def _rows(
    folder: Path, scratch: Path, frames: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    from crosslmm.inference.feature_cache import FeatureCache
    from crosslmm.inference.measurement import sample_clip

    cache = FeatureCache(scratch / "cache")
    runs = []
    with sample_clip(frames) as clip:
        for _ in range(options.repeats):
            cache.clear()
            pair = [fresh(run, folder, clip, frames, options.device, cache) for _ in range(2)]
            if [each["from_cache"] for each in pair] != [False, True]:
                raise SystemExit("the video was not kept, or not found again")
            if pair[0]["text"] != pair[1]["text"]:
                raise SystemExit("the answers differ")
            runs.append(pair)
            say(f"{frames} frames: {pair[0]['all']:.2f} s, then {pair[1]['all']:.2f} s")
        size = sum(entry.size for entry in cache.entries())

    def median(process: int, name: str) -> float:
        return statistics.median(pair[process][name] for pair in runs)

    def row(what: str, process: int, clock: str, processor: str) -> dict[str, Any]:
        wall, used = median(process, clock), median(process, processor)
        return {
            "frames": frames,
            "dtype": runs[0][0]["dtype"],
            "to the first token of": what,
            "seconds": round(wall, 2),
            "times_faster": round(median(0, "all") / wall, 1),
            "processor_s": round(used, 2),
            "times_less_processor": round(median(0, "processor") / used, 1),
            "kept_mb": round(size / 1e6, 1),
        }

    return [
        row("first process", 0, "all", "processor"),
        row("second process", 1, "all", "processor"),
        row("second question of the first process", 0, "second", "again"),
    ]


def run(folder: Path, clip: Path, frames: int, device: str, cache: Any) -> dict[str, Any]:
    """Two questions to a model that is loaded for them: seconds, and what was answered."""
    import numpy as np
    import torch

    import crosslmm

    def load(cache: Any) -> Any:
        assistant = crosslmm.load(
            folder, device=device, quantization="none", tokens_per_frame=9, cache=cache
        )
        prepare(assistant.model, Contender("crosslmm", t2v_cache="features"))
        return assistant

    load(False).ask(np.zeros((64, 64, 3), np.uint8), "What?", max_new_tokens=2)
    torch.manual_seed(0)  # of the cross-attention, which the checkpoint does not hold
    began, used = time.perf_counter(), time.process_time()
    assistant = load(cache)
    loaded = time.perf_counter() - began
    session = assistant.open_video(clip, frames=frames)
    first = session.ask("What happens?", max_new_tokens=1)
    spent, processor = time.perf_counter() - began, time.process_time() - used
    used = time.process_time()
    second = session.ask("What happens?", max_new_tokens=1)
    again = time.process_time() - used
    return {
        "all": spent,
        "processor": processor,
        "again": again,
        "load": loaded,
        "first": first.timing.first_token,
        "second": second.timing.first_token,
        "from_cache": session.from_cache,
        "dtype": assistant.settings["dtype"],
        "text": session.ask("What happens?", max_new_tokens=TOKENS).text,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="middle")
    parser.add_argument(
        "--frames", type=lambda text: [int(part) for part in text.split(",")], default=[64]
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, help="keep the random checkpoint here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
