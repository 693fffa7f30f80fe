"""`crosslmm train demo`: the built-in model from nothing, by one command, from a seed.

First the encoder learns what covers each patch (`demo_encoder.py`), then it is frozen and the language
model, projector and cross-attention learn to answer, on six to eight frames and at last on the sixteen
they will be used with. There is no pretrained language model to keep intact, so nothing else is frozen
and both branches of the cross-attention are on from the start.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.training.demo_attention import PLAIN
from crosslmm.training.demo_clips import Answering, ClipOptions, QuestionedClips
from crosslmm.training.demo_encoder import DenseReader, Stills, lay_out_positions
from crosslmm.training.demo_model import IMAGE_SIZE, PATCH_SIZE, demo_config, demo_processor
from crosslmm.training.demo_stage import StageOptions, run_stage

_ENCODER = StageOptions(steps=2000, warmup_steps=150, save_steps=200)
_GATES = {"gate": 5.0}  # scalars from zero have the longest way to go


@dataclass(frozen=True)
class ClipStage:
    """A stage of the language model's training: its clips, and how it learns from them."""

    name: str
    clips: ClipOptions
    options: StageOptions


@dataclass(frozen=True)
class DemoRecipe:
    """Everything the result depends on beside the seed. Batches are per process."""

    stills: int = 16
    encoder: StageOptions = _ENCODER
    stages: tuple[ClipStage, ...] = (
        ClipStage(
            "2-clips",
            ClipOptions(clips=6, frames=(6, 8)),
            StageOptions(steps=1500, matrix_rate=0.015, rate_factors=_GATES, decays=False),
        ),
        ClipStage(
            "3-tune",
            ClipOptions(clips=6, frames=(16, 16)),
            StageOptions(steps=750, matrix_rate=0.015, rate_factors=_GATES, warmup_steps=20),
        ),
    )


SHORT = DemoRecipe(
    stills=2,
    encoder=StageOptions(steps=4, warmup_steps=1, save_steps=2, log_steps=1),
    stages=(
        ClipStage(
            "2-clips",
            ClipOptions(clips=1, questions=3, frames=(2, 2)),
            StageOptions(steps=4, warmup_steps=1, save_steps=2, log_steps=1),
        ),
    ),
)
"""A few steps of two stages: that the command works and repeats itself, not that the model learns."""


def train_demo(
    out: Path,
    *,
    seed: int = 0,
    short: bool = False,
    recipe: DemoRecipe | None = None,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Train into `out`, going on where an earlier run was stopped; returns the finished checkpoint.

    - `short`: a handful of steps instead of hours.
    - `report`: called with a line of progress now and then, on the first process only.

    Started by `accelerate launch` or `torchrun`, the processes share each step's batch.
    """
    recipe = recipe or (SHORT if short else DemoRecipe())
    torch.manual_seed(seed)
    processor = demo_processor()
    model = CrossLMMForConditionalGeneration(demo_config(processor))
    encoder = model.model.vision_tower
    lay_out_positions(encoder)
    model.set_attn_implementation(PLAIN)
    run_stage(
        DenseReader(encoder),
        Stills(batch=recipe.stills, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, seed=seed),
        replace(recipe.encoder, seed=seed),
        folder=out / "1-encoder",
        report=report,
    )
    encoder.requires_grad_(False)
    model.model.frames_per_chunk = 64
    answering = Answering(model)
    for stage in recipe.stages:
        source = QuestionedClips(processor, stage.clips, seed=seed, name=stage.name)
        run_stage(answering, source, replace(stage.options, seed=seed), folder=out / stage.name,
                  report=report)  # fmt: skip
    folder = out / "demo"
    save_demo(model, folder)
    return folder


def save_demo(model: CrossLMMForConditionalGeneration, folder: Path) -> None:
    """A finished checkpoint in bfloat16, with its processor."""
    model.set_attn_implementation("sdpa")
    model = model.to(torch.bfloat16)
    model.config.dtype = "bfloat16"
    model.save_pretrained(folder)
    demo_processor().save_pretrained(folder)
