"""Whether a question fits into the model's context, told before a video is decoded for it."""

from collections.abc import Iterable

from crosslmm.errors import UsageError
from crosslmm.inference.runtime import Runtime

_SHOWN = 40  # characters of a question in an error


def check_questions(runtime: Runtime, questions: Iterable[str]) -> None:
    """Raise `UsageError` for a question that alone has more tokens than the context of the model."""
    most = int(runtime.model.config.text.max_position_embeddings)
    for question in questions:
        if len(question.encode()) <= most:
            continue  # a token has at least one byte
        # Tokenizing is slow beyond any use: no token of any vocabulary is that long.
        text = question[: most * runtime.longest_token + 1]
        count = len(runtime.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        if count > most:
            over = "over " if len(text) < len(question) else ""
            raise UsageError(
                f"the question {question[:_SHOWN]!r}… has {over}{count:,} tokens, more than the "
                f"{most:,} of the model's context; shorten it"
            )
