"""`crosslmm train demo-teacher`: a teacher for distillation, in LLaVA-OneVision's form.

The built-in model knows half of what it knows through cross-attention. Here its gates are closed and the
language model, projector and embeddings are tuned on with four times as many tokens per frame, until
everything goes through them, as in LLaVA-OneVision: projected before pooling, with a newline at the end.
So the same weights are both a CrossLMM and a checkpoint that transformers loads as LLaVA-OneVision.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from crosslmm.checkpoints import catalog, loading
from crosslmm.checkpoints.headers import parse_gate
from crosslmm.checkpoints.llava_onevision import save_as_llava_onevision
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.demo.batches import ClipBatches, ClipOptions
from crosslmm.demo.loss import AnswerLoss
from crosslmm.demo.model import demo_processor
from crosslmm.demo.plain_attention import PLAIN
from crosslmm.demo.run import FEW_STEPS, ClipStage, keep_settings, save_demo, teacher_stage
from crosslmm.demo.stage import run_stage
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.training.processes import join_processes

TOKENS_PER_FRAME = 36
LLAVA_ONEVISION = "llava-onevision"


def train_teacher(
    out: Path,
    *,
    seed: int = 0,
    short: bool = False,
    report: Callable[[str], None] | None = None,
) -> Path | None:
    """Train into `out`, resuming an interrupted run; returns the finished checkpoint on the first
    process and None on the others. Beside it lies the same in LLaVA-OneVision's form.

    `short`: a handful of steps, in which little is learned. Otherwise as `train_demo`.
    """
    stage = teacher_stage()
    if short:
        few = ClipOptions(clips=1, questions=3, frames=(2, 2))
        stage = replace(stage, clips=few, options=FEW_STEPS)
    keep_settings(out, stage, seed)
    torch.manual_seed(seed)
    processor = teacher_processor()
    model = init_teacher(processor)
    _train(model, processor, stage, out=out, seed=seed, report=report)
    folder = out / "teacher"
    state = join_processes()
    if state.is_main_process:
        save_demo(model, folder, processor)
        save_as_llava_onevision(out / LLAVA_ONEVISION, model, processor)
    state.wait_for_everyone()
    return folder if state.is_main_process else None


def _train(
    model: CrossLMMForConditionalGeneration,
    processor: CrossLMMProcessor,
    stage: ClipStage,
    *,
    out: Path,
    seed: int,
    report: Callable[[str], None] | None,
) -> None:
    model.set_attn_implementation(PLAIN)
    model.model.frames_per_chunk = 64
    loss = AnswerLoss(model, auxiliary_weight=stage.auxiliary_weight)
    source = ClipBatches(processor, stage.clips, seed=seed, name=stage.name)
    run_stage(
        loss, source, replace(stage.options, seed=seed), folder=out / stage.name, report=report
    )


def teacher_processor() -> CrossLMMProcessor:
    processor = demo_processor()
    processor.tokens_per_frame = TOKENS_PER_FRAME
    processor.video_newline = True
    return processor


def init_teacher(processor: CrossLMMProcessor) -> CrossLMMForConditionalGeneration:
    """The built-in model in its teacher's form, gates closed; encoder and cross-attention are frozen.
    Only the newline is new."""
    folder = catalog.resolve(catalog.DEMO)
    built_in = loading.load_model(folder, device=torch.device("cpu"), dtype=torch.float32)
    values = built_in.config.to_dict()
    values |= {
        "tokens_per_frame": processor.tokens_per_frame,
        "merge_mode": "bilinear",
        "projector_order": "project_first",
        "video_newline": True,
        "dtype": "float32",
    }
    model = CrossLMMForConditionalGeneration(CrossLMMConfig.from_dict(values))
    lacking = model.load_state_dict(built_in.state_dict(), strict=False).missing_keys
    assert lacking == ["model.image_newline"], lacking
    model.tie_weights()
    model.generation_config = built_in.generation_config
    model.model.vision_tower.requires_grad_(False)
    model.model.feature_norm.requires_grad_(False)
    model.model.cross_attention_layers.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parse_gate(name):
            torch.nn.init.zeros_(parameter)
    return model
