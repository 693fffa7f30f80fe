"""Tiny random models and checkpoints for tests: the real classes, a few thousand parameters."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.prompts.templates import PLAIN_TEMPLATE

SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
CHAT_TEMPLATE = PLAIN_TEMPLATE


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the special ones: 261 in all; any text survives it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        padding_side="left",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )


def vision_config(*, image_size: int = 30, **changes: Any) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": 6,
        "vision_use_head": False,
    } | changes


def text_config(model_type: str = "qwen2", **changes: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 261,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        # Random weights of the usual size barely tell tokens apart; larger ones make tests sharp.
        "initializer_range": 0.2,
    } | changes


def tiny_config(
    *,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    **changes: Any,
) -> CrossLMMConfig:
    return CrossLMMConfig(
        **{
            "vision_config": vision or vision_config(),
            "text_config": text or text_config(),
            "video_token_id": SPECIAL.index("<video>"),
            "tokens_per_frame": 4,
            "cross_attention_interval": 2,
        }
        | changes
    )


def open_gates(model: torch.nn.Module, v2v: float = 0.5, t2v: float = 0.7) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(".gate"):
            torch.nn.init.constant_(parameter, v2v if ".v2v." in name else t2v)


def tiny_model(
    *, seed: int = 0, gates: bool = True, **changes: Any
) -> CrossLMMForConditionalGeneration:
    torch.manual_seed(seed)
    model = CrossLMMForConditionalGeneration(tiny_config(**changes)).eval()
    if gates:
        open_gates(model)
    return model


def tiny_processor(*, image_size: int = 30, **changes: Any) -> CrossLMMProcessor:
    return CrossLMMProcessor(
        SiglipImageProcessorPil(size={"height": image_size, "width": image_size}),
        tiny_tokenizer(),
        **{"chat_template": CHAT_TEMPLATE, "tokens_per_frame": 4} | changes,
    )


def tiny_checkpoint(folder: Path, *, gates: bool = True, **changes: Any) -> Path:
    """A whole CrossLMM checkpoint folder with random weights."""
    tiny_model(gates=gates, **changes).save_pretrained(folder)
    tiny_processor(
        video_newline=changes.get("video_newline", False),
        tokens_per_frame=changes.get("tokens_per_frame", 4),
    ).save_pretrained(folder)
    return folder
