"""The demo's architecture: small enough to ship in a package, with every part that a CrossLMM has."""

from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.demo.tokenizer import demo_tokenizer
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.prompts.templates import PLAIN_TEMPLATE

IMAGE_SIZE = 96
PATCH_SIZE = 8


def demo_processor() -> CrossLMMProcessor:
    """Tokenizer, frame processor and chat template of the demo."""
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return CrossLMMProcessor(
        SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        demo_tokenizer(),
        chat_template=PLAIN_TEMPLATE,
        tokens_per_frame=9,
        time_line="llava_video",
    )


def demo_config(processor: CrossLMMProcessor) -> CrossLMMConfig:
    """About seven million parameters: 14 MB in bfloat16."""
    tokenizer = processor.tokenizer
    return CrossLMMConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 160,
            "intermediate_size": 640,
            "num_hidden_layers": 5,
            "num_attention_heads": 5,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": 256,
            "intermediate_size": 640,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "tie_word_embeddings": True,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        video_token_id=processor.video_token_id,
        tokens_per_frame=processor.tokens_per_frame,
        cross_attention_interval=2,
        v2v_scope="frame",
        t2v_cache="projected",  # so few frames take little room
        default_frames=16,
    )
