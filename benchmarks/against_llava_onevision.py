"""crosslmm against transformers' own LLaVA-OneVision: same weights, frames, precision and machine.

    python -m benchmarks.against_llava_onevision --shape middle --frames 8,64,256

Both are called alike, pixels to logits and then token by token: once in a process of its own, which
also gives the peak of memory, then in turn within one process, until a row has been timed long
enough. The processor's time stands beside the clock's, for a machine that others keep busy. The
checkpoint's cross-attention would be closed and free; here every gate is opened, so that all the
work of a trained model is done. Further rows say what the choices cost: T2V's keys and values cached
instead of read from shared features, V2V kept to its own frame, the T2V of an answer to 16 frames,
features in 8 bits, gates left closed.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.checkpoints import SHAPES, VIDEO_TOKEN, random_checkpoint
from benchmarks.fresh import fresh
from benchmarks.record import Record, say, table

PROMPT_BEFORE, PROMPT_AFTER = 14, 50  # text tokens around the video
STEPS = 16  # tokens generated
PEER = "LLaVA-OneVision"


@dataclass(frozen=True)
class Contender:
    """A way to run the checkpoint; `tokens_per_frame` None is the checkpoint's own, 196."""

    name: str
    tokens_per_frame: int | None = 9
    gates: bool = True
    t2v_cache: str = "features"
    v2v_scope: str = "video"
    feature_bits: int | None = None
    t2v_frames: int | None = None

    @property
    def is_peer(self) -> bool:
        return self.name == PEER


CONTENDERS = (
    Contender(PEER, tokens_per_frame=None, gates=False),
    Contender("crosslmm"),
    Contender("crosslmm, T2V keys and values cached", t2v_cache="projected"),
    Contender("crosslmm, V2V in its own frame", v2v_scope="frame"),
    Contender("crosslmm, the same, T2V over 16 frames", v2v_scope="frame", t2v_frames=16),
    Contender("crosslmm, features in 8 bits", feature_bits=8),
    Contender("crosslmm, gates closed", gates=False),
)


@dataclass(frozen=True)
class Run:
    """Seconds to the first token, of the processor's time in them, and per token after it."""

    first: float
    processor: float
    step: float

    def __str__(self) -> str:
        return f"{self.first:.3g} s ({self.processor:.3g} s of processor)"


Runs = dict[tuple[str, int], list[Run]]  # by contender and number of frames
Peaks = dict[tuple[str, int], int | None]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as scratch:
        folder = options.checkpoint or Path(scratch)
        say(f"making a random checkpoint of shape {options.shape}")
        fresh(random_checkpoint, options.shape, folder)
        runs: Runs = {}
        peaks: Peaks = {}
        for frames in options.frames:
            run_fresh(folder, frames, options, runs, peaks)
            path = write(options, runs, peaks)
        if options.repeats:
            run_in_turn(folder, options, runs)
            path = write(options, runs, peaks)
    rows = rows_of(options, runs, peaks)
    if options.plot:
        from benchmarks.plot import draw_against

        draw_against(options.plot, rows, PEER)
    print(table(rows))
    say(f"wrote {path}")


def write(options: argparse.Namespace, runs: Runs, peaks: Peaks) -> Path:
    """The record of what has been run so far; an interrupted benchmark keeps that."""
    notes = [f"{options.shape}: random weights in bfloat16, {options.device}"]
    if options.device == "cpu":
        notes.append("peak memory: the process's, above its loaded model after a short run")
    settings = {
        "shape": options.shape,
        "device": options.device,
        "repeats_in_turn": options.repeats,
        "enough_seconds": options.enough,
        "text_tokens": PROMPT_BEFORE + PROMPT_AFTER,
        "tokens_timed": STEPS,
        "contenders": [asdict(contender) for contender in options.contenders],
    }
    name = f"against_llava_onevision_{options.shape}_{options.device.partition(':')[0]}"
    return Record(name, settings, rows_of(options, runs, peaks), notes).write(options.out)


def run_fresh(
    folder: Path, frames: int, options: argparse.Namespace, runs: Runs, peaks: Peaks
) -> None:
    """Every contender once in a process of its own, for its peak memory and a first timing."""
    for contender in options.contenders:
        try:
            run, peak = fresh(measure, folder, contender, frames, options.device)
        except BrokenProcessPool:
            say(f"{frames} frames, {contender.name}: killed for memory")
            continue
        runs.setdefault((contender.name, frames), []).append(run)
        peaks[contender.name, frames] = peak
        megabytes = "unknown" if peak is None else f"{peak / 1e6:,.0f} MB"
        say(f"{frames} frames, {contender.name}: {run}, peak {megabytes}")


def run_in_turn(folder: Path, options: argparse.Namespace, runs: Runs) -> None:
    """Every contender at every number of frames again, in turn within one process."""
    import torch

    peer = load(folder, CONTENDERS[0], options.device)
    ours = load(folder, CONTENDERS[1], options.device)
    pixels = make_pixels(folder, max(options.frames), options.device)

    def run(contender: Contender, frames: int) -> Run:
        model = peer if contender.is_peer else prepare(ours, contender)
        return time_run(model, inputs(model, contender, pixels[:, :frames]))

    with torch.inference_mode():
        for contender in options.contenders:
            run(contender, min(options.frames))  # warm
        for frames in options.frames:
            for _ in range(options.repeats):
                for contender in options.contenders:
                    done = runs.get((contender.name, frames), [])
                    if done and sum(one.first for one in done) < options.enough:
                        done.append(run(contender, frames))
                        say(f"{frames} frames, {contender.name}: {done[-1]}")


def rows_of(options: argparse.Namespace, runs: Runs, peaks: Peaks) -> list[dict[str, Any]]:
    """A row per number of frames and contender; ratios are the peer's figure over this one's."""
    rows = []
    for frames in options.frames:
        base, base_peak = runs.get((PEER, frames)), peaks.get((PEER, frames))
        for contender in options.contenders:
            done, peak = runs.get((contender.name, frames)), peaks.get((contender.name, frames))
            if not done:
                continue
            first, processor = _median(done, "first"), _median(done, "processor")
            rows.append(
                {
                    "frames": frames,
                    "model": contender.name,
                    "first_token_s": round(first, 4),
                    "fastest_s": round(min(one.first for one in done), 4),
                    "slowest_s": round(max(one.first for one in done), 4),
                    "processor_s": round(processor, 4),
                    "runs": len(done),
                    "times_faster": round(_median(base, "first") / first, 2) if base else None,
                    "times_less_processor": (
                        round(_median(base, "processor") / processor, 2) if base else None
                    ),
                    "tokens_per_s": round(1 / _median(done, "step"), 2),
                    "peak_mb": None if peak is None else round(peak / 1e6),
                    "times_smaller": round(base_peak / peak, 2) if base_peak and peak else None,
                }
            )
    return rows


def load(folder: Path, contender: Contender, device: str) -> Any:
    """transformers' own class for the peer, ours for all others, in bfloat16 with sdpa."""
    import torch
    from transformers import LlavaOnevisionForConditionalGeneration
    from transformers.utils import logging

    from crosslmm.checkpoints.loading import load_model

    logging.disable_progress_bar()
    if not contender.is_peer:
        return load_model(folder, device=torch.device(device), dtype=torch.bfloat16)
    return LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, device_map={"": device}
    ).eval()


def prepare(model: Any, contender: Contender) -> Any:
    """Our model as the contender has it."""
    import torch

    model.config.t2v_cache = contender.t2v_cache
    model.config.v2v_scope = contender.v2v_scope
    model.config.t2v_frames = contender.t2v_frames
    model.model.feature_bits = contender.feature_bits
    for layer in model.model.cross_attention_layers.values():
        for branch in (layer.v2v, layer.t2v):
            with torch.no_grad():
                branch.gate.fill_(0.1 if contender.gates else 0.0)
    return model


def make_pixels(folder: Path, frames: int, device: str) -> Any:
    """(1, T, 3, S, S), bfloat16"""
    import torch
    from transformers import AutoConfig

    side = AutoConfig.from_pretrained(folder).vision_config.image_size
    torch.manual_seed(0)
    pixels = torch.rand(1, frames, 3, side, side, dtype=torch.bfloat16)
    return pixels.mul_(2).sub_(1).to(device)


def inputs(model: Any, contender: Contender, pixels: Any) -> dict[str, Any]:
    """A prompt with as many placeholders as the contender has tokens, and the newline's."""
    import torch

    vision = model.config.vision_config
    own = (-(-(vision.image_size // vision.patch_size) // 2)) ** 2
    places = pixels.shape[1] * (contender.tokens_per_frame or own) + 1
    ids = torch.randint(5, 200, (1, PROMPT_BEFORE + places + PROMPT_AFTER))
    ids[:, PROMPT_BEFORE : PROMPT_BEFORE + places] = VIDEO_TOKEN
    return {"input_ids": ids.to(pixels.device), "pixel_values_videos": pixels}


def time_run(model: Any, given: dict[str, Any], steps: int = STEPS) -> Run:
    """One prompt to its first token, and `steps` more."""
    import torch

    def synchronise() -> None:
        if given["input_ids"].is_cuda:
            torch.cuda.synchronize()

    synchronise()
    started, processor = time.perf_counter(), time.process_time()
    output = model(**given, use_cache=True, logits_to_keep=1)
    token = output.logits[:, -1:].argmax(-1)
    synchronise()
    first, processor = time.perf_counter() - started, time.process_time() - processor
    cache = output.past_key_values
    del output
    started = time.perf_counter()
    for _ in range(steps):
        output = model(input_ids=token, past_key_values=cache, use_cache=True)
        token = output.logits[:, -1:].argmax(-1)
    synchronise()
    return Run(first, processor, (time.perf_counter() - started) / steps)


def measure(folder: Path, contender: Contender, frames: int, device: str) -> tuple[Run, int | None]:
    """A run and the bytes that it takes above the loaded model, None where that is not known."""
    import torch

    from crosslmm.inference.measurement import peak_memory

    model = load(folder, contender, device)
    if not contender.is_peer:
        prepare(model, contender)
    pixels = make_pixels(folder, frames, device)
    with torch.inference_mode():
        time_run(model, inputs(model, contender, pixels[:, :1]), steps=1)
        gc.collect()
        with peak_memory(torch.device(device)) as peak:
            run = time_run(model, inputs(model, contender, pixels))
    return run, peak.bytes


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="middle")
    parser.add_argument("--frames", type=_numbers, default=[8, 16, 32, 64, 128, 256])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--repeats", type=int, default=2, help="runs in turn, besides the first")
    parser.add_argument(
        "--enough", type=float, default=30, help="seconds after which a run is not repeated"
    )
    parser.add_argument(
        "--contenders", type=int, default=len(CONTENDERS), help="how many of the rows to run"
    )
    parser.add_argument("--checkpoint", type=Path, help="keep the random checkpoint here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    options.contenders = CONTENDERS[: options.contenders]
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _median(runs: Sequence[Run], field: str) -> float:
    return median(getattr(run, field) for run in runs)


if __name__ == "__main__":
    main()
