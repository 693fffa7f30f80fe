"""What a checkpoint that somebody gave you may not ask for, found before anything believes it.

transformers follows a configuration to code of other repositories (attention kernels), to other weights
(adapters, `transformers_weights`) and to any size. Here such a checkpoint is refused, with its reason.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosslmm.checkpoints.headers import TensorInfo
from crosslmm.errors import CheckpointError

if TYPE_CHECKING:
    from crosslmm.configuration_crosslmm import CrossLMMConfig
    from crosslmm.processing_crosslmm import CrossLMMProcessor

_ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", None)
_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_MOST_LAYERS = 1000  # the largest language models have a tenth of it
_TEXTS = (".json", ".jinja", ".txt", ".model")
LARGEST_TEXT = 256 << 20  # bytes; a tokenizer has up to 40 MB


def check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """CheckpointError for a config.json that asks for what is not in its folder."""
    path = folder / "config.json"
    for table in nested_tables(config):
        for key in _ATTENTION_KEYS:
            chosen = table.get(key)
            for name in chosen.values() if isinstance(chosen, Mapping) else [chosen]:
                if name not in _ATTENTION:
                    raise CheckpointError(
                        f"{path}: its {key} is {name!r}, which may be code from elsewhere; "
                        "remove that line, or give sdpa"
                    )
        for key, value in table.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise CheckpointError(f"{path}: its {key} is {value}, which is no number")
        window = table.get("sliding_window")
        if isinstance(window, int) and window < 1:
            raise CheckpointError(
                f"{path}: its sliding_window is {window}; give at least 1, or null"
            )
        heads = table.get("num_attention_heads")
        if isinstance(heads, int) and heads < 1:
            raise CheckpointError(f"{path}: its num_attention_heads is {heads}; give at least 1")
        layers = table.get("num_hidden_layers")
        if isinstance(layers, int) and not 0 < layers <= _MOST_LAYERS:
            raise CheckpointError(f"{path}: its num_hidden_layers is {layers:,}; no model has that")
    if config.get("transformers_weights") is not None:
        raise CheckpointError(
            f"{path}: transformers_weights names other weights than those of the folder"
        )


def check_files(folder: Path) -> None:
    """CheckpointError where a file that loading would read is a pipe or a device, or far too long,
    or where an adapter would draw in another model."""
    if os.path.lexists(folder / "adapter_config.json"):
        raise CheckpointError(
            f"{folder}: holds an adapter of another model (adapter_config.json) beside a model; "
            "move it to a folder of its own"
        )
    check_text_sizes(folder)


def check_text_sizes(folder: Path) -> None:
    """CheckpointError where a file of a folder is a pipe or a device, or far too long for a text."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not os.path.exists(entry.path) or entry.is_dir():
                continue  # what is missing, loading reports
            if not entry.is_file():
                raise CheckpointError(f"{entry.path}: not a regular file")
            size = entry.stat().st_size
            if size > LARGEST_TEXT and entry.name.endswith(_TEXTS):
                raise CheckpointError(f"{entry.path}: {size:,} bytes are too many for such a file")


def check_tokens(folder: Path, config: "CrossLMMConfig", processor: "CrossLMMProcessor") -> None:
    """CheckpointError where prompts lack the model's token for videos, or one of them."""
    if config.video_token_id != processor.video_token_id:
        raise CheckpointError(
            f"{folder}: the token for videos is {config.video_token_id} in config.json, and "
            f"{processor.video_token_id} in the tokenizer"
        )
    if config.video_newline != processor.video_newline:
        raise CheckpointError(
            f"{folder}: video_newline is {config.video_newline} in config.json, and "
            f"{processor.video_newline} in processor_config.json"
        )


def check_sizes(folder: Path, config: "CrossLMMConfig", tensors: Mapping[str, TensorInfo]) -> None:
    """CheckpointError where the configuration describes a larger model than the weights are, before
    memory is allocated for it."""
    sides = {side for tensor in tensors.values() if tensor.count for side in tensor.shape}
    layers = {
        "text_config.num_hidden_layers": int(config.text.num_hidden_layers),
        "vision_config.num_hidden_layers": int(config.vision.num_hidden_layers),
    }
    for name, count in layers.items():
        if count > len(tensors):
            raise _too_large(folder, name, count, f"{len(tensors):,} weights")
    widths = {
        "text_config.hidden_size": config.text.hidden_size,
        "text_config.intermediate_size": config.text.intermediate_size,
        "text_config.vocab_size": config.text.vocab_size,
        "vision_config.hidden_size": config.vision.hidden_size,
        "vision_config.intermediate_size": config.vision.intermediate_size,
        "vision_config.patch_size": config.vision.patch_size,
        "vision_config.image_size (as patches)": config.patches_per_frame,
    }
    for name, width in widths.items():
        if width not in sides:
            raise _too_large(folder, name, width, "no weight of such a side")
    heads = {
        "num_attention_heads": config.text.num_attention_heads,
        "num_key_value_heads": config.text.num_key_value_heads,
        "head_dim": getattr(config.text, "head_dim", None) or 0,
    }
    for name, count in heads.items():
        if count > max(sides):
            raise _too_large(folder, f"text_config.{name}", count, "no weight as wide")


@contextmanager
def offline() -> Iterator[None]:
    """Whatever a library would fetch meanwhile is an error of that library."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def check_attention(folder: Path, config: "CrossLMMConfig") -> None:
    """CheckpointError for attention whose package is missing: transformers would run a compiled kernel
    of the Hub instead, if it finds one in the cache."""
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    packages = {
        "flash_attention_2": ("flash-attn", is_flash_attn_2_available),
        "flash_attention_3": ("flash-attn-3", is_flash_attn_3_available),
    }
    for part in (config, config.text, config.vision):
        name = part._attn_implementation
        if name in packages and not packages[name][1]():
            raise CheckpointError(
                f"{folder / 'config.json'}: its attn_implementation is {name}, and the package "
                f"{packages[name][0]} is not installed for this device; install it, or give sdpa"
            )


def _too_large(folder: Path, name: str, value: int, found: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: does not match its configuration: {name} is {value:,}, and there is {found}"
    )


def nested_tables(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A configuration and those in it."""
    waiting: list[Any] = [config]
    while waiting:
        table = waiting.pop()
        if isinstance(table, Mapping):
            yield table
        inner = table.values() if isinstance(table, Mapping) else table
        waiting += [value for value in inner if isinstance(value, Mapping | list)]
