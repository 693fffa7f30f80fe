"""Which checkpoints can be loaded, by their configuration alone: known before weights are downloaded."""

from collections.abc import Mapping
from typing import Any

from crosslmm.limits import DECODERS

CROSSLMM, LLAVA_ONEVISION = "crosslmm", "llava_onevision"
MODEL_TYPES = (CROSSLMM, LLAVA_ONEVISION)
ENCODERS = ("siglip_vision_model",)

# Where the libraries that quantize weights say so: transformers' own, MLX, compressed-tensors.
_QUANTIZED = ("quantization_config", "quantization", "compression_config")


def wrong_kind(kind: object, kinds: tuple[str, ...]) -> str:
    return f"its model_type is {kind!r}, not {' or '.join(kinds)}"


def unsupported(config: Mapping[str, Any]) -> str | None:
    """Why the checkpoint with this `config.json` cannot be loaded as a model; None if it can."""
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        return wrong_kind(kind, MODEL_TYPES)
    text, vision = _part(config, "text_config"), _part(config, "vision_config")
    if (decoder := text.get("model_type", DECODERS[0])) not in DECODERS:
        return f"its language model is a {decoder}, not one of {', '.join(DECODERS)}"
    if (encoder := vision.get("model_type", ENCODERS[0])) not in ENCODERS:
        return f"its vision encoder is a {encoder}, not {' or '.join(ENCODERS)}"
    return _stored_quantized(config, text)


def unsupported_part(config: Mapping[str, Any]) -> str | None:
    """Why a CrossLMM cannot be assembled with the checkpoint of this `config.json`; None if it can."""
    kind = config.get("model_type")
    if kind not in ("siglip", *ENCODERS, *DECODERS):
        return (
            f"its model_type is {kind!r}; supported are {' and '.join(MODEL_TYPES)}, and as parts "
            f"of a new model siglip, {', '.join(DECODERS)}"
        )
    return _stored_quantized(config)


def _part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key)
    return found if isinstance(found, Mapping) else {}


def _stored_quantized(*configs: Mapping[str, Any]) -> str | None:
    """What is said of weights that a configuration calls quantized; None where it does not."""
    for config in configs:
        for key in _QUANTIZED:
            if found := config.get(key):
                method = found.get("quant_method") if isinstance(found, Mapping) else None
                return (
                    f"its weights are stored quantized ({method or key}); supported are float32, "
                    "bfloat16 and float16 weights, which `quantization` 4bit quantizes on loading"
                )
    return None
