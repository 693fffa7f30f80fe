"""`crosslmm train demo-frames`: the built-in model tuned on for more frames and fewer tokens for each.

It was trained on eight frames of nine tokens, and gets worse with others. Here both are drawn for every
batch; the encoder stays frozen.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from crosslmm.checkpoints import catalog, loading
from crosslmm.demo.model import demo_processor
from crosslmm.demo.run import frames_stage, keep_settings, save_finished, shorten, train_on_clips

FRAMES = 16


def train_more_frames(
    out: Path,
    *,
    seed: int = 0,
    short: bool = False,
    report: Callable[[str], None] | None = None,
) -> Path | None:
    """Train into `out`; as `train_demo`."""
    stage = shorten(frames_stage()) if short else frames_stage()
    keep_settings(out, stage, seed)
    torch.manual_seed(seed)
    folder = catalog.resolve(catalog.DEMO)
    model = loading.load_model(folder, device=torch.device("cpu"), dtype=torch.float32)
    model.config.default_frames = FRAMES
    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    processor = demo_processor()
    train_on_clips(model, processor, (stage,), out=out, seed=seed, report=report)
    return save_finished(model, out / "demo", processor)
