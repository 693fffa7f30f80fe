"""Random LLaVA-OneVision checkpoints to benchmark with, whole folders that both sides load.

Speed and memory do not depend on what the weights are, so no trained model is needed. `middle` is for
CPUs: in the proportions of the 7B model (the language model's linear work on 196 tokens four times
the encoder's on their frame), and of a size at which 256 frames take seconds.
"""

import json
from pathlib import Path
from typing import Any

PATCHES = {"image_size": 384, "patch_size": 14, "vision_use_head": False}
SO400M = PATCHES | {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
}
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "vision": {
            "image_size": 42,
            "patch_size": 6,
            "vision_use_head": False,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        "text": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 512,
            "tie_word_embeddings": True,
        },
    },
    "middle": {
        "vision": PATCHES
        | {
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
        },
        "text": {
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "vocab_size": 8192,
            "tie_word_embeddings": True,
        },
    },
    "0.5b": {
        "vision": SO400M,
        "text": {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 152000,
            "tie_word_embeddings": True,
        },
    },
    "7b": {
        "vision": SO400M,
        "text": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152128,
            "tie_word_embeddings": False,
        },
    },
}
SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
VIDEO_TOKEN = SPECIAL.index("<video>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] if part['type'] == 'video' %}<video>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def random_checkpoint(shape: str, folder: Path, *, seed: int = 0) -> Path:
    """A LLaVA-OneVision checkpoint of that shape in bfloat16 in `folder`, unless it is there."""
    made_as = folder / "shape.json"  # written last
    made = json.dumps([SHAPES[shape], seed])
    if made_as.exists():
        if made_as.read_text("utf-8") != made:
            raise SystemExit(f"{folder}: holds a checkpoint of another shape; give another folder")
        return folder
    import torch
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    parts = SHAPES[shape]
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **parts["vision"]},
        text_config={
            "model_type": "qwen2",
            "max_position_embeddings": 65536,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **parts["text"],
        },
        video_token_index=VIDEO_TOKEN,
        image_token_index=SPECIAL.index("<image>"),
        vision_feature_layer=-1,
        tie_word_embeddings=parts["text"]["tie_word_embeddings"],
    )
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = LlavaOnevisionForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    side = parts["vision"]["image_size"]
    SiglipImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    model.save_pretrained(folder)
    made_as.write_text(made, "utf-8")
    return folder


def _tokenizer() -> Any:
    """One token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

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
        chat_template=TEMPLATE,
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )
