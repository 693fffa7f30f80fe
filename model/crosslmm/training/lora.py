"""Training a large model on a small machine: adapters on a frozen language model.

Projector and cross-attention are trained in full: there is nothing pretrained in them to adapt. In
`distill` the projector stays, and queries and values are all that is adapted.
What is saved is an adapter in PEFT's format; it is merged into the *unquantized* checkpoint at the
end, because merging into 4-bit weights rounds the adapter away.
"""

from pathlib import Path
from typing import Any

from crosslmm.checkpoints.adapters import import_peft
from crosslmm.files import atomic_folder
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.training.recipe import LoraOptions, Stage
from crosslmm.training.stages import finalize_trainable

_DECODER_LINEARS = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.[a-z_]+_proj"
_QUERIES_AND_VALUES = r"model\.language_model\.layers\.\d+\.self_attn\.[qv]_proj"


def add_adapters(
    model: CrossLMMForConditionalGeneration, options: LoraOptions, stage: Stage = "tune"
) -> Any:
    """The model with new adapters that change nothing yet; of its weights only projector (not in
    `distill`) and cross-attention are trainable.

    Returns a `peft.PeftModel`.
    """
    peft = import_peft("lora")
    full = ["model.feature_norm"]
    if model.model.cross_attention_kv is not None:
        full.append("model.cross_attention_kv")
    if stage != "distill":
        full.append("model.multi_modal_projector")
    full += [f"model.cross_attention_layers.{name}" for name in model.model.cross_attention_layers]
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=_QUERIES_AND_VALUES if stage == "distill" else _DECODER_LINEARS,
        modules_to_save=full,
    )
    adapted = peft.get_peft_model(model, config)
    finalize_trainable(adapted, model.config)
    return adapted


def save_adapter(adapted: Any, folder: Path) -> None:
    """Write the adapters of a `peft.PeftModel`, in place of those in `folder`; a kill on the way leaves
    those."""
    with atomic_folder(folder, replace=True) as scratch:
        adapted.save_pretrained(scratch)
