"""A checkpoint's tokenizer at work: in bounded time, and with what fails in it in words.

Its patterns come with the checkpoint. For some texts they take days, and some end in a panic of the
library, which is written in Rust and lets go of the interpreter while it works. So it works in a thread
that is not waited for beyond a limit; nothing can end that one before the process.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tokenizers.decoders import DecodeStream

from crosslmm.errors import CheckpointError, first_line
from crosslmm.limits import TOKENIZER_SECONDS


def encode_texts(tokenizer: Any, texts: Sequence[str], **options: Any) -> dict[str, Any]:
    """As `tokenizer(texts, **options)`. Raises CheckpointError."""
    return _bounded(lambda: dict(tokenizer(list(texts), **options)))


class AnswerText:
    """The text of an answer, token after token."""

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def step(self, token_id: int) -> str:
        """What this token adds; empty within a character. Raises CheckpointError."""
        with tokenizer_errors():
            return self._stream.step(self._backend, token_id) or ""


@contextmanager
def tokenizer_errors(name: str = "the checkpoint's tokenizer") -> Iterator[None]:
    """Turns a panic of the library, which is no `Exception`, into CheckpointError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # whose module cannot be imported
            raise
        raise CheckpointError(f"{name} failed: {first_line(error)[:200]}") from error


def _bounded(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    results: queue.SimpleQueue[tuple[dict[str, Any], BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((work(), None))
        except BaseException as error:  # raised where it is waited for
            results.put(({}, error))

    threading.Thread(target=run, name="crosslmm-tokenizer", daemon=True).start()
    try:
        encoded, error = results.get(timeout=TOKENIZER_SECONDS)
    except queue.Empty:
        raise CheckpointError(
            f"the checkpoint's tokenizer ran for over {TOKENIZER_SECONDS:g} s and was given up"
        ) from None
    if error is not None:
        with tokenizer_errors():
            raise error
    return encoded
