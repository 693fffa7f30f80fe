"""Values in the smaller files of a checkpoint: of the kind and the size that is taken for granted later.

A wrong one is an error in words when the checkpoint is loaded, not where it is computed with.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from crosslmm.errors import CheckpointError

if TYPE_CHECKING:
    from crosslmm.processing_crosslmm import CrossLMMProcessor

_MOST_TOKEN = 2**31 - 1
_MOST_LISTED = 1 << 20  # tokens that are never written
_MOST_PER_FRAME = 1 << 20
_MOST_FACTOR = 1e6

# Names of numbers, the least and the most. transformers refuses others when a token is drawn.
_RANGES = {
    "temperature": (0.0, math.inf),
    "top_h": (1e-9, 1.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (1e-9, 1.0),
    "epsilon_cutoff": (0.0, 1 - 1e-9),
    "eta_cutoff": (0.0, 1 - 1e-9),
    "repetition_penalty": (1e-9, math.inf),
}
_COUNTS = ("top_k", "no_repeat_ngram_size")
_TOKENS = ("bos_token_id", "pad_token_id")
_LISTS = ("suppress_tokens", "begin_suppress_tokens")


def check_generation_values(folder: Path, values: Mapping[str, Any]) -> None:
    """CheckpointError for a value that no token can be drawn by."""
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        **{
            name: (
                _in_range(low, high),
                "a number" + (" from 0 to 1" if high <= 1 else " from 0 up"),
            )
            for name, (low, high) in _RANGES.items()
        },
        **dict.fromkeys(_COUNTS, (_is_count, "a whole number from 0 up")),
        **dict.fromkeys(_TOKENS, (_is_token, "a token's number")),
        "eos_token_id": (_is_tokens, "a token's number, or some"),
        **dict.fromkeys(_LISTS, (_is_list, "a list of tokens' numbers")),
        "do_sample": (_is_bool, "true or false"),
    }
    for name, (is_right, wanted) in checks.items():
        value = values.get(name)
        if value is not None and not is_right(value):
            raise _wrong(folder, name, value, wanted)


def check_frame_values(folder: Path, values: Mapping[str, Any]) -> None:
    """The same of how pixels become numbers."""
    for name in ("image_mean", "image_std"):
        given = values[name]
        numbers = given if isinstance(given, list) else [given]
        wanted = "a number" if name == "image_mean" else "a number other than 0"
        if len(numbers) not in (1, 3) or not all(map(_is_number, numbers)):
            raise _wrong(folder, name, given, f"{wanted}, or three")
        if name == "image_std" and not all(numbers):
            raise _wrong(folder, name, given, f"{wanted}, or three")
    factor = values.get("rescale_factor")
    if factor is not None and not (_is_number(factor) and abs(factor) <= _MOST_FACTOR):
        raise _wrong(folder, "rescale_factor", factor, "a number")


def check_processor_values(folder: Path, processor: "CrossLMMProcessor") -> None:
    """The same of prompts."""
    from crosslmm.processing_crosslmm import TimeLine

    tokens: Any = processor.tokens_per_frame
    if (
        type(tokens) is not int
        or not 0 < tokens <= _MOST_PER_FRAME
        or math.isqrt(tokens) ** 2 != tokens
    ):
        raise _wrong(folder, "tokens_per_frame", tokens, "a square number such as 9")
    if type(processor.video_newline) is not bool:
        raise _wrong(folder, "video_newline", processor.video_newline, "true or false")
    if processor.time_line not in get_args(TimeLine):
        raise _wrong(folder, "time_line", processor.time_line, " or ".join(get_args(TimeLine)))
    longest: Any = processor.tokenizer.model_max_length
    if not _is_number(longest):
        raise _wrong(folder, "model_max_length", longest, "a number")
    template: Any = processor.chat_template
    if isinstance(template, dict):
        template = template.get("default", template)
    if template is not None and not _is_text(template):
        raise _wrong(folder, "chat_template", template, "a text")


def _wrong(folder: Path, name: str, value: Any, wanted: str) -> CheckpointError:
    return CheckpointError(f"{folder}: its {name} is {str(value)[:40]!r}, not {wanted}")


def _is_number(value: Any) -> bool:
    """One that a float can hold."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def _in_range(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: _is_number(value) and low <= value <= high


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_TOKEN


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_token(value: Any) -> bool:
    """-1 and its like stand for none."""
    return type(value) is int and abs(value) <= _MOST_TOKEN


def _is_tokens(value: Any) -> bool:
    return _is_token(value) or (_is_list(value) and len(value) > 0)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MOST_LISTED and all(map(_is_token, value))


def _is_text(value: Any) -> bool:
    """A text that is not half a character."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False
