"""Fits and measures the check that tells footage which the built-in model does not know.

    python -m benchmarks.footage fit --familiar CLIPS... --unfamiliar IMAGES... --out FILE.safetensors
    python -m benchmarks.footage score CLIPS...

`fit` is a logistic regression on frames: of synthetic clips against images (photographs, drawings, text,
plain colours). `score` prints each clip's score; of clips of the fit it tells nothing.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

import crosslmm
from crosslmm.inference.assistant import Assistant
from crosslmm.inference.footage import describe, read_check
from crosslmm.options import Sampling

DECAY = 1e-3
THRESHOLD = 2.5


def encode(assistant: Assistant, frames: np.ndarray) -> torch.Tensor:
    """frames: (T, H, W, 3) uint8 of the model's size → features (T, N, D)."""
    pixels = assistant.processor.normalise(torch.from_numpy(frames), dtype=assistant.model.dtype)
    with torch.inference_mode():
        features = assistant.model.model.encode_frames(pixels, assistant.tokens_per_frame)[1]
    assert features is not None
    return features


def clip_features(assistant: Assistant, path: Path) -> torch.Tensor:
    frames = crosslmm.sample(
        path, Sampling(frames=assistant.runtime.default_frames), size=assistant.processor.frame_size
    )
    return encode(assistant, frames.pixels)


def image_features(
    assistant: Assistant, paths: list[Path], chunk: int = 64
) -> Iterator[torch.Tensor]:
    for start in range(0, len(paths), chunk):
        images = [
            assistant.processor.resize(Image.open(path)) for path in paths[start : start + chunk]
        ]
        yield from encode(assistant, np.stack(images))


def fit(familiar: torch.Tensor, unfamiliar: torch.Tensor) -> torch.Tensor:
    """Descriptions of frames (F, 4 · D) of both kinds → weight and bias (4 · D + 1,)."""
    frames = torch.cat([familiar, unfamiliar])
    mean, deviation = frames.mean(0), frames.std(0) + 1e-3
    inputs = functional.pad((frames - mean) / deviation, (0, 1), value=1.0)
    wanted = torch.cat([torch.zeros(len(familiar)), torch.ones(len(unfamiliar))])
    balance = torch.where(wanted > 0, len(familiar) / len(unfamiliar), 1.0)
    weight = torch.zeros(inputs.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = inputs @ weight
        value = functional.binary_cross_entropy_with_logits(scores, wanted, weight=balance)
        value = value + DECAY * weight[:-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    scaled = weight.detach()[:-1] / deviation
    return torch.cat([scaled, weight.detach()[-1:] - (mean * scaled).sum()])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fitting = commands.add_parser("fit")
    fitting.add_argument("--familiar", nargs="+", type=Path, required=True)
    fitting.add_argument("--unfamiliar", nargs="+", type=Path, required=True)
    fitting.add_argument("--out", type=Path, required=True)
    scoring = commands.add_parser("score")
    scoring.add_argument("clips", nargs="+", type=Path)
    arguments = parser.parse_args()
    assistant = crosslmm.load("demo", device="cpu")
    if arguments.command == "fit":
        known = [frame for path in arguments.familiar for frame in clip_features(assistant, path)]
        other = image_features(assistant, arguments.unfamiliar)
        weight = fit(torch.stack([*map(describe, known)]), torch.stack([*map(describe, other)]))
        save_file({"weight": weight, "threshold": torch.tensor(THRESHOLD)}, arguments.out)
        return
    check = read_check(assistant.runtime.folder)
    assert check is not None
    for path in arguments.clips:
        print(f"{check.score(clip_features(assistant, path)):8.2f}  {path}")
    print(f"{check.threshold:8.2f}  threshold")


if __name__ == "__main__":
    main()
