"""Choosing and loading the model, the same for every command that runs one."""

from typing import Any

from crosslmm.checkpoints import catalog
from crosslmm_cli import options
from crosslmm_cli.output import Output


def load_assistant(
    output: Output,
    *,
    model: str | None,
    device: str | None,
    dtype: options.Dtype,
    quantize: options.Quantization,
    tokens_per_frame: int | None = None,
    frames: int | None = None,
) -> Any:
    """The chosen model, found before the heavy imports begin and loaded with its notices shown."""
    choice = catalog.default_model(model)
    catalog.resolve(choice.name)
    notice_of_demo(output, choice)
    output.progress("load", 0, 0)
    from crosslmm.inference.assistant import load

    chosen = model_options(
        device=device, dtype=dtype, quantize=quantize, tokens_per_frame=tokens_per_frame
    )
    assistant = load(choice.name, frames=frames, on_notice=output.notice, **chosen)
    output.progress("load", 1, 1)
    return assistant


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


def notice_of_demo(output: Output, choice: catalog.Choice) -> None:
    """Say what the built-in model is, where nobody chose it."""
    if choice.origin == "built-in":
        output.notice(
            "using the built-in demo model, which knows synthetic shape clips and cannot describe "
            f"real footage; `crosslmm models pull {catalog.SUGGESTED}` downloads one that can"
        )
