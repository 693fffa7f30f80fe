"""Whether questions and frames fit into the model's context, before anything is computed."""

from collections.abc import Iterable
from typing import Any

from crosslmm.errors import UsageError
from crosslmm.inference.runtime import Runtime
from crosslmm.merging import TokenBudget
from crosslmm.prompts.tokenization import encode_texts

_SHOWN = 40  # characters of a question in an error


def check_questions(runtime: Runtime, questions: Iterable[str]) -> int:
    """As `check_texts`, for a loaded model."""
    return check_texts(runtime.processor.tokenizer, questions, context=runtime.context)


def check_system(runtime: Runtime, system: str | None) -> int:
    """Tokens of what prompts begin with. Raises UsageError as `check_questions` does."""
    if system is None:
        return 0
    return check_texts(
        runtime.processor.tokenizer, [system], context=runtime.context, what="`system`"
    )


def check_texts(
    tokenizer: Any, questions: Iterable[str], *, context: int, what: str = "the question"
) -> int:
    """Tokens of the longest question, at least. Raises `UsageError` for one that is empty or no Unicode,
    or that alone has more than the context of the model, CheckpointError of the tokenizer. Needs no
    weights. what: it is called in errors."""
    longest = 0
    for question in questions:
        if not isinstance(question, str):
            raise UsageError(f"{what} must be a text, not {question!r}")
        if not question.strip():
            raise UsageError(f"{what} is empty")
        try:
            question.encode()
        except UnicodeEncodeError:
            shown = question[:_SHOWN]
            raise UsageError(f"{what} {shown!r} is not valid Unicode text") from None
        text = question
        if len(text) > context:
            # Tokenizing is slow beyond any use: no token of the vocabulary is that long.
            text = text[: context * max(map(len, tokenizer.get_vocab())) + 1]
        (ids,) = encode_texts(tokenizer, [text], add_special_tokens=False)["input_ids"]
        count = len(ids)
        longest = max(longest, count)
        if count > context:
            over = "over " if len(text) < len(question) else ""
            raise UsageError(
                f"{what} {question[:_SHOWN]!r}… has {over}{count:,} tokens, more than the "
                f"{context:,} of the model's context; shorten it"
            )
    return longest


def check_context(
    runtime: Runtime, *, frames: int, budget: TokenBudget, prompt_tokens: int
) -> None:
    """Raise `UsageError` where frames and the rest of a prompt together exceed the model's context."""
    visual = budget.count(frames)
    if visual + prompt_tokens <= runtime.context:
        return
    smaller = "keep" if budget.keep is not None else "tokens_per_frame"
    if visual < prompt_tokens:
        advice = "shorten the question"
    elif not budget.grows:
        advice = "use a smaller `keep`"
    else:
        fewer = max(1, frames * (runtime.context - prompt_tokens) // visual)
        advice = f"use at most {fewer:,} `frames`"
        if visual > frames:
            advice += f", or {'a smaller' if smaller == 'keep' else 'fewer'} `{smaller}`"
    made = f"of {budget.pooled} tokens" if budget.merge is None else f"merged to {visual:,} tokens"
    raise UsageError(
        f"{frames:,} frames {made} and {prompt_tokens:,} tokens of text are more than the "
        f"{runtime.context:,} of the model's context; {advice}"
    )
