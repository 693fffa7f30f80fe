"""`crosslmm train demo-teacher`: a teacher for distillation, in LLaVA-OneVision's form.

The built-in model knows half of what it knows through cross-attention. Here its gates are closed and the
language model, projector and embeddings are tuned on with four times as many tokens per frame, until
everything goes through them, as in LLaVA-OneVision: projected before pooling, with a newline at the end.
So the same weights are both a CrossLMM and a checkpoint that transformers loads as LLaVA-OneVision.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from crosslmm.checkpoints import catalog, loading
from crosslmm.checkpoints.headers import parse_gate
from crosslmm.checkpoints.llava_onevision import save_as_llava_onevision
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.demo.model import demo_processor
from crosslmm.demo.run import keep_settings, save_finished, shorten, teacher_stage, train_on_clips
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.synthetic.scenes import FRAMES_NEEDED

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
    stage = shorten(teacher_stage()) if short else teacher_stage()
    keep_settings(out, stage, seed)
    torch.manual_seed(seed)
    processor = teacher_processor()
    model = init_teacher(processor)
    train_on_clips(model, processor, (stage,), out=out, seed=seed, report=report)
    return save_finished(
        model, out / "teacher", processor,
        also=lambda: save_as_llava_onevision(out / LLAVA_ONEVISION, model, processor),
    )  # fmt: skip


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
        "default_frames": FRAMES_NEEDED,
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
