"""Strict loading: a weight that is missing, left over or of the wrong shape is an error here, where
transformers would warn and answer from random numbers."""

import copy
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from crosslmm.checkpoints import catalog, llava_onevision
from crosslmm.checkpoints.adapters import apply_adapter
from crosslmm.checkpoints.frame_settings import read_frame_settings, read_settings
from crosslmm.checkpoints.headers import TensorInfo, read_headers
from crosslmm.checkpoints.quantization import check_quantized, quantization_config
from crosslmm.checkpoints.quiet import quiet_library
from crosslmm.checkpoints.screening import check_attention, check_sizes, offline
from crosslmm.checkpoints.tokenizer_screening import check_backend, check_tokenizer
from crosslmm.checkpoints.value_screening import check_generation_values, check_processor_values
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.errors import CheckpointError, first_line, last_line
from crosslmm.files import atomic_folder
from crosslmm.finite_values import broken_values
from crosslmm.limits import DECODERS
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.options import ResolvedQuantization
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.prompts.tokenization import tokenizer_errors

# Of generation_config.json, what tokens are drawn by. The rest asks for memory, for other models or for
# other ways to generate.
_GENERATION = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens"),
    *("do_sample", "temperature", "top_h", "top_k", "top_p", "min_p", "typical_p"),
    *("epsilon_cutoff", "eta_cutoff", "repetition_penalty", "no_repeat_ngram_size"),
)


@offline()
def load_config(folder: Path) -> CrossLMMConfig:
    """The configuration of a CrossLMM folder, or of a LLaVA-OneVision one as CrossLMM."""
    try:
        if catalog.is_llava_onevision(folder):
            config = llava_onevision.crosslmm_config(folder)
        else:
            config = CrossLMMConfig.from_pretrained(folder)
    except CheckpointError:
        raise
    except Exception as error:  # strict dataclasses raise many kinds; all mean the same here
        raise CheckpointError(
            f"{folder}: its config.json is not valid: {last_line(error)}"
        ) from error
    if config.text.model_type not in DECODERS:
        raise CheckpointError(
            f"{folder}: its language model is a {config.text.model_type}, not one of "
            f"{', '.join(DECODERS)}"
        )
    return config


@offline()
def load_processor(folder: Path) -> CrossLMMProcessor:
    check_tokenizer(folder)
    try:
        with tokenizer_errors(f"{folder}: its tokenizer"):
            if catalog.is_llava_onevision(folder):
                processor = llava_onevision.crosslmm_processor(folder)
            else:
                read_frame_settings(folder)  # whose limits hold for what the processor reads
                processor = CrossLMMProcessor.from_pretrained(folder, trust_remote_code=False)
        check_backend(folder, processor.tokenizer)
        check_processor_values(folder, processor)
    except CheckpointError:
        raise
    except Exception as error:  # of tokenizers' own kinds too
        raise CheckpointError(
            f"{folder}: its tokenizer or processor files cannot be read: {first_line(error)}"
        ) from error
    set_pad_token(processor.tokenizer)
    return processor


@offline()
def load_model(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: ResolvedQuantization = "none",
    config: CrossLMMConfig | None = None,
    adapter: Path | None = None,
) -> CrossLMMForConditionalGeneration:
    """The model in `folder`, in evaluation mode on `device`.

    adapter: a folder with an adapter, which is merged into the weights, or kept beside quantized ones.

    Raises CheckpointError with the names of missing, unexpected or mis-shaped weights.
    """
    config = config or load_config(folder)
    check_attention(folder, config)
    is_llava = catalog.is_llava_onevision(folder)
    tensors = read_headers(folder)
    check_sizes(folder, config, tensors)
    check_total(
        folder,
        lambda: CrossLMMForConditionalGeneration(copy.deepcopy(config)),
        tensors,
        fresh=llava_onevision.FRESH_WEIGHTS if is_llava else (),
    )
    try:
        check_generation_values(folder, read_settings(folder / "generation_config.json"))
        with quiet_library():
            loaded: Any = CrossLMMForConditionalGeneration.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                device_map={"": device},
                quantization_config=quantization_config(quantization, dtype),
                key_mapping=llava_onevision.KEY_MAPPING if is_llava else None,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported, and refused below
                use_safetensors=True,
                local_files_only=True,
            )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded: {first_line(error)}") from error
    model, report = loaded
    missing = set(report["missing_keys"])
    if is_llava:
        missing = {name for name in missing if not name.startswith(llava_onevision.FRESH_WEIGHTS)}
    refuse_weights(folder, "lacks", missing)
    refuse_weights(folder, "has unknown", set(report["unexpected_keys"]))
    refuse_weights(folder, "has mis-shaped", {str(entry[0]) for entry in report["mismatched_keys"]})
    if report.get("error_msgs"):
        raise CheckpointError(f"{folder}: cannot be loaded: {report['error_msgs'][0]}")
    check_quantized(model, quantization)
    settings = model.generation_config.to_dict()
    check_generation_values(folder, settings)
    kept = {name: settings[name] for name in _GENERATION if name in settings}
    kept["repetition_penalty"] = float(kept.get("repetition_penalty") or 1.0)
    model.generation_config = GenerationConfig(**kept)
    # The library would rename weights back when saving; what we save has our names.
    model._weight_conversions = []
    if adapter is not None:
        model = apply_adapter(model, adapter, merge=quantization == "none")
    return model.eval()


def check_total(
    folder: Path,
    build: Callable[[], nn.Module],
    tensors: Mapping[str, TensorInfo],
    *,
    fresh: tuple[str, ...] = (),
) -> None:
    """CheckpointError for a model of far more weights than are stored: memory would be allocated for
    those that are missing before that is found out.

    build: makes the model, without memory for its weights; fresh: what begins so need not be stored.
    """
    try:
        with torch.device("meta"):
            model = build()
    except Exception as error:  # of whatever the library does with such values
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"{folder}: its config.json describes no model ({reason})") from error
    stored = sum(tensor.count for tensor in tensors.values())
    described = sum(
        weight.numel() for name, weight in model.named_parameters() if not name.startswith(fresh)
    )
    if described > 2 * stored:
        raise CheckpointError(
            f"{folder}: its configuration describes {described:,} weights, and {stored:,} are stored"
        )


def save_checkpoint(
    folder: Path,
    model: CrossLMMForConditionalGeneration,
    processor: CrossLMMProcessor,
    *,
    replace: bool = False,
) -> None:
    """Write a checkpoint folder that is complete or absent, or as it was. Raises OSError, and
    CheckpointError for weights that are no finite numbers."""
    if broken := list(broken_values(dict(model.named_parameters()))):
        name = str(model.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{folder}: not written: its weights hold NaN or infinity (in {name}), first {broken[0]}"
        )
    with atomic_folder(folder, replace=replace) as scratch, quiet_library():
        model.save_pretrained(scratch)
        processor.save_pretrained(scratch)


def set_pad_token(tokenizer: Any) -> None:
    # Llama's and Mistral's have none. What is padded is masked, so that any token will do.
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def refuse_weights(folder: Path, fault: str, names: Collection[str]) -> None:
    """CheckpointError where there are any weights with this fault."""
    if names:
        listed = sorted(names)
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        raise CheckpointError(
            f"{folder}: does not match its configuration; it {fault} "
            f"{'weights' if len(listed) > 1 else 'weight'} {', '.join(listed[:3])}{more}"
        )
