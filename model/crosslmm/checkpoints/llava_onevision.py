"""LLaVA-OneVision checkpoints as CrossLMM: the same weights, and new, closed cross-attention.

They pool after projecting, by plain bilinear sampling to half the grid (27×27 to 14×14, 196 tokens),
and put one learned newline token after a video. With these settings a CrossLMM is that model, logit
for logit; with fewer tokens per frame it is that model with merged tokens.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from crosslmm.checkpoints.frame_settings import read_frame_settings, read_settings
from crosslmm.checkpoints.headers import parse_gate
from crosslmm.checkpoints.quiet import without_bars
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.errors import CheckpointError
from crosslmm.files import atomic_folder, read_text
from crosslmm.processing_crosslmm import CrossLMMProcessor

# Weight names of the published checkpoints (and of today's `save_pretrained`) → those of CrossLMM.
KEY_MAPPING = {
    r"^language_model\.lm_head": "lm_head",
    r"^language_model\.model\.": "model.language_model.",
    r"^language_model\.(?!model\.|lm_head)": "model.language_model.",
    r"^vision_tower\.": "model.vision_tower.",
    r"^multi_modal_projector\.": "model.multi_modal_projector.",
    r"^image_newline": "model.image_newline",
}

# What such a checkpoint cannot have, and what is the identity until it is trained.
FRESH_WEIGHTS = ("model.cross_attention_layers.", "model.feature_norm.")


def crosslmm_config(folder: Path) -> CrossLMMConfig:
    """The configuration under which a CrossLMM equals the checkpoint in `folder`.

    Raises CheckpointError for variants of LLaVA-OneVision that it does not cover.
    """
    from transformers import LlavaOnevisionConfig  # which other checkpoints do not need

    source: Any = LlavaOnevisionConfig.from_pretrained(folder)
    vision, text = source.vision_config, source.text_config
    layer = source.vision_feature_layer
    if not isinstance(layer, int) or source.vision_feature_select_strategy != "full":
        raise CheckpointError(
            f"{folder}: this LLaVA-OneVision reads several vision layers or drops a class token "
            f"(vision_feature_layer={layer}, {source.vision_feature_select_strategy}); "
            "only one layer of a SigLIP encoder is supported"
        )
    pooled_side = -(-int(vision.image_size // vision.patch_size) // 2)
    config = CrossLMMConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        video_token_id=source.video_token_id,
        tokens_per_frame=pooled_side**2,
        merge_mode="bilinear",
        projector_order="project_first",
        projector_hidden_act=source.projector_hidden_act,
        projector_bias=source.multimodal_projector_bias,
        vision_feature_layer=layer,
        video_newline=True,
        dtype=source.dtype,
    )
    config.tie_word_embeddings = source.tie_word_embeddings
    return config


def crosslmm_processor(folder: Path) -> CrossLMMProcessor:
    """The processor for `crosslmm_config`, from the checkpoint's own files."""
    config = crosslmm_config(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    settings = read_frame_settings(folder)
    height, width = settings.size
    image_processor = SiglipImageProcessorPil(
        size={"height": height, "width": width},
        resample=settings.resample,
        image_mean=settings.values["image_mean"],
        image_std=settings.values["image_std"],
        rescale_factor=settings.values.get("rescale_factor", 1 / 255),
    )
    return CrossLMMProcessor(
        image_processor,
        tokenizer,
        chat_template=_chat_template(folder) or tokenizer.chat_template,
        video_token=str(tokenizer.convert_ids_to_tokens(config.video_token_id)),
        tokens_per_frame=config.tokens_per_frame,
        video_newline=True,
    )


def save_as_llava_onevision(folder: Path, model: Any, processor: CrossLMMProcessor) -> None:
    """Write a CrossLMM of this form as the LLaVA-OneVision that it is, for transformers; without its
    cross-attention. Raises CheckpointError for one of another form, or with an open gate."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    config: CrossLMMConfig = model.config
    pooled = (-(-config.patch_grid // 2)) ** 2
    form = (
        config.projector_order,
        config.merge_mode,
        config.tokens_per_frame,
        config.video_newline,
    )
    gates = [weight for name, weight in model.named_parameters() if parse_gate(name)]
    if form != ("project_first", "bilinear", pooled, True) or any(map(bool, gates)):
        raise CheckpointError(
            f"only a model that projects before it pools bilinearly to {pooled} tokens per frame, with "
            "a newline and closed gates, is a LLaVA-OneVision"
        )
    tokenizer = processor.tokenizer
    target = LlavaOnevisionConfig(
        vision_config=config.vision.to_dict(),
        text_config=config.text.to_dict(),
        image_token_index=int(tokenizer.convert_tokens_to_ids(processor.image_token)),
        video_token_index=config.video_token_id,
        projector_hidden_act=config.projector_hidden_act,
        multimodal_projector_bias=config.projector_bias,
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy="full",
        tie_word_embeddings=config.tie_word_embeddings,
    )
    with torch.device("meta"):
        peer = LlavaOnevisionForConditionalGeneration(target)
    weights = {
        name: weight
        for name, weight in model.state_dict().items()
        if not name.startswith(FRESH_WEIGHTS)
    }
    peer.load_state_dict(weights, assign=True)
    peer.tie_weights()
    peer.generation_config = model.generation_config
    with atomic_folder(folder, replace=True) as scratch, without_bars():
        peer.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        template = {"chat_template": processor.chat_template}
        (scratch / "chat_template.json").write_text(json.dumps(template), "utf-8")
        frames: Any = processor.image_processor
        height, width = processor.frame_size
        settings = {
            "image_processor_type": "LlavaOnevisionImageProcessor",
            "size": {"height": height, "width": width},
            "resample": int(frames.resample),
            "image_mean": list(frames.image_mean),
            "image_std": list(frames.image_std),
            "rescale_factor": frames.rescale_factor,
        }
        (scratch / "preprocessor_config.json").write_text(json.dumps(settings), "utf-8")


def _chat_template(folder: Path) -> str | None:
    template = folder / "chat_template.jinja"
    if template.is_file():
        return read_text(template)
    return read_settings(folder / "chat_template.json").get("chat_template")
