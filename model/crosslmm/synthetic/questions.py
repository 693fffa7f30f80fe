"""A question about a clip: its wording, the exact answer, and what training teaches to say."""

from dataclasses import dataclass
from typing import Literal

from crosslmm.synthetic.spans import Phrase, Span

QuestionType = Literal[
    "describe", "events", "colour", "shape", "size", "glyph", "count", "motion", "order", "when",
    "yes_no", "multiple_choice",
]  # fmt: skip
QUESTION_TYPES: tuple[QuestionType, ...] = QuestionType.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Question:
    """- `answer`: the truth, as short as possible; `taught`: what training teaches to say. That names
      the thing before what is asked of it, the reason before yes or no, the things before their
      number, what each frame shows before all events and those before the first: each word then
      rests on the ones before. A time is that of the first frame that shows the event, which the
      model can read off.
    - `spans`: what the parts of `taught` are about; notes have no `asked` part.
    - `options`: texts of a multiple choice; `tolerance`: seconds, for times.
    - `held_out`: the wording is one that training never shows.
    - `by_position`: the question refers to a thing by where it is.
    """

    type: QuestionType
    text: str
    answer: str
    taught: str
    spans: tuple[Span, ...] = ()
    options: tuple[str, ...] = ()
    tolerance: float | None = None
    held_out: bool = False
    by_position: bool = False

    @property
    def phrase(self) -> Phrase:
        """`taught` with its spans."""
        return Phrase(self.taught, self.spans)
