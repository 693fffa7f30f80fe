"""Tokens of an answer that fit a JSON Schema: the others get no chance."""

from typing import Any, cast

import numpy as np
import torch
from transformers import LogitsProcessor, PreTrainedTokenizerFast

from crosslmm.errors import ModelError, UsageError, first_line


class SchemaTokens:
    """A tokenizer as llguidance knows it; made once for all answers, which takes two seconds for
    150,000 tokens. Raises UsageError for a tokenizer that it does not know."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, stops: list[int], vocabulary: int
    ) -> None:
        """stops: ids that end an answer; vocabulary: the number of logits."""
        from llguidance.hf import from_tokenizer

        if not stops:
            raise UsageError(
                "`schema` needs a checkpoint that names the token which ends an answer"
            )
        try:
            size = max(vocabulary, len(tokenizer))
            self._tokens: Any = from_tokenizer(tokenizer, n_vocab=size, eos_token=stops)
        except (ValueError, TypeError, AssertionError) as error:
            raise UsageError(
                f"`schema` does not work with this checkpoint's tokenizer: {first_line(error)}"
            ) from None

    def processor(self, grammar: str) -> "SchemaProcessor":
        """Of one answer."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokens, grammar)
        if problem := matcher.get_error():
            raise UsageError(f"`schema` cannot be followed: {problem.splitlines()[0][:200]}")
        return SchemaProcessor(matcher)


class SchemaProcessor(LogitsProcessor):
    """Leaves of the logits (1, vocabulary) those of tokens that may come next."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher
        self._length: int | None = None  # of the prompt, and what was said so far

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        length = input_ids.shape[1]
        if self._length is not None:
            self._matcher.consume_tokens(input_ids[0, self._length :].tolist())
        self._length = length
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if problem := self._matcher.get_error():
            raise ModelError(
                f"the answer could not be made to fit the schema: {problem.splitlines()[0]}"
            )
        allowed = np.unpackbits(bits, bitorder="little")[: scores.shape[-1]].astype(bool)
        mask = torch.zeros(scores.shape[-1], dtype=torch.bool)
        mask[: len(allowed)] = torch.from_numpy(allowed)
        return cast(torch.FloatTensor, scores.masked_fill(~mask.to(scores.device), -torch.inf))
