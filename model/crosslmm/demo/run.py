"""`crosslmm train demo`: trains the built-in model from scratch, from a seed.

First the encoder learns what covers each patch (`encoder.py`), then it is frozen and the language
model, projector and cross-attention are trained: to look things up, on two or three frames; to answer
everything, on eight; then on up to 24 frames, with any number of tokens for each (`batches.py`,
`loss.py`). There is no pretrained language model to preserve, so nothing else is frozen and both
branches of the cross-attention are on from the start. `recipe.yaml` holds the numbers.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml

from crosslmm.checkpoints.loading import save_checkpoint
from crosslmm.demo.batches import ClipBatches, ClipOptions
from crosslmm.demo.encoder import (
    ImageBatches,
    PatchClassifier,
    init_from_heads,
    init_position_embeddings,
)
from crosslmm.demo.loss import AnswerLoss
from crosslmm.demo.model import IMAGE_SIZE, PATCH_SIZE, demo_config, demo_processor
from crosslmm.demo.plain_attention import PLAIN
from crosslmm.demo.stage import StageOptions, run_stage
from crosslmm.errors import UsageError
from crosslmm.files import atomic_write, read_json
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.training.processes import join_processes
from crosslmm.training.run_folder import holds_run

SETTINGS = "settings.json"


@dataclass(frozen=True)
class ClipStage:
    """A stage of the language model's training: its clips, and how it is trained on them.

    `auxiliary_weight`: see `AnswerLoss`.
    """

    name: str
    clips: ClipOptions
    options: StageOptions
    auxiliary_weight: float = 0.5


@dataclass(frozen=True)
class DemoRecipe:
    """Everything the result depends on besides the seed. `images`: per batch of the encoder's stage."""

    images: int
    encoder: StageOptions
    stages: tuple[ClipStage, ...]


def demo_recipe() -> DemoRecipe:
    """The recipe of the shipped model, `recipe.yaml`."""
    values = _recipe_values()
    stages = tuple(map(_clip_stage, values["stages"]))
    return DemoRecipe(values["images"], StageOptions(**values["encoder"]), stages)


def teacher_stage() -> ClipStage:
    """The stage that makes a teacher of the built-in model (`teacher.py`), of the same file."""
    return _clip_stage(_recipe_values()["teacher"])


def _recipe_values() -> dict[str, Any]:
    text = (resources.files(__package__) / "recipe.yaml").read_text("utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def _clip_stage(stage: dict[str, Any]) -> ClipStage:
    clips: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in stage["clips"].items()
    }
    options = StageOptions(**stage["options"])
    return ClipStage(**{**stage, "clips": ClipOptions(**clips), "options": options})


FEW_STEPS = StageOptions(steps=4, warmup_steps=1, save_steps=2, log_steps=1, newton_schulz_steps=1)
SHORT = DemoRecipe(
    images=2,
    encoder=FEW_STEPS,
    stages=(
        ClipStage(
            "2-clips",
            ClipOptions(clips=1, questions=3, frames=(2, 2)),
            FEW_STEPS,
        ),
    ),
)
"""A few steps of two stages: a trial of the command, in which the model learns nothing."""


def shorten(stage: ClipStage) -> ClipStage:
    """A few steps of it, in which little is learned."""
    clips = ClipOptions(clips=1, questions=3, frames=(2, 2), tokens=stage.clips.tokens)
    return replace(stage, clips=clips, options=FEW_STEPS)


def train_demo(
    out: Path,
    *,
    seed: int = 0,
    short: bool = False,
    recipe: DemoRecipe | None = None,
    report: Callable[[str], None] | None = None,
) -> Path | None:
    """Train into `out`, resuming an interrupted run; returns the finished checkpoint on the first
    process and None on the others.

    - `short`: a handful of steps instead of hours.
    - `report`: called with a line of progress at every log step, on the first process only.

    Started by `accelerate launch` or `torchrun`, the processes share each step's batch. Raises
    UsageError where `out` holds something else, or a run with other settings.
    """
    recipe = recipe or (SHORT if short else demo_recipe())
    keep_settings(out, recipe, seed)
    torch.manual_seed(seed)
    processor = demo_processor()
    model = CrossLMMForConditionalGeneration(demo_config(processor))
    encoder = model.model.vision_tower
    init_position_embeddings(encoder)
    model.set_attn_implementation(PLAIN)
    classifier = PatchClassifier(encoder)
    images = ImageBatches(
        batch=recipe.images, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, seed=seed
    )
    run_stage(
        classifier,
        images,
        replace(recipe.encoder, seed=seed),
        folder=out / "1-encoder",
        report=report,
    )
    init_from_heads(model, classifier, images.at(0)["pixels"].to(encoder.device))
    encoder.requires_grad_(False)
    train_on_clips(model, processor, recipe.stages, out=out, seed=seed, report=report)
    return save_finished(model, out / "demo", demo_processor())


def train_on_clips(
    model: CrossLMMForConditionalGeneration,
    processor: CrossLMMProcessor,
    stages: Sequence[ClipStage],
    *,
    out: Path,
    seed: int,
    report: Callable[[str], None] | None,
) -> None:
    """Train what is not frozen of a built-in model stage by stage, each in a folder of its name."""
    model.set_attn_implementation(PLAIN)
    model.model.frames_per_chunk = 64
    loss = AnswerLoss(model)
    for stage in stages:
        loss.auxiliary_weight = stage.auxiliary_weight
        source = ClipBatches(processor, stage.clips, seed=seed, name=stage.name)
        run_stage(
            loss, source, replace(stage.options, seed=seed), folder=out / stage.name, report=report
        )


def save_finished(
    model: CrossLMMForConditionalGeneration,
    folder: Path,
    processor: CrossLMMProcessor,
    also: Callable[[], object] | None = None,
) -> Path | None:
    """`save_demo`, and what else there is to write, by the first process, for which all wait: the folder
    there, None on the others."""
    state = join_processes()
    if state.is_main_process:
        save_demo(model, folder, processor)
        if also is not None:
            also()
    state.wait_for_everyone()
    return folder if state.is_main_process else None


def keep_settings(out: Path, recipe: DemoRecipe | ClipStage, seed: int) -> None:
    """Record what a run depends on: its stages cannot be resumed with another recipe or seed."""
    state = join_processes()
    settings = json.loads(json.dumps([asdict(recipe), seed]))
    path = out / SETTINGS
    try:
        kept = read_json(path) if holds_run(out, SETTINGS) else None
    except ValueError:
        kept = "damaged"
    state.wait_for_everyone()
    if kept not in (None, settings):
        raise UsageError(
            f"{out}: holds a run made with a different recipe or `seed`; give another `out`"
        )
    if kept is None and state.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(settings).encode())
    state.wait_for_everyone()


def save_demo(
    model: CrossLMMForConditionalGeneration, folder: Path, processor: CrossLMMProcessor
) -> None:
    """A finished checkpoint in bfloat16, with its processor, complete or not there at all."""
    model.set_attn_implementation("sdpa")
    model.bfloat16()
    for config in (model.config, model.config.text, model.config.vision):
        config.dtype = "bfloat16"
    save_checkpoint(folder, model, processor, replace=True)
