"""Ways to spare the encoder work, and what they cost: none of them is in crosslmm.

    crosslmm synth clips --clips 40 --seed 90417263
    python -m benchmarks.encoder_savings clips --videos FILE…

- Merging inside the encoder: after some layers tokens are merged (FOLDER), and at the end each takes the
  features of the one it went into.
- Every other frame at half its resolution, its features interpolated to the usual grid.
- Patches that hardly differ from those last computed at their place keep their hidden states in every
  layer (Eventful Transformers, arXiv 2308.13494); the others attend to all.

Answers are the built-in model's, of 8 frames; errors of features are its encoder's, relative to their
root mean square, of 16 frames a second apart of each video. The time is that of some layers of so400m's
shape with random weights, on four frames of the first video.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn.functional import interpolate, scaled_dot_product_attention

from benchmarks.checkpoints import SO400M
from benchmarks.record import Record, say, table
from crosslmm import visual_encoding
from crosslmm.evaluation.mergers import wilson_interval
from crosslmm.evaluation.runner import evaluate
from crosslmm.evaluation.tasks import get_task
from crosslmm.merging import grid_side
from crosslmm.merging.folder import fold
from crosslmm.options import Sampling
from crosslmm.vision import encode_frames

# (vision tower, pixels (F, 3, S, S), layers) → features (F, N, D), and the share of the tokens of all
# layers that was computed.
Encode = Callable[[Any, torch.Tensor, int], tuple[torch.Tensor, float]]


def encode_all(tower: Any, pixels: torch.Tensor, layers: int) -> tuple[torch.Tensor, float]:
    return next(encode_frames(tower, pixels, layers, len(pixels))), 1.0


def encode_merged(
    tower: Any, pixels: torch.Tensor, layers: int, *, share: float, before: int
) -> tuple[torch.Tensor, float]:
    """share: of the tokens that is kept; before: layers that see all of them."""
    states = tower.embeddings(pixels)
    for layer in tower.encoder.layers[:before]:
        states = layer(states, None)
    kept = round(share * states.shape[1])
    states, _, member = fold(states, kept)
    for layer in tower.encoder.layers[before:layers]:
        states = layer(states, None)
    done = (before + (layers - before) * share) / layers
    return states.gather(1, member[..., None].expand(-1, -1, states.shape[-1])), done


def encode_slow_fast(
    tower: Any, pixels: torch.Tensor, layers: int, *, every: int
) -> tuple[torch.Tensor, float]:
    """One frame of so many at full resolution, the others at half of it."""
    full, _ = encode_all(tower, pixels[::every], layers)
    side = grid_side(full.shape[1])
    assert side is not None
    features = full.new_empty(len(pixels), *full.shape[1:])
    features[::every] = full
    rest = [index for index in range(len(pixels)) if index % every]
    if not rest:
        return features, 1.0
    size = tower.config.patch_size * (side // 2)
    small = interpolate(pixels[rest].float(), size=(size, size), mode="bicubic", antialias=True)
    states = tower.embeddings(small.to(pixels.dtype), interpolate_pos_encoding=True)
    for layer in tower.encoder.layers[:layers]:
        states = layer(states, None)
    planes = states.transpose(1, 2).unflatten(2, (side // 2, side // 2))
    grown = interpolate(planes.float(), size=(side, side), mode="bilinear")
    features[rest] = grown.flatten(2).transpose(1, 2).to(features.dtype)
    return features, (len(full) + len(rest) * (side // 2) ** 2 / side**2) / len(pixels)


def encode_changed(
    tower: Any, pixels: torch.Tensor, layers: int, *, threshold: float
) -> tuple[torch.Tensor, float]:
    """threshold: the mean difference of a patch, of 255, up to which it is not computed again."""
    size = tower.config.patch_size
    side = pixels.shape[-1] // size
    whole = pixels[..., : side * size, : side * size].float()
    patches = whole.unflatten(-1, (side, size)).unflatten(-3, (side, size))
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (F, N, 3 · size²)
    embedded = tower.embeddings(pixels)
    blocks = tower.encoder.layers[:layers]
    seen = torch.full_like(patches[0], torch.inf)
    keys: list[torch.Tensor] = [torch.zeros_like(embedded[0]) for _ in blocks]
    values, last = [key.clone() for key in keys], torch.zeros_like(embedded[0])
    features, computed = [], 0
    for frame, states in zip(patches, embedded, strict=True):
        differs = (frame - seen).abs().mean(dim=-1) * 127.5 > threshold
        seen[differs] = frame[differs]
        computed += int(differs.sum())
        rows = states[differs]
        for block, key, value in zip(blocks, keys, values, strict=True):
            attention = block.self_attn
            normed = block.layer_norm1(rows)
            key[differs] = attention.k_proj(normed)
            value[differs] = attention.v_proj(normed)
            heads = [
                part.unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)[None]
                for part in (attention.q_proj(normed), key, value)
            ]
            read = scaled_dot_product_attention(*heads, scale=attention.scale)
            rows = rows + attention.out_proj(read[0].transpose(0, 1).flatten(1))
            rows = rows + block.mlp(block.layer_norm2(rows))
        last = last.clone()
        last[differs] = rows
        features.append(last)
    return torch.stack(features), computed / patches.shape[:2].numel()


WAYS: dict[str, Encode] = {
    "every patch": encode_all,
    "half the tokens from layer 2": partial(encode_merged, share=0.5, before=2),
    "half the tokens from layer 4": partial(encode_merged, share=0.5, before=4),
    "every other frame at half resolution": partial(encode_slow_fast, every=2),
    "patches that are exactly equal": partial(encode_changed, threshold=0.0),
    "patches that differ by 1 of 255": partial(encode_changed, threshold=1.0),
    "patches that differ by 4 of 255": partial(encode_changed, threshold=4.0),
}


def main() -> None:
    options = _options()
    import crosslmm

    torch.set_num_threads(1)
    assistant = crosslmm.load("demo", device="cpu", dtype="float32")
    rows = list(get_task("questions").read(options.clips / "questions.jsonl"))
    found, usual = [], []
    for name, encode in WAYS.items():
        shares: list[float] = []
        with replaced(encode, shares):
            report = evaluate(rows, assistant, options.clips)
        said = [answer.said for answer in report.answers]
        usual = usual or said
        right = sum(answer.right for answer in report.answers)
        low, high = wilson_interval(right, report.count)
        errors, real = zip(
            *(_error(assistant, encode, video) for video in options.videos), strict=True
        )
        found.append(
            {
                "encoded": name,
                "computed": f"{fmean(shares):.1%}",
                "right": f"{report.accuracy:.1%}",
                "95 %": f"{low:.1%} to {high:.1%}",
                "other answers": sum(a != b for a, b in zip(said, usual, strict=True)),
                "computed of videos": f"{fmean(real):.1%}",
                "error of features": f"{fmean(errors):.1%}",
                "seconds per frame": round(_time(encode, options.videos[0], options.layers), 3),
            }
        )
        say(str(found[-1]))
    settings = {
        "clips": options.clips.name,
        "videos": len(options.videos),
        "layers": options.layers,
    }
    print(table(found))
    say(f"wrote {Record('encoder_savings', settings, found).write(options.out)}")


@contextmanager
def replaced(encode: Encode, shares: list[float]) -> Iterator[None]:
    """All encoding by `encode`, which notes its shares."""

    def chunks(tower: Any, pixels: torch.Tensor, layers: int, chunk: int) -> Iterator[torch.Tensor]:
        features, share = encode(tower, pixels, layers)
        shares.append(share)
        yield features

    before = visual_encoding.encode_frames
    visual_encoding.encode_frames = chunks
    try:
        yield
    finally:
        visual_encoding.encode_frames = before


@torch.inference_mode()
def _error(assistant: Any, encode: Encode, video: Path) -> tuple[float, float]:
    """Of the features of a video's frames, and the share that was computed."""
    model = assistant.model
    pixels = _pixels(video, assistant.processor.frame_size, 16)
    tower, layers = model.model.vision_tower, model.config.vision_layers
    exact, _ = encode_all(tower, pixels, layers)
    features, share = encode(tower, pixels, layers)
    difference = (features - exact).square().mean() / exact.square().mean()
    return float(difference.sqrt()), share


@torch.inference_mode()
def _time(encode: Encode, video: Path, layers: int) -> float:
    """Seconds of the processor for a frame in so many of the 26 layers of so400m."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(**SO400M | {"num_hidden_layers": layers})
    tower: Any = SiglipVisionModel(config).eval()
    tower = getattr(tower, "vision_model", tower)
    side = int(config.image_size)
    pixels = _pixels(video, (side, side), 4)
    encode(tower, pixels[:2], layers)
    started = time.process_time()
    encode(tower, pixels, layers)
    return (time.process_time() - started) / len(pixels)


def _pixels(video: Path, size: tuple[int, int], most: int) -> torch.Tensor:
    """Frames a second apart, (F, 3, S, S), from -1 to 1."""
    import crosslmm

    frames = crosslmm.sample(video, Sampling(fps=1, max_frames=most), size=size)
    return torch.from_numpy(frames.pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, help="a folder of `crosslmm synth`")
    parser.add_argument("--videos", type=Path, nargs="+", required=True, help="real ones")
    parser.add_argument("--layers", type=int, default=6, help="of so400m's 26, to be timed")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
