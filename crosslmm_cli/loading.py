"""Choosing and loading the model, the same for every command that runs one."""

from collections.abc import Mapping
from typing import Any

from crosslmm.checkpoints import catalog
from crosslmm.errors import UsageError
from crosslmm.merging import check_tokens_per_frame
from crosslmm.options import check_device
from crosslmm_cli import options
from crosslmm_cli.output import Output

_LIMITS = (
    "the built-in demo model knows synthetic shape clips only and cannot describe real footage; "
    "`crosslmm setup` downloads a model that can"
)


def load_assistant(
    output: Output,
    *,
    model: str | None,
    device: str | None,
    dtype: options.Dtype,
    quantize: options.Quantization,
    tokens_per_frame: int | None = None,
    frames: int | None = None,
    announce: bool = True,
) -> Any:
    """The chosen model, found before the heavy imports begin and loaded with its notices shown.

    `announce`: say so where nobody chose the built-in one.
    """
    choice = check_model(model, device=device, tokens_per_frame=tokens_per_frame)
    output.progress("load", 0, 0)
    from crosslmm.inference.assistant import load

    chosen = model_options(
        device=device, dtype=dtype, quantize=quantize, tokens_per_frame=tokens_per_frame
    )
    assistant = load(choice.name, frames=frames, on_notice=output.notice, **chosen)
    output.progress("load", 1, 1)
    if announce:
        notice_of_demo(output, choice.origin)
    return assistant


def check_model(
    model: str | None, *, device: str | None, tokens_per_frame: int | None
) -> catalog.Choice:
    """The chosen model, on disk and with options it can have; without torch, so at once."""
    if device is not None:
        check_device(device)
    if tokens_per_frame is not None:
        check_tokens_per_frame(tokens_per_frame, error=UsageError)
    choice = catalog.default_model(model)
    config = catalog.read_config(catalog.resolve(choice.name))
    if tokens_per_frame is not None:
        check_tokens_per_frame(tokens_per_frame, _patches(config), error=UsageError)
    return choice


def _patches(config: Mapping[str, Any]) -> int | None:
    """Patches per frame by a checkpoint's configuration, where it says so."""
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        return None
    image, patch = vision.get("image_size"), vision.get("patch_size")
    if not (isinstance(image, int) and isinstance(patch, int) and patch > 0):
        return None
    return (image // patch) ** 2


def model_options(
    *,
    device: str | None,
    dtype: options.Dtype,
    quantize: options.Quantization,
    tokens_per_frame: int | None,
) -> dict[str, Any]:
    """The flags about the model as `crosslmm.load` takes them."""
    return {
        "device": device,
        "dtype": None if dtype == "auto" else dtype,
        "quantization": quantize,
        "tokens_per_frame": tokens_per_frame,
    }


def notice_of_demo(output: Output, origin: catalog.Origin) -> None:
    """Say what the built-in model is, where nobody chose it."""
    if origin == "built-in":
        output.notice(f"no model is chosen: {_LIMITS}")


def demo_refusal(subject: str) -> str:
    """Why the built-in model is not used for `subject` where nobody chose it, and what to do."""
    return f"{subject}: {_LIMITS}, --model demo uses the built-in one all the same"
