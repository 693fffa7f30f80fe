"""Checkpoints in and out: strict loading of ordinary folders, and assembling one from its parts.

A weight that is missing, left over or of the wrong shape is an error here, where transformers would
warn and answer from random numbers.
"""

import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.utils import logging

from crosslmm.checkpoints import catalog, llava_onevision
from crosslmm.checkpoints.quantization import check_quantized, quantization_config
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.errors import CheckpointError, UsageError
from crosslmm.files import check_empty
from crosslmm.limits import DECODERS
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.options import V2VScope
from crosslmm.processing_crosslmm import CrossLMMProcessor

# A text model's template takes strings; this prelude turns a video and text into one.
VIDEO_TEMPLATE_PRELUDE = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set text = namespace(value='') -%}
{%- if message['content'] is string -%}
{%- set text.value = message['content'] -%}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'video' -%}
{%- set text.value = text.value + '<video>\\n' -%}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{%- set text.value = text.value + part['text'] -%}
{%- endfor -%}
{%- endif -%}
{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': text.value}] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""


def load_config(folder: Path) -> CrossLMMConfig:
    """The configuration of a CrossLMM folder, or of a LLaVA-OneVision one as CrossLMM."""
    try:
        if catalog.read_config(folder).get("model_type") == llava_onevision.MODEL_TYPE:
            config = llava_onevision.crosslmm_config(folder)
        else:
            config = CrossLMMConfig.from_pretrained(folder)
    except CheckpointError:
        raise
    except Exception as error:  # strict dataclasses raise many kinds; all mean the same here
        raise CheckpointError(
            f"{folder}: its config.json is not valid: {_last_line(error)}"
        ) from error
    if config.text.model_type not in DECODERS:
        raise CheckpointError(
            f"{folder}: its language model is a {config.text.model_type}, not one of "
            f"{', '.join(DECODERS)}"
        )
    return config


def load_processor(folder: Path) -> CrossLMMProcessor:
    try:
        if catalog.read_config(folder).get("model_type") == llava_onevision.MODEL_TYPE:
            return llava_onevision.crosslmm_processor(folder)
        processor = CrossLMMProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: its tokenizer or processor files cannot be read: {error}"
        ) from error
    _set_pad_token(processor.tokenizer)
    return processor


def load_model(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Literal["4bit", "8bit", "none"] = "none",
    config: CrossLMMConfig | None = None,
) -> CrossLMMForConditionalGeneration:
    """The model in `folder`, in evaluation mode on `device`.

    Raises CheckpointError with the names of missing, unexpected or mis-shaped weights.
    """
    config = config or load_config(folder)
    is_llava = catalog.read_config(folder).get("model_type") == llava_onevision.MODEL_TYPE
    try:
        with _quiet_library():
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
        raise CheckpointError(f"{folder}: cannot be loaded: {_first_line(error)}") from error
    model, report = loaded
    missing = set(report["missing_keys"])
    if is_llava:
        missing = {name for name in missing if not name.startswith(llava_onevision.FRESH_WEIGHTS)}
    _refuse(folder, "lacks", missing)
    _refuse(folder, "has unknown", set(report["unexpected_keys"]))
    _refuse(folder, "has mis-shaped", {str(entry[0]) for entry in report["mismatched_keys"]})
    if report.get("error_msgs"):
        raise CheckpointError(f"{folder}: cannot be loaded: {report['error_msgs'][0]}")
    check_quantized(model, quantization)
    # The library would rename weights back when saving; what we save has our names.
    model._weight_conversions = []
    return model.eval()


def assemble(
    *,
    vision: str | Path,
    language: str | Path,
    out: str | Path,
    cross_attention_interval: int = 4,
    tokens_per_frame: int = 9,
    v2v_scope: V2VScope = "video",
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Path:
    """Put a SigLIP encoder and a language model together as an untrained CrossLMM in folder `out`.

    The encoder loses its last layer (LLaVA's convention, which the paper's cost figures follow). Fresh
    are the projector and the cross-attention, drawn from `seed`; the gates are closed, so until it is
    trained the model cannot see. Raises CheckpointError, UsageError.
    """
    target = Path(out)
    check_empty(target)
    vision_folder = catalog.resolve(vision, kinds=None)
    language_folder = catalog.resolve(language, kinds=None)
    options: dict[str, Any] = {
        "tokens_per_frame": tokens_per_frame,
        "cross_attention_interval": cross_attention_interval,
        "v2v_scope": v2v_scope,
    }
    encoder = _tower_config(vision_folder)
    _check_parts(encoder, language_folder, options)  # before gigabytes are loaded
    tower = _load_tower(vision_folder, encoder, dtype)
    decoder, tokenizer = _load_decoder(language_folder, dtype)
    video_token_id = _add_video_token(tokenizer, decoder)
    config = CrossLMMConfig(
        vision_config=tower.config.to_dict(),
        text_config=decoder.config.to_dict(),
        video_token_id=video_token_id,
        **options,
    )
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = CrossLMMForConditionalGeneration(config)
    fresh = [model.model.multi_modal_projector, model.model.feature_norm]
    fresh += list(model.model.cross_attention_layers.values())
    for part in fresh:
        part.to_empty(device="cpu").to(decoder.dtype)
        for module in reversed(list(part.modules())):
            model._init_weights(module)
    model.model.vision_tower = tower.to(decoder.dtype)
    model.model.language_model = decoder.model
    model.lm_head = decoder.lm_head
    model.config.dtype = decoder.dtype
    model.tie_weights()
    model.generation_config = decoder.generation_config
    processor = CrossLMMProcessor(
        _tower_processor(vision_folder, config),
        tokenizer,
        chat_template=VIDEO_TEMPLATE_PRELUDE + str(tokenizer.chat_template),
        tokens_per_frame=tokens_per_frame,
        time_line="llava_video",
    )
    save_checkpoint(target, model, processor)
    return target


def save_checkpoint(
    folder: Path, model: CrossLMMForConditionalGeneration, processor: CrossLMMProcessor
) -> None:
    """Write a checkpoint folder that is there whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(
        tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".partial", dir=folder.parent)
    )
    try:
        with _quiet_library():
            model.save_pretrained(partial)
            processor.save_pretrained(partial)
        partial.chmod(0o755)
        os.replace(partial, folder)  # over an empty folder too
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_parts(encoder: Any, language: Path, options: dict[str, Any]) -> None:
    """That a CrossLMM can be made of this encoder's configuration and a language model's folder."""
    kind = str(catalog.read_config(language).get("model_type"))
    if kind not in DECODERS:
        raise CheckpointError(
            f"{language}: a {kind}; a language model is needed, one of {', '.join(DECODERS)}"
        )
    text = AutoConfig.from_pretrained(language, trust_remote_code=False)
    try:
        CrossLMMConfig(vision_config=encoder.to_dict(), text_config=text.to_dict(), **options)
    except Exception as error:  # see `load_config`
        raise UsageError(_last_line(error)) from error


def _tower_config(folder: Path) -> Any:
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    config = getattr(config, "vision_config", config)
    if config.model_type != "siglip_vision_model":  # SigLIP 2's of variable size are another
        raise CheckpointError(f"{folder}: a {config.model_type}; a SigLIP vision encoder is needed")
    return config


def _load_tower(folder: Path, config: Any, dtype: torch.dtype | None) -> Any:
    depth = int(config.num_hidden_layers)
    config.vision_use_head = False
    with _quiet_library():
        tower, report = AutoModel.from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            dtype=dtype or "auto",
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
        )
    _refuse(folder, "lacks", set(report["missing_keys"]))
    if depth > 1:
        del tower.encoder.layers[depth - 1 :]
        tower.config.num_hidden_layers = depth - 1
    return tower


def _load_decoder(folder: Path, dtype: torch.dtype | None) -> tuple[Any, Any]:
    with _quiet_library():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=False,
            dtype=dtype or "auto",
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
        )
    decoder, report = loaded
    _refuse(folder, "lacks", set(report["missing_keys"]))
    _refuse(folder, "has unknown", set(report["unexpected_keys"]))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise CheckpointError(f"{folder}: has no chat template; give an instruction-tuned model")
    return decoder, tokenizer


def _add_video_token(tokenizer: Any, decoder: Any) -> int:
    _set_pad_token(tokenizer)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<video>"]}, replace_extra_special_tokens=False
    )
    token_id = int(tokenizer.convert_tokens_to_ids("<video>"))
    if token_id >= decoder.config.vocab_size:
        decoder.resize_token_embeddings(len(tokenizer))
    return token_id


def _set_pad_token(tokenizer: Any) -> None:
    # Llama's and Mistral's have none. What is padded is masked, so that any token will do.
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


def _tower_processor(folder: Path, config: CrossLMMConfig) -> SiglipImageProcessorPil:
    if (folder / "preprocessor_config.json").is_file():
        return SiglipImageProcessorPil.from_pretrained(folder)
    side = int(config.vision.image_size)
    return SiglipImageProcessorPil(size={"height": side, "width": side})


def _refuse(folder: Path, fault: str, names: Collection[str]) -> None:
    if names:
        listed = sorted(names)
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        raise CheckpointError(
            f"{folder}: does not match its configuration; it {fault} "
            f"{'weights' if len(listed) > 1 else 'weight'} {', '.join(listed[:3])}{more}"
        )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else repr(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


class _quiet_library:
    """transformers' progress bars and load reports off; what they say is checked here instead."""

    def __enter__(self) -> None:
        self._verbosity = logging.get_verbosity()
        self._bars = logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()

    def __exit__(self, *exception: object) -> None:
        logging.set_verbosity(self._verbosity)
        if self._bars:
            logging.enable_progress_bar()
