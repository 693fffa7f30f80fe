"""Loading a checkpoint in bfloat16, 8 bits and 4 bits: seconds, and memory that stays.

    python -m benchmarks.loading --shape 0.5b

Every load is in a process of its own, after one that has read the file into the page cache.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import SHAPES, random_checkpoint
from benchmarks.fresh import fresh
from benchmarks.record import Record, say, table

PRECISIONS = ("none", "8bit", "4bit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="0.5b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, help="keep the random checkpoint here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as scratch:
        folder = options.checkpoint or Path(scratch) / "model"
        fresh(random_checkpoint, options.shape, folder)
        fresh(load, folder, "none", options.device)
        rows = []
        for precision in PRECISIONS:
            runs = [fresh(load, folder, precision, options.device) for _ in range(options.repeats)]
            rows.append(_row(precision, runs))
            say(f"{precision}: {rows[-1]['load_s']} s")
    settings = {"shape": options.shape, "device": options.device, "repeats": options.repeats}
    path = Record(
        f"loading_{options.shape}_{options.device.partition(':')[0]}", settings, rows
    ).write(options.out)
    print(table(rows))
    say(f"wrote {path}")


def load(folder: Path, precision: str, device: str) -> tuple[float, int, int | None]:
    """Seconds of `crosslmm.load`, bytes of the loaded tensors, and the peak while loading."""
    import torch

    import crosslmm
    from crosslmm.inference.measurement import peak_memory

    with peak_memory(torch.device(device)) as peak:
        assistant = crosslmm.load(
            folder,
            device=device,
            dtype="bfloat16",
            quantization=precision,  # type: ignore[arg-type]
        )
    tensors = [*assistant.model.parameters(), *assistant.model.buffers()]
    unique = {tensor.data_ptr(): tensor.nbytes for tensor in tensors}
    return assistant.load_seconds, sum(unique.values()), peak.bytes


def _row(precision: str, runs: list[tuple[float, int, int | None]]) -> dict[str, Any]:
    seconds = sorted(run[0] for run in runs)
    return {
        "precision": "bfloat16" if precision == "none" else precision,
        "load_s": round(seconds[len(seconds) // 2], 2),
        "fastest_s": round(seconds[0], 2),
        "slowest_s": round(seconds[-1], 2),
        "weights_mb": round(runs[0][1] / 1e6),
        "peak_mb": None if runs[0][2] is None else round(max(run[2] or 0 for run in runs) / 1e6),
    }


if __name__ == "__main__":
    main()
