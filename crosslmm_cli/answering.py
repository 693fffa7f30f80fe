"""An answer, written as it is generated."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from threading import Event
from typing import Any

from crosslmm_cli.output import Output


def write_answer(
    output: Output,
    response: Any,
    *,
    stop: Event | None = None,
    spans: Callable[[Any], Sequence[Any]] | None = None,
) -> bool:
    """Stream the answer of a `Response`, or write its record, and say it where the answer was cut.

    spans: of an answer, the times in which what it is about was seen; they are written after it. False
    where `stop` was set meanwhile, and the answer is not finished.
    """
    pieces = takewhile(lambda piece: stop is None or not stop.is_set(), response)
    if output.as_json:
        for _ in pieces:
            pass
    else:
        output.stream(pieces, is_faint=lambda: response.reasons)
    if stop is not None and stop.is_set():
        response.close()
        return False
    answer = response.answer
    found = None if spans is None else spans(answer)
    if output.as_json:
        when = {} if found is None else {"when": [span.as_dict() for span in found]}
        output.record(answer.as_dict() | when)
    elif found is not None:
        times = ", ".join(f"{span.start:.2f}-{span.end:.2f} s" for span in found)
        output.text(times or "seen at no time")
    if answer.finish == "length":
        limit = answer.settings["max_new_tokens"]
        tokens = "1 token" if limit == 1 else f"{limit:,} tokens"
        output.notice(f"the answer was cut after {tokens}; --max-new-tokens allows more")
    return True


def show_looked_again(output: Output, answer: Any) -> None:
    """The moments that an answer of `ask --zoom` was read from."""
    moments = sorted((moment.start, moment.end) for moment in answer.looked_again.moments)
    spans = [f"{start:.2f}-{end:.2f} s" for start, end in moments]
    output.notice(f"looked again at {', '.join(spans)}")
