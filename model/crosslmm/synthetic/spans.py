"""Phrases that know what their parts are about: spans are made with the text, never parsed out of it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

SpanKind = Literal["thing", "frame", "value", "asked", "given"]


@dataclass(frozen=True)
class Span:
    """The characters from `start` up to `end`.

    - `thing`, `frame`: what is said about one thing of a clip, or one frame: number `index`, from 0.
    - `value`: the words that decide; with others of their kind instead, the text would be wrong.
    - `asked`: the part of an answer that the question asks for, with the space before it.
    - `given`: words that are not to be learned, only what follows from them.
    """

    start: int
    end: int
    kind: SpanKind
    index: int = 0


@dataclass(frozen=True)
class Phrase:
    """A text with its spans; adding phrases or plain text keeps them in position."""

    text: str
    spans: tuple[Span, ...] = ()

    def __str__(self) -> str:
        return self.text

    def __add__(self, other: "Phrase | str") -> "Phrase":
        if isinstance(other, str):
            return replace(self, text=self.text + other)
        shift = len(self.text)
        moved = (replace(s, start=s.start + shift, end=s.end + shift) for s in other.spans)
        return Phrase(self.text + other.text, (*self.spans, *moved))

    def __radd__(self, other: str) -> "Phrase":
        return Phrase(other) + self

    def mark(self, kind: SpanKind, index: int = 0) -> "Phrase":
        """The same phrase with a span over all of it."""
        return replace(self, spans=(*self.spans, Span(0, len(self.text), kind, index)))

    def mark_end(self, words: str, kind: SpanKind) -> "Phrase":
        """The same phrase with a span over the words that it ends with."""
        start = len(self.text) - len(words)
        if self.text[start:] != words:
            raise ValueError(f"{self.text!r} does not end with {words!r}")
        return replace(self, spans=(*self.spans, Span(start, len(self.text), kind)))

    def drop(self, kind: SpanKind) -> "Phrase":
        """The same phrase without the spans of a kind."""
        return replace(self, spans=tuple(span for span in self.spans if span.kind != kind))


def join(separator: str, phrases: Iterable[Phrase]) -> Phrase:
    joined = Phrase("")
    for number, phrase in enumerate(phrases):
        joined = joined + (separator + phrase if number else phrase)
    return joined
