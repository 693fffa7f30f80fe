"""Questions about one video: the first, a second in its session, and the first of a new process.

    python -m benchmarks.feature_cache --shape middle --frames 64

Each process is a new one and has imported all it needs before its time begins. Then it loads the model,
opens the video and answers: the first encodes it and keeps it in the cache on disk, the second reads it
from there. Every gate is open, so the features are kept, too. Seconds of the processor are those of all
threads: on a machine that others use they say more than the clock does.
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
        rows = [_row(folder, Path(scratch), frames, options) for frames in options.frames]
    settings = {"shape": options.shape, "device": options.device, "repeats": options.repeats}
    record = Record(
        f"feature_cache_{options.shape}_{options.device.partition(':')[0]}", settings, rows
    )
    path = record.write(options.out)
    print(table(rows))
    say(f"wrote {path}")


def _row(folder: Path, scratch: Path, frames: int, options: argparse.Namespace) -> dict[str, Any]:
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
            if len({text for each in pair for text in each["texts"]}) != 1:
                raise SystemExit("the answers differ")
            runs.append(pair)
            say(f"{frames} frames: {pair[0]['all']:.2f} s, then {pair[1]['all']:.2f} s")
        size = sum(entry.size for entry in cache.entries())

    def median(process: int, name: str) -> float:
        return statistics.median(pair[process][name] for pair in runs)

    return {
        "frames": frames,
        "dtype": runs[0][0]["dtype"],
        "first process_s": round(median(0, "all"), 3),
        "second process_s": round(median(1, "all"), 3),
        "times_faster": round(median(0, "all") / median(1, "all"), 1),
        "processor, first_s": round(median(0, "processor"), 3),
        "processor, second_s": round(median(1, "processor"), 3),
        "times_less_processor": round(median(0, "processor") / median(1, "processor"), 1),
        "first token_s": round(median(0, "first"), 3),
        "first token, second process_s": round(median(1, "first"), 3),
        "first token, second question_s": round(median(0, "second"), 3),
        "second question, times_faster": round(median(0, "first") / median(0, "second"), 1),
        "loading_s": round(median(1, "load"), 3),
        "entry_mb": round(size / 1e6, 1),
    }


def run(folder: Path, clip: Path, frames: int, device: str, cache: Any) -> dict[str, Any]:
    """Two equal questions to a model that is loaded for them: seconds, and what was answered."""
    import crosslmm

    began, used = time.perf_counter(), time.process_time()
    assistant = crosslmm.load(
        folder,
        device=device,
        quantization="none",
        tokens_per_frame=9,
        cache=cache,
    )
    loaded = time.perf_counter() - began
    prepare(assistant.model, Contender("crosslmm", t2v_cache="features"))
    session = assistant.open_video(clip, frames=frames)
    answers = [session.ask("What happens?", max_new_tokens=TOKENS)]
    spent, processor = time.perf_counter() - began, time.process_time() - used
    answers.append(session.ask("What happens?", max_new_tokens=TOKENS))
    return {
        "all": spent,
        "processor": processor,
        "load": loaded,
        "first": answers[0].timing.first_token,
        "second": answers[1].timing.first_token,
        "from_cache": session.from_cache,
        "dtype": assistant.settings["dtype"],
        "texts": [answer.text for answer in answers],
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
