"""Text of a user in a prompt: whatever stands in it, to the model it is text.

A tokenizer finds its special tokens anywhere in a prompt, in a question or a file's name as well as in
what the chat template wrote. So a mark that no text has is put into those that a user wrote; the
tokenizer then reads their characters, and the tokens of the mark itself are dropped. A text without
special tokens is not touched.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import compress
from typing import Any

from crosslmm.prompts.tokenization import encode_texts

MARK = "\ufdd0"  # a noncharacter: Unicode reserves it for the inside of programs
_PADDING = ("padding", "padding_side", "pad_to_multiple_of", "return_tensors")


def make_inert(text: str, tokenizer: Any, *placeholders: str) -> str:
    """The text with a mark inside each special token of `tokenizer`, and each of `placeholders`;
    once more, it changes nothing."""
    added = tokenizer.added_tokens_decoder.values()
    special = {*placeholders, *tokenizer.all_special_tokens}
    special |= {token.content for token in added if token.special}
    return _first_characters(frozenset(special)).sub(lambda found: found[0] + MARK, text)


def remove_marks(text: str) -> str:
    """A prompt as a reader knows it."""
    return text.replace(MARK, "")


def tokenize(tokenizer: Any, prompts: Sequence[str], **options: Any) -> dict[str, Any]:
    """As `tokenizer(prompts, **options)`, of prompts that may have marks. Raises CheckpointError."""
    if not any(MARK in prompt for prompt in prompts):
        return encode_texts(tokenizer, prompts, **options)
    padding = {name: options.pop(name) for name in _PADDING if name in options}
    encoded = encode_texts(tokenizer, prompts, return_offsets_mapping=True, **options)
    kept = [
        [bool(prompt[start:end].strip(MARK)) or start == end for start, end in offsets]
        for prompt, offsets in zip(prompts, encoded.pop("offset_mapping"), strict=True)
    ]
    rows = {
        name: [list(compress(row, keep)) for row, keep in zip(values, kept, strict=True)]
        for name, values in encoded.items()
    }
    return dict(tokenizer.pad(rows, **{"padding": False} | padding))


@lru_cache(maxsize=8)
def _first_characters(special: frozenset[str]) -> re.Pattern[str]:
    """Finds the first character of each special token in a text, those that overlap too."""
    tokens = sorted(token for token in special if token)
    # Ordinary text fails at this set: some tokenizers have a thousand tokens to try otherwise.
    first = "".join(re.escape(character) for character in sorted({token[0] for token in tokens}))
    return re.compile(f"(?=[{first}])(?=(?:{'|'.join(map(re.escape, tokens))})).", re.DOTALL)
