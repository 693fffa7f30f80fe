"""What goes wrong in a checkpoint's chat template, in words.

Templates run in the sandbox of transformers, which refuses long ranges; a prompt that is longer than any
context is refused here, before it is tokenized.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from jinja2 import TemplateError

from crosslmm.errors import CheckpointError, first_line

LONGEST_PROMPT = 16 << 20  # characters; a context of a million tokens has a quarter of it

# What a template's own expressions raise; a template is a program.
_FAULTS = (TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError,
           TypeError, ValueError)  # fmt: skip


@contextmanager
def template_errors() -> Iterator[None]:
    """Turns an error of a chat template into CheckpointError."""
    try:
        yield
    except _FAULTS as error:
        raise CheckpointError(
            f"the checkpoint's chat template failed: {type(error).__name__}: "
            f"{first_line(error)[:200]}"
        ) from error


def check_prompt(rendered: object) -> str:
    """The prompt that a template wrote. Raises CheckpointError where it is none."""
    if not isinstance(rendered, str):
        raise CheckpointError("the checkpoint's chat template wrote no text")
    if len(rendered) > LONGEST_PROMPT:
        raise CheckpointError(
            f"the checkpoint's chat template wrote {len(rendered):,} characters, more than any model "
            "reads"
        )
    return rendered
