"""Choosing and loading the model, the same for every command that asks one."""

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
    tokens_per_frame: int | None,
    frames: int | None = None,
) -> Any:
    """The model to use, found before the heavy imports begin and loaded with its notices shown."""
    choice = catalog.default_model(model)
    catalog.resolve(choice.name)
    notice_of_demo(output, choice)
    output.progress("load", 0, 0)
    from crosslmm.inference.assistant import load

    assistant = load(
        choice.name,
        device=device,
        dtype=None if dtype == "auto" else dtype,
        quantization=quantize,
        tokens_per_frame=tokens_per_frame,
        frames=frames,
        on_notice=output.notice,
    )
    output.progress("load", 1, 1)
    return assistant


def notice_of_demo(output: Output, choice: catalog.Choice) -> None:
    """Say what the built-in model is, where nobody chose it."""
    if choice.origin == "built-in":
        output.notice(
            "the built-in demo model knows synthetic shape clips and cannot describe real footage; "
            f"`crosslmm models pull {catalog.SUGGESTED}` gets one that can"
        )
