"""An answer, written as it is generated."""

from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from threading import Event
from typing import Any

from crosslmm_cli.amounts import counted
from crosslmm_cli.output import Output, one_line


def write_answer(
    output: Output,
    response: Any,
    *,
    stop: Event | None = None,
    find_evidence: Callable[[Any], Any] | None = None,
) -> bool:
    """Stream the answer of a `Response`, or write its record, and say it where the answer was cut.

    find_evidence: of an answer; the times in which what it is about was seen are written after it. False
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
    evidence = None if find_evidence is None else find_evidence(answer)
    if output.as_json:
        when = {} if evidence is None else {"when": [span.as_dict() for span in evidence.spans]}
        output.record(answer.as_dict() | when)
    elif evidence is not None:
        for line in _spans(evidence):
            output.text(line)
    if answer.finish == "length":
        limit = answer.settings["max_new_tokens"]
        tokens = counted(limit, "token")
        output.notice(f"the answer was cut after {tokens}; --max-new-tokens allows more")
    return True


def show_looked_again(output: Output, answer: Any) -> None:
    """The moments that an answer of `ask --zoom` was read from."""
    places: dict[str | None, list[Any]] = {name: [] for name in answer.videos or [None]}
    for moment in sorted(answer.looked_again.moments, key=lambda moment: moment.start):
        places[moment.video].append(moment)
    spans = [
        _times(moments) + (f" of {one_line(name)}" if name else "")
        for name, moments in places.items()
    ]
    output.notice(f"looked again at {'; '.join(spans)}")


def _spans(evidence: Any) -> Iterator[str]:
    """A line for each video, which begins with its number and name where they are several."""
    pairs = zip(evidence.videos, evidence.spans_by_video, strict=True)
    for number, (video, spans) in enumerate(pairs, start=1):
        name = f"video {number}, {one_line(video.name)}: " if len(evidence.videos) > 1 else ""
        yield f"{name}{_times(spans) or 'seen at no time'}"


def _times(spans: Sequence[Any]) -> str:
    return ", ".join(f"{span.start:.2f}-{span.end:.2f} s" for span in spans)
