"""Training a large model on a small machine: adapters on a frozen language model.

Projector and cross-attention are trained in full: there is nothing pretrained in them to adapt.
What is saved is an adapter in PEFT's format; it is merged into the *unquantized* checkpoint at the
end, because merging into 4-bit weights rounds the adapter away.
"""

from pathlib import Path
from typing import Any

import torch

from crosslmm.checkpoints import loading
from crosslmm.errors import UsageError
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.training.recipe import LoraOptions
from crosslmm.training.stages import finalize_trainable

_DECODER_LINEARS = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.[a-z_]+_proj"


def add_adapters(model: CrossLMMForConditionalGeneration, options: LoraOptions) -> Any:
    """The model with new adapters that change nothing yet; of its weights only projector and
    cross-attention are trainable.

    Returns a `peft.PeftModel`.
    """
    peft = _peft()
    full = ["model.multi_modal_projector", "model.feature_norm"]
    full += [f"model.cross_attention_layers.{name}" for name in model.model.cross_attention_layers]
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=_DECODER_LINEARS,
        modules_to_save=full,
    )
    adapted = peft.get_peft_model(model, config)
    finalize_trainable(adapted, model.config)
    return adapted


def merge_adapter(
    base: Path, adapter: Path, *, dtype: torch.dtype
) -> CrossLMMForConditionalGeneration:
    """The checkpoint in `base` with an adapter merged into its weights, on the CPU."""
    model = loading.load_model(base, device=torch.device("cpu"), dtype=dtype)
    merged = _peft().PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    assert isinstance(merged, CrossLMMForConditionalGeneration)
    merged.to(dtype=dtype)  # type: ignore[call-arg]
    return merged


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise UsageError("lora needs peft: pip install 'crosslmm[train]'") from error
    return peft
