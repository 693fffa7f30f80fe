"""A CrossLMM assembled from a SigLIP encoder and a language model, untrained.

The encoder loses its last layer (LLaVA's convention, which the paper's cost figures follow).
"""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.headers import read_headers
from crosslmm.checkpoints.loading import (
    check_total,
    refuse_weights,
    save_checkpoint,
    set_pad_token,
)
from crosslmm.checkpoints.quiet import quiet_library
from crosslmm.checkpoints.screening import offline
from crosslmm.checkpoints.tokenizer_screening import check_backend, check_tokenizer
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.errors import CheckpointError, UsageError, first_line, last_line
from crosslmm.files import check_empty
from crosslmm.limits import DECODERS
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.options import CrossKV, V2VScope
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.prompts.tokenization import tokenizer_errors

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


@offline()
def assemble(
    *,
    vision: str | Path,
    language: str | Path,
    out: str | Path,
    cross_attention_interval: int = 4,
    tokens_per_frame: int = 9,
    v2v_scope: V2VScope = "video",
    cross_kv: CrossKV = "per_layer",
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
        "cross_kv": cross_kv,
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
    if model.model.cross_attention_kv is not None:
        fresh.append(model.model.cross_attention_kv)
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


def _check_parts(encoder: Any, language: Path, options: dict[str, Any]) -> None:
    """That a CrossLMM can be made of this encoder's configuration and a language model's folder."""
    kind = str(catalog.read_config(language).get("model_type"))
    if kind not in DECODERS:
        raise CheckpointError(
            f"{language}: a {kind}; a language model is needed, one of {', '.join(DECODERS)}"
        )
    text = _read_config(language)
    try:
        CrossLMMConfig(vision_config=encoder.to_dict(), text_config=text.to_dict(), **options)
    except Exception as error:  # see `load_config`
        raise UsageError(last_line(error)) from error


def _tower_config(folder: Path) -> Any:
    config = _read_config(folder)
    config = getattr(config, "vision_config", config)
    if config.model_type != "siglip_vision_model":  # SigLIP 2's of variable size are another
        raise CheckpointError(f"{folder}: a {config.model_type}; a SigLIP vision encoder is needed")
    return config


def _load_tower(folder: Path, config: Any, dtype: torch.dtype | None) -> Any:
    depth = int(config.num_hidden_layers)
    config.vision_use_head = False
    tower, report = _load_part(AutoModel, folder, config, dtype)
    refuse_weights(folder, "lacks", set(report["missing_keys"]))
    if depth > 1:
        del tower.encoder.layers[depth - 1 :]
        tower.config.num_hidden_layers = depth - 1
    return tower


def _load_decoder(folder: Path, dtype: torch.dtype | None) -> tuple[Any, Any]:
    check_tokenizer(folder)
    with tokenizer_errors(f"{folder}: its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    check_backend(folder, tokenizer)
    if not tokenizer.chat_template:
        raise CheckpointError(f"{folder}: has no chat template; give an instruction-tuned model")
    decoder, report = _load_part(AutoModelForCausalLM, folder, _read_config(folder), dtype)
    refuse_weights(folder, "lacks", set(report["missing_keys"]))
    refuse_weights(folder, "has unknown", set(report["unexpected_keys"]))
    return decoder, tokenizer


def _read_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # see `load_config`
        raise CheckpointError(
            f"{folder}: its config.json is not valid: {last_line(error)}"
        ) from error


def _load_part(auto: Any, folder: Path, config: Any, dtype: torch.dtype | None) -> Any:
    """The model and what the library reports of its weights."""
    check_total(folder, lambda: auto.from_config(copy.deepcopy(config)), read_headers(folder))
    try:
        with quiet_library():
            return auto.from_pretrained(
                folder,
                config=config,
                trust_remote_code=False,
                dtype=dtype or "auto",
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded: {first_line(error)}") from error


def _add_video_token(tokenizer: Any, decoder: Any) -> int:
    set_pad_token(tokenizer)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<video>"]}, replace_extra_special_tokens=False
    )
    token_id = int(tokenizer.convert_tokens_to_ids("<video>"))
    if token_id >= decoder.config.vocab_size:
        decoder.resize_token_embeddings(len(tokenizer))
    return token_id


def _tower_processor(folder: Path, config: CrossLMMConfig) -> SiglipImageProcessorPil:
    if (folder / "preprocessor_config.json").is_file():
        return SiglipImageProcessorPil.from_pretrained(folder)
    side = int(config.vision.image_size)
    return SiglipImageProcessorPil(size={"height": side, "width": side})
