"""What a tokenizer.json that somebody gave you may not make of a text, found before it is used.

Its steps can make a book of a letter, and its patterns take all memory while they are compiled. How long
they then take is bounded where a tokenizer is used (see `prompts.tokenization`).
"""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crosslmm.checkpoints.screening import LARGEST_TEXT, nested_tables
from crosslmm.errors import CheckpointError
from crosslmm.files import read_json

_MOST_GROWTH = 1000  # characters or tokens that a tokenizer may make of one
_LONGEST_PATTERNS = (
    1 << 16
)  # characters of all its patterns; the longest in use have a few thousand
_STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def check_tokenizer(folder: Path) -> None:
    """CheckpointError for a tokenizer that makes thousands of characters or tokens of one, which takes
    all memory when it is used, or whose patterns do. What cannot be read, loading reports."""
    path = folder / "tokenizer.json"
    try:
        tokenizer = read_json(path, longest=LARGEST_TEXT)
    except (OSError, ValueError):
        return
    if not isinstance(tokenizer, Mapping):
        return
    for name in _STEPS:
        if _growth(tokenizer.get(name)) > _MOST_GROWTH:
            raise CheckpointError(
                f"{path}: its {name} makes a text over {_MOST_GROWTH} times as long"
            )
    longest = max(map(len, _vocabulary(tokenizer)), default=0)
    if longest > _MOST_GROWTH:
        raise CheckpointError(
            f"{path}: one of its tokens has {longest:,} characters; none needs that"
        )
    patterns = sum(len(text) for name in _STEPS for text in _expressions(tokenizer.get(name)))
    if patterns > _LONGEST_PATTERNS:
        raise CheckpointError(f"{path}: its patterns have {patterns:,} characters; none need that")
    if any(_expressions(tokenizer.get("decoder"))):  # for each token of an answer
        raise CheckpointError(f"{path}: its decoder has a regular expression; none needs that")


def check_backend(folder: Path, tokenizer: Any) -> None:
    """CheckpointError for a tokenizer in Python, of which the files above say nothing."""
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{folder}: its tokenizer is a {type(tokenizer).__name__}, not one of the tokenizers library"
        )


def _expressions(step: Any) -> Iterator[str]:
    """The regular expressions of a step of tokenizer.json, and of those in it."""
    for table in nested_tables({"steps": [step]}):
        if isinstance(text := table.get("Regex"), str):
            yield text


def _growth(step: Any) -> float:
    """How many times as long a text may become in a step of tokenizer.json, and in those in it."""
    growth = 1.0
    for table in nested_tables({"steps": [step]}):
        if isinstance(content := table.get("content"), str):
            pattern = table.get("pattern")
            text = pattern.get("String") if isinstance(pattern, Mapping) else None
            growth *= max(1.0, len(content) / max(1, len(text) if isinstance(text, str) else 1))
        if isinstance(before := table.get("prepend"), str):
            growth *= max(1, len(before))
        if isinstance(mapped := table.get("precompiled_charsmap"), str):
            growth *= _longest_mapped(mapped)
        pieces = [table[key] for key in ("single", "pair") if isinstance(table.get(key), list)]
        ids = [
            len(found) for key, found in table.items() if key == "ids" and isinstance(found, list)
        ]
        growth *= max([1, *map(len, pieces)]) * max([1, *ids])
    return growth


def _longest_mapped(charsmap: str) -> int:
    """The most bytes that SentencePiece's table of characters makes of one: after the size of an index
    and the index come all that it names, each with a zero at its end."""
    try:
        data = base64.b64decode(charsmap)
    except ValueError:
        return 1
    return max(map(len, data[4 + int.from_bytes(data[:4], "little") :].split(b"\0"))) or 1


def _vocabulary(tokenizer: Mapping[str, Any]) -> Iterator[str]:
    """The texts of all tokens of a tokenizer.json."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    entries = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(entries, Mapping):
        yield from entries
    elif isinstance(entries, list):  # of Unigram, each with its score
        yield from (str(entry[0]) for entry in entries if isinstance(entry, list) and entry)
    for token in added if isinstance(added, list) else ():
        if isinstance(token, Mapping):
            yield str(token.get("content"))
