"""What a caption depends on of a model, read from the checkpoint's files without loading it.

A run with nothing to do needs no more than this. The device and its precision are the exception:
where they are left open and `host` is not certain of them, torch is imported, which knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.headers import read_headers
from crosslmm.errors import UsageError
from crosslmm.host import cpu_dtype, known_device
from crosslmm.limits import AUTO_QUANTIZED_PARAMETERS, DEFAULT_FRAMES
from crosslmm.merging import check_tokens_per_frame
from crosslmm.options import check_feature_bits, features_setting

_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelIdentity:
    """How a checkpoint will run; `default_frames` are those of a video when no number is given."""

    dtype: str
    quantization: str
    tokens_per_frame: int
    default_frames: int
    feature_bits: int | None = None

    def as_settings(self) -> dict[str, str]:
        settings = {
            "dtype": self.dtype,
            "quantization": self.quantization,
            "tokens_per_frame": str(self.tokens_per_frame),
        }
        return settings | features_setting(self.feature_bits)


def read_identity(folder: Path, model_options: Mapping[str, Any]) -> ModelIdentity:
    """How `crosslmm.load` will run the checkpoint in `folder`, given the same options.

    Raises UsageError for options that are not possible, and CheckpointError.
    """
    config = catalog.read_config(folder)
    device = model_options.get("device")
    return ModelIdentity(
        dtype=_dtype(model_options.get("dtype"), device),
        quantization=_quantization(folder, model_options.get("quantization", "auto"), device),
        tokens_per_frame=_tokens_per_frame(folder, config, model_options.get("tokens_per_frame")),
        default_frames=int(config.get("default_frames", DEFAULT_FRAMES)),
        feature_bits=check_feature_bits(model_options.get("feature_bits")),
    )


def _dtype(dtype: Any, device: Any) -> str:
    if dtype in _DTYPES:
        return str(dtype)
    if dtype in (None, "auto") and known_device(device) and (certain := cpu_dtype()):
        return certain
    from crosslmm.device import resolve_device, resolve_dtype

    return str(resolve_dtype(dtype, resolve_device(device))).removeprefix("torch.")


def _quantization(folder: Path, quantization: str, device: Any) -> str:
    if quantization == "none":
        return "none"
    parameters = sum(tensor.count for tensor in read_headers(folder).values())
    if quantization == "auto" and parameters <= AUTO_QUANTIZED_PARAMETERS:
        return "none"  # on every device
    from crosslmm.checkpoints.quantization import resolve_quantization
    from crosslmm.device import resolve_device

    return resolve_quantization(quantization, resolve_device(device), parameters)


def _tokens_per_frame(folder: Path, config: Mapping[str, Any], chosen: int | None) -> int:
    """`chosen` if it is possible, else those that the checkpoint was trained with."""
    vision = config.get("vision_config") or {}
    side = _patch_grid(vision)
    if chosen is not None and side is not None:
        return check_tokens_per_frame(chosen, side**2, error=UsageError)
    if chosen is None and catalog.is_llava_onevision(folder) and side is not None:
        return (-(-side // 2)) ** 2
    if chosen is None and not catalog.is_llava_onevision(folder):
        known = catalog.default_tokens(folder)
        if known is not None:
            return known
    # What the files leave out, transformers' defaults decide.
    from crosslmm.checkpoints.loading import load_config, load_processor

    if chosen is not None:
        patches = load_config(folder).patches_per_frame
        return check_tokens_per_frame(chosen, patches, error=UsageError)
    return load_processor(folder).tokens_per_frame


def _patch_grid(vision: Mapping[str, Any]) -> int | None:
    """Patches along one side of a frame, None where the configuration does not say it."""
    size, patch = vision.get("image_size"), vision.get("patch_size")
    if isinstance(size, int) and isinstance(patch, int) and patch > 0:
        return size // patch
    return None
