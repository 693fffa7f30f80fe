"""What `crosslmm train distill` holds in memory, against what it says before it starts.

    python -m benchmarks.distillation_memory --videos DIR --shape 0.5b --frames 2 --answer-tokens 8

On a CPU, from a random LLaVA-OneVision checkpoint in bfloat16 that says letters. In each phase of a run,
the most that the process held: memory of its own, and files that are mapped, which the system takes back
where it needs to. Workers that decode are other processes. Linux only.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import SHAPES, random_checkpoint
from benchmarks.fresh import fresh
from benchmarks.record import Record, say, table
from crosslmm.video.memory_limit import process_status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--shape", choices=list(SHAPES), default="0.5b")
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--answer-tokens", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1, help="videos at a time")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--checkpoint", type=Path, help="keep the random checkpoint here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    settings = {
        name: value for name, value in vars(options).items() if isinstance(value, int | str)
    }
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as scratch:
        folder = options.checkpoint or Path(scratch) / "model"
        fresh(talking_checkpoint, options.shape, folder)
        rows, notes = fresh(distil, folder, options.videos, Path(scratch) / "run", settings)
    name = f"distillation_memory_{options.shape}_{options.frames}x{options.batch}"
    path = Record(name, settings, rows, notes).write(options.out)
    print(table(rows))
    say("\n".join([*notes, f"wrote {path}"]))


def talking_checkpoint(shape: str, folder: Path) -> None:
    """What a random one says would nearly always be tokens without a letter, or the end."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    if (folder / "shape.json").exists():
        return
    random_checkpoint(shape, folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    tokens = AutoTokenizer.from_pretrained(folder).get_vocab().items()
    letters = [index for token, index in tokens if token.isascii() and token.isalpha()]
    for name in weights:
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            others = torch.ones(len(weights[name]), dtype=torch.bool)
            others[letters] = False
            weights[name][others] *= 0.05
    save_file(weights, path, metadata={"format": "pt"})


def distil(
    model: Path, videos: Path, run: Path, settings: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    from crosslmm.training.recipe import load_recipe
    from crosslmm.training.run import train

    options = {
        "frames": settings["frames"], "distill.answer_tokens": settings["answer_tokens"],
        "batch_size": settings["batch"], "device_batch_size": settings["batch"],
        "steps": settings["steps"], "distill.prompts_per_video": 1, "log_every": 1,
        "workers": 1,
    }  # fmt: skip
    recipe = load_recipe("distill", [f"{name}={value}" for name, value in options.items()])
    notes: list[str] = []
    with phases() as phase:
        phase("loading")
        train(
            recipe, model=model, data=videos, out=run,
            on_start=lambda plan: (notes.extend(plan.notes), phase("answers")),
            on_answers=lambda done: phase("steps") if done.done == done.total else None,
            on_progress=lambda log: phase("saving") if log.step == log.steps else None,
        )  # fmt: skip
        found = phase.rows
    losses = [json.loads(line).get("loss") for line in (run / "log.jsonl").read_text().splitlines()]
    return found, [*notes, f"losses {losses[0]:.4f} to {losses[-2]:.4f}"]


class Phases:
    """Call it with the name of the phase that begins."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self("imports")

    def __call__(self, name: str) -> None:
        self.look()
        with self._lock:
            if not self.rows or self.rows[-1]["phase"] != name:
                self.rows.append({"phase": name, "own_gb": 0.0, "mapped_gb": 0.0, "total_gb": 0.0})
        self.look()

    def look(self) -> None:
        own, mapped = resident()
        with self._lock:
            for row in self.rows[-1:]:
                seen = {"own_gb": own, "mapped_gb": mapped, "total_gb": own + mapped}
                row |= {key: round(max(row[key], value / 1e9), 2) for key, value in seen.items()}


@contextmanager
def phases() -> Iterator[Phases]:
    """Looks every 20 ms, until the end."""
    found, done = Phases(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            found.look()
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def resident() -> tuple[int, int]:
    """Bytes of this process's own memory, and of mapped files, that are in memory."""
    return process_status("RssAnon") or 0, process_status("RssFile") or 0


if __name__ == "__main__":
    main()
