"""LoRA adapters in PEFT's format: checked before torch is imported, then applied to their base model.

An adapter is a folder with `adapter_config.json`, which names its base, and
`adapter_model.safetensors`. PEFT would open pickled weights, import what the configuration names, and
leave weights that are missing at their initial values; here such an adapter is refused.
"""

import os
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from crosslmm.checkpoints.headers import TensorInfo, read_header
from crosslmm.checkpoints.screening import check_text_sizes
from crosslmm.errors import CheckpointError, UsageError, first_line, last_line
from crosslmm.files import read_json
from crosslmm.limits import MAX_TEXT_BYTES

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# More than low-rank weights: code by a module's name, layers repeated, weights for some tokens only.
_UNSUPPORTED = (
    *("megatron_config", "layer_replication", "alora_invocation_tokens", "arrow_config"),
    "trainable_token_indices",
)
_MOST_RANK = 1024
_MOST_NAMES, _NAME = 10_000, r"[\w.]{1,1000}"  # PEFT compares each with each, and all their endings
_GROUP = re.compile(r"\((?:\?:)?((?!\?)[^()]*)\)")  # without one in it
_STRANGE = re.compile(r"\)[*+?{]|\\[()]|\[[^]]*[()|]")  # repeated groups, brackets that are none
_INITIALISATIONS = (None, True, False, "gaussian")  # others change the base's weights


@dataclass(frozen=True)
class Adapter:
    """`base`: the name of its model, as its configuration has it; `config`: all of that."""

    folder: Path
    base: str
    config: dict[str, Any]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    return os.path.isfile(folder / CONFIG) and not os.path.lexists(folder / "config.json")


def read_adapter(folder: Path) -> Adapter:
    """The adapter in `folder`. Raises CheckpointError for one that is incomplete or not LoRA."""
    check_text_sizes(folder)
    path = folder / CONFIG
    try:
        config = read_json(path, longest=MAX_TEXT_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise CheckpointError(f"{path}: not readable as JSON ({reason})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: not an adapter's configuration")
    if (kind := config.get("peft_type")) != "LORA":
        raise CheckpointError(f"{path}: its peft_type is {kind!r}, not 'LORA'")
    for key in _UNSUPPORTED:
        if config.get(key) is not None:
            raise CheckpointError(f"{path}: has a {key}, which is not supported")
    if (chosen := config.get("init_lora_weights")) not in _INITIALISATIONS:
        raise CheckpointError(
            f"{path}: its init_lora_weights is {chosen!r}, which changes its base's weights; convert it "
            "to an ordinary adapter"
        )
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base or "\0" in base:
        raise CheckpointError(f"{path}: does not name its base (base_model_name_or_path)")
    if not os.path.isfile(folder / WEIGHTS):
        raise CheckpointError(f"{folder}: an adapter without {WEIGHTS}")
    _check_names(path, config)
    _check_ranks(folder, config)
    return Adapter(folder, base, config)


def _check_names(path: Path, config: dict[str, Any]) -> None:
    """PEFT takes these for regular expressions, which can run for ever: names are let through, and
    patterns that cannot."""
    for key, given in config.items():
        if isinstance(given, list | dict) and len(given) > _MOST_NAMES:
            raise CheckpointError(f"{path}: its {key} has over {_MOST_NAMES:,} entries")
    for key in ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save"):
        given = config.get(key)
        if given is None:
            continue
        if isinstance(given, str) and key != "modules_to_save":
            if _is_quick(given):
                continue
            raise CheckpointError(
                f"{path}: its {key} is a pattern that may take very long to match; write out the names "
                "of the modules"
            )
        if not isinstance(given, list) or not all(map(_is_name, given)):
            raise CheckpointError(f"{path}: its {key} is no list of names of modules")
    for key in ("rank_pattern", "alpha_pattern"):
        given = config.get(key) or {}
        if not isinstance(given, dict) or not all(map(_is_name, given)):
            raise CheckpointError(f"{path}: its {key} is no table by names of modules")


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(_NAME, name) is not None


def _is_quick(pattern: str) -> bool:
    """Whether matching takes time that is quadratic at most: no repeated group, at most two repeats, and
    of the words of a group at most one that fits."""
    if len(pattern) >= 1000 or _STRANGE.search(pattern):
        return False
    while group := _GROUP.search(pattern):
        words = group[1].split("|")
        if len(words) > 1 and not _exclude_each_other(words):
            return False
        inner = "_" if len(words) > 1 else group[1]
        pattern = pattern[: group.start()] + inner + pattern[group.end() :]
    repeats = re.findall(r"(?<!\\)[*+?{]", pattern)
    return len(repeats) <= 2 and "(" not in pattern


def _exclude_each_other(words: list[str]) -> bool:
    """Whether these are names, of which none is the beginning of another."""
    if not all(re.fullmatch(r"(\w|\\\.)+", word) for word in words):
        return False
    ordered = sorted(words)
    return not any(after.startswith(word) for word, after in pairwise(ordered))


def _check_ranks(folder: Path, config: dict[str, Any]) -> None:
    """Before memory is allocated for them."""
    stored = {
        tensor.shape[0]
        for name, tensor in read_adapter_header(folder).items()
        if "lora_A" in name and tensor.count
    }
    for rank in (config.get("r"), *(config.get("rank_pattern") or {}).values()):
        if type(rank) is not int or rank not in stored or rank > _MOST_RANK:
            raise CheckpointError(
                f"{folder}: does not match its configuration: the rank is {rank}, and there is no "
                f"such weight of a rank up to {_MOST_RANK:,}"
            )


def read_adapter_header(folder: Path) -> dict[str, TensorInfo]:
    """Its tensors by name, which are the base's with PEFT's words in between."""
    return read_header(folder / WEIGHTS)


def apply_adapter(model: Any, folder: Path, *, merge: bool) -> Any:
    """The model in evaluation mode with the adapter in `folder`.

    merge: add it to the weights, which then have the model's dtype. Otherwise it stays beside them, as
    it must where they are quantized, which would round it away.

    Raises UsageError where PEFT is not installed, and CheckpointError for weights that are missing, left
    over or of another shape.
    """
    peft = import_peft("an adapter")
    from safetensors.torch import load_file

    adapter, stored = read_adapter(folder), read_adapter_header(folder)
    _check_copies(model, adapter, stored)
    dtype = model.dtype
    try:
        config = peft.LoraConfig.from_pretrained(str(adapter.folder))
        config.inference_mode = True
        config.base_model_name_or_path = None
        with warnings.catch_warnings():
            # PEFT asks transformers for what is called otherwise now.
            warnings.simplefilter("ignore", FutureWarning)
            # Without memory for the weights, of which the configuration may ask for any number.
            adapted = peft.get_peft_model(model, config, low_cpu_mem_usage=True)
        known = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
        _refuse(folder, "lacks", known.keys() - stored.keys())
        _refuse(folder, "has unknown", stored.keys() - known.keys())
        shapes = {name: tuple(known[name].shape) for name in known}
        wrong = [name for name, shape in shapes.items() if shape != stored[name].shape]
        _refuse(folder, "has mis-shaped", wrong)
        weights = load_file(folder / WEIGHTS, device=str(model.device))
        peft.set_peft_model_state_dict(adapted, weights, low_cpu_mem_usage=True)
    except CheckpointError:
        raise
    except Exception as error:  # of whatever kind PEFT's own checks are
        raise CheckpointError(
            f"{folder}: the adapter does not fit its base: {last_line(error)}"
        ) from error
    if merge:
        return adapted.merge_and_unload().to(dtype=dtype).eval()
    return adapted.get_base_model().eval()


def _check_copies(model: Any, adapter: Adapter, stored: Mapping[str, TensorInfo]) -> None:
    """CheckpointError where the modules of which an adapter has weights of its own are more than its
    file holds: PEFT copies them first, one in another twice."""
    ends = tuple(adapter.config.get("modules_to_save") or ())
    copied = sum(
        weight.numel()
        for name, module in model.named_modules()
        if ends and name.endswith(ends)
        for weight in module.parameters()
    )
    held = sum(tensor.count for tensor in stored.values())
    if copied > held:
        raise CheckpointError(
            f"{adapter.folder}: its modules_to_save have {copied:,} weights, and {held:,} are stored"
        )


def import_peft(what: str) -> Any:
    """The library that `what` needs. Raises UsageError where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise UsageError(f"{what} needs peft: pip install 'crosslmm[train]'") from error
    return peft


def _refuse(folder: Path, fault: str, names: Collection[str]) -> None:
    if names:
        raise CheckpointError(
            f"{folder}: does not match its base; it {fault} weights, {len(names)} of them, "
            f"first {min(names)}"
        )
