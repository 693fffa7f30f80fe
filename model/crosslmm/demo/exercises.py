"""Exercises beside questions about shown clips: notes, clips in words, and verdicts on given reasons.

To find what is asked for, to compare it with what was claimed, to name the option that says it, is half
of answering, and is learned faster without having to see anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crosslmm.synthetic.asker import Asker
from crosslmm.synthetic.phrasing import (
    DOES,
    check_options,
    describe_clip,
    describe_frames,
    first_frame_time,
    name_thing,
)
from crosslmm.synthetic.questions import Question
from crosslmm.synthetic.scenes import SyntheticClip
from crosslmm.synthetic.spans import Phrase, Span, join
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, GLYPHS, SHAPES, SIZES

_VALUES = (tuple(DOES.values()), COLOUR_NAMES, SHAPES, tuple(SIZES), tuple(GLYPHS))


def take_notes(
    clip: SyntheticClip, rng: np.random.Generator, times: Sequence[float] | None
) -> Question:
    """`K yellow star small moves left appears at 3.41 seconds; circle red large 7 stays still`: for
    training only.

    Each thing begins with an attribute that picks it out, and the others follow at once. Looking one
    attribute up by another thus takes one token and its successor, which is learned in a few hundred
    steps; from questions alone, where the two are far apart, it is not learned in thousands.
    """
    said = []
    for index in rng.permutation(len(clip.things)):
        thing = clip.things[index]
        parts = {
            "colour": thing.colour,
            "shape": thing.shape,
            "size": thing.size,
            "glyph": thing.glyph,
        }
        firsts = [
            name
            for name, value in parts.items()
            if name != "size"
            and value is not None
            and sum(value in (t.colour, t.turns_to, t.shape, t.glyph) for t in clip.things) == 1
        ]
        first = str(rng.choice(firsts)) if firsts else "colour"
        words = [parts.pop(first), *parts.values(), DOES[thing.motion]]
        note = Phrase(" ".join(filter(None, words)))
        for event in clip.events:
            if times is not None and event.subject == index:
                moment = first_frame_time(event.time * clip.duration, times)
                at = f"at {moment:.2f} seconds"
                note += f" {event.kind} "
                if event.other >= 0:
                    other = Phrase(f"{name_thing(clip.things[event.other])} {at}")
                    note += other.mark("thing", event.other)
                elif event.kind == "turns":
                    note += f"{thing.turns_to} {at}"
                else:
                    note += at
        said.append(note)
    notes = join("; ", said)
    return Question("describe", "Take notes.", answer="", taught=notes.text, spans=notes.spans)


def narrate(clip: SyntheticClip, rng: np.random.Generator, times: Sequence[float]) -> str:
    """All of a clip that frames at `times` show, but for positions, in words."""
    things = list(clip.things)
    if clip.cuts:
        things.sort(key=lambda thing: thing.scene)  # which is seen first may be asked
    else:
        rng.shuffle(things)
    parts = [describe_clip(clip, things).text, describe_frames(clip, times).text]
    return ". ".join(parts if rng.random() < 0.5 else reversed(parts))


@dataclass(frozen=True)
class Verdicts:
    """A question that a reason decides; several reasons, true or not, each with what follows from it."""

    question: str
    answers: tuple[tuple[str, str], ...]


def draw_verdicts(asker: Asker) -> Verdicts | None:
    """Of a multiple choice every option as if it were right; of yes or no the truth of a claim and, as
    often, something else. None where the drawn question gives no verdicts."""
    if asker.rng.random() < 0.6:
        question = asker.ask("multiple_choice")
        value = _decisive_span(question)
        return _judge_options(question, value) if question and value else None
    question = asker.ask("yes_no")
    if question is None or question.answer == "no":
        return None
    value = _decisive_span(question)
    return _judge_claim(question, value, asker.rng) if value else None


def _decisive_span(question: Question | None) -> Span | None:
    """What the reason of an answer ends with, where that decides."""
    spans = question.spans if question else ()
    return next((span for span in spans if span.kind == "value"), None)


def _judge_options(question: Question, value: Span) -> Verdicts:
    answers = []
    for option in question.options:
        end = check_options(question.options, option).text
        answers.append((question.taught[: value.start] + option, end))
    return Verdicts(question.text, tuple(answers))


def _judge_claim(question: Question, value: Span, rng: np.random.Generator) -> Verdicts:
    reason, said = question.taught[: value.end], question.taught[value.start : value.end]
    wrong = [v for values in _VALUES if said in values for v in values if v != said]
    others = [wrong[i] for i in rng.permutation(len(wrong))[:2]]
    denied = [(question.taught[: value.start] + other, ", so no") for other in others]
    return Verdicts(question.text, (*[(reason, ", so yes")] * len(others), *denied))
