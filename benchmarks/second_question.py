"""A second question about the same video, against the first: time to first token.

    python -m benchmarks.second_question --shape middle --frames 64,256

Through the public `Assistant`, on a clip that is written for the purpose, with every gate open. The
first question pays for reading, encoding and prefilling the video, the second for its own words.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.against_llava_onevision import Contender, prepare
from benchmarks.checkpoints import SHAPES, random_checkpoint
from benchmarks.fresh import fresh
from benchmarks.record import Record, say, table


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as scratch:
        folder = options.checkpoint or Path(scratch) / "model"
        fresh(random_checkpoint, options.shape, folder)
        rows = measure_rows(folder, options)
    settings = {"shape": options.shape, "device": options.device, "repeats": options.repeats}
    record = Record(
        f"second_question_{options.shape}_{options.device.partition(':')[0]}", settings, rows
    )
    path = record.write(options.out)
    print(table(rows))
    say(f"wrote {path}")


def measure_rows(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    import crosslmm
    from crosslmm.inference.measurement import measure, sample_clip

    assistant = crosslmm.load(
        folder, device=options.device, dtype="bfloat16", quantization="none", tokens_per_frame=9
    )
    rows = []
    with sample_clip(max(options.frames)) as clip:
        for cache in ("features", "projected"):
            prepare(assistant.model, Contender("crosslmm", t2v_cache=cache))
            for frames in options.frames:
                run = measure(assistant, clip, frames=frames, repeats=options.repeats)
                say(f"{frames} frames, T2V reads {cache}: done")
                first, second = run.first_token.median, run.second_question.median
                video = run.encode.median + run.prefill.median
                rows.append(
                    {
                        "frames": frames,
                        "T2V reads": cache,
                        "first_s": round(first, 4),
                        "of it decoding_s": round(run.decode.median, 4),
                        "second_s": round(second, 4),
                        "times_faster": round(first / second, 1),
                        "without decoding": round(video / second, 1),
                    }
                )
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="middle")
    parser.add_argument("--frames", type=_numbers, default=[64, 256])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, help="keep the random checkpoint here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
