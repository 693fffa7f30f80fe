"""Loading the language model in 4 or 8 bits through bitsandbytes, and verifying the result.

Only the linear layers of the decoder are quantized. Vision tower, projector, cross-attention,
embeddings and head keep their precision. Which modules were replaced is checked after loading,
because a name that does not match is skipped silently by the library.
"""

import logging
from typing import get_args

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from crosslmm.errors import CheckpointError, UsageError
from crosslmm.limits import quantizes_by_default
from crosslmm.options import Quantization, ResolvedQuantization
from crosslmm.precision import UNQUANTIZED_MODULES

CHOICES = get_args(Quantization)

# bitsandbytes' classes by name: importing it takes a second that an unquantized model need not wait.
_CLASSES = {
    "4bit": {"Linear4bit"},
    "8bit": {"Linear8bitLt"},
    "none": {"Linear4bit", "Linear8bitLt"},
}


def resolve_quantization(
    quantization: str, device: torch.device, parameters: int
) -> ResolvedQuantization:
    """`auto` is 4bit on a GPU for models of over a billion parameters, and none elsewhere."""
    if quantization == "auto":
        return "4bit" if quantizes_by_default(device.type, parameters) else "none"
    if quantization not in CHOICES:
        raise UsageError(f"{quantization}: not a quantization; give one of {', '.join(CHOICES)}")
    if quantization != "none" and device.type == "mps":
        raise UsageError(
            f"{quantization} needs a CUDA device or the CPU; use `quantization` none here"
        )
    return quantization  # type: ignore[return-value]


def quantization_config(
    quantization: ResolvedQuantization, dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    """4bit is NF4 with double quantization, computing in `dtype`; None for none."""
    if quantization == "none":
        return None
    # It warns of an optional kernel and of casts at every layer of every step.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    kept = list(UNQUANTIZED_MODULES)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )


def check_quantized(model: nn.Module, quantization: ResolvedQuantization) -> None:
    """Raises CheckpointError unless just the decoder's linear layers are quantized as asked."""
    decoder = model.get_submodule("model.language_model.layers")
    expected: set[str] = set()
    if quantization != "none":
        prefix = "model.language_model.layers."
        expected = {
            prefix + name
            for name, module in decoder.named_modules()
            if isinstance(module, nn.Linear)
        }
    wanted = _CLASSES[quantization]
    actual = {name for name, module in model.named_modules() if type(module).__name__ in wanted}
    if actual != expected:
        wrong = sorted(actual ^ expected)
        raise CheckpointError(
            f"{quantization} quantization missed or overran {len(wrong)} modules, first {wrong[0]}; "
            "please report this as a bug, with the version of bitsandbytes"
        )


def keep_gradients(model: nn.Module) -> None:
    """Let gradients pass through weights in 4 bits after a pass without them. On a CPU with AVX512-BF16
    bitsandbytes lays the weights out for a faster product at that pass, for good; that product has no
    backward."""
    for module in model.modules():
        if type(module).__name__ in _CLASSES["4bit"]:
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
