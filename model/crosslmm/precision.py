"""Which parts of a CrossLMM keep their precision when it is quantized: all but the decoder."""

import copy
from typing import Any

# Regular expressions from the start of a module's name, with or without a head.
UNQUANTIZED_MODULES = (
    r"(model\.)?vision_tower",
    r"(model\.)?multi_modal_projector",
    r"(model\.)?cross_attention_(layers|kv)",
    "lm_head",
)
_SKIP_LISTS = ("llm_int8_skip_modules", "modules_to_not_convert")  # bitsandbytes; most others


def skip_all_but_decoder(config: Any) -> Any:
    """A quantization configuration of transformers (or its dict) with `UNQUANTIZED_MODULES` added to
    the modules that it skips; None, and kinds that have no such list, as they are."""
    if config is None:
        return None
    is_dict = isinstance(config, dict)
    names = config if is_dict else vars(config)
    chosen = [name for name in _SKIP_LISTS if name in names]
    if not chosen and is_dict:
        method = str(config.get("quant_method", ""))
        is_bitsandbytes = "load_in_4bit" in config or "load_in_8bit" in config
        if is_bitsandbytes or method.startswith("bitsandbytes"):
            chosen = [_SKIP_LISTS[0]]
    config = copy.deepcopy(config)
    for name in chosen:
        given = list(names[name] or []) if name in names else []
        skipped = [*given, *(part for part in UNQUANTIZED_MODULES if part not in given)]
        if is_dict:
            config[name] = skipped
        else:
            setattr(config, name, skipped)
    return config
