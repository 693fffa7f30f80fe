"""The demo's lessons in reading: clips told in words, notes on them, and what follows from a reason.

To find what is asked for, to compare it with what was claimed, to name the option that says it, is half
of answering, and is learned faster where nothing must be seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crosslmm.synthetic.phrasing import (
    DOES,
    LETTERS,
    chosen,
    clip_described,
    event_said,
    frames_said,
    named,
    seen_at,
)
from crosslmm.synthetic.questions import Asker, Question
from crosslmm.synthetic.scenes import Clip
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, GLYPHS, SHAPES, SIZES

_VALUES = (tuple(DOES.values()), COLOUR_NAMES, SHAPES, tuple(SIZES), tuple(GLYPHS))


def take_notes(clip: Clip, rng: np.random.Generator, times: Sequence[float] | None) -> Question:
    """`K yellow star small moves left appears at 3.41 seconds; circle red large 7 stays still`: for
    training only.

    Each thing is begun with something that picks it out, and what else it is follows at once. Looking
    one attribute up by another is so a matter of one token and its successor, which is learned in a
    few hundred steps; from questions alone, where the two stand far apart, it is not in thousands.
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
        for event in clip.events:
            if times is not None and event.subject == index:
                moment = seen_at(event.time * clip.duration, times)
                happens = event_said(clip, event).removeprefix(named(thing))
                words.append(f"{happens.strip()} at {moment:.2f} seconds")
        said.append(" ".join(filter(None, words)))
    text = "; ".join(said)
    return Question("describe", "Take notes.", answer="", taught=text)


def tell(clip: Clip, rng: np.random.Generator, times: Sequence[float]) -> str:
    """All of a clip that frames at `times` show, but for places, in words."""
    things = list(clip.things)
    if clip.cuts:
        things.sort(key=lambda thing: thing.scene)  # which is seen first may be asked
    else:
        rng.shuffle(things)
    told = [clip_described(things), frames_said(clip, times)]
    return ". ".join(told if rng.random() < 0.5 else reversed(told))


@dataclass(frozen=True)
class Verdicts:
    """A question that a reason decides; several reasons, true or not, each with what follows from it."""

    question: str
    answers: tuple[tuple[str, str], ...]


def draw_verdicts(asker: Asker) -> Verdicts | None:
    """Of a multiple choice every option as if it were right; of yes or no the truth of a claim and, as
    often, something else. None where the clip gives no occasion."""
    if asker.rng.random() < 0.6:
        question = asker.ask("multiple_choice")
        return None if question is None else _of_options(question)
    question = asker.ask("yes_no")
    if question is None or question.answer == "no":
        return None
    return _of_claim(question, asker.rng)


def _of_options(question: Question) -> Verdicts | None:
    right = question.options[LETTERS.index(question.answer)]
    stem = question.taught.split(": A. ")[0].removesuffix(right)
    if not question.taught.startswith(stem + right):
        return None  # the reason does not end on what is asked
    answers = []
    for option in question.options:
        reason = stem + option
        answers.append((reason, chosen(reason, question.options, option).removeprefix(reason)))
    return Verdicts(question.text, tuple(answers))


def _of_claim(question: Question, rng: np.random.Generator) -> Verdicts | None:
    reason = question.taught.removesuffix("yes").removesuffix(", so ")
    value, values = next(
        ((value, values) for values in _VALUES for value in values if reason.endswith(f" {value}")),
        ("", ()),
    )
    decisive = reason.rpartition("; ")[2]  # of a list, the part that was asked for
    if not value or "," in decisive:
        return None
    wrong = [other for other in values if other != value]
    others = [wrong[i] for i in rng.permutation(len(wrong))[:2]]
    denied = [(reason.removesuffix(value) + other, ", so no") for other in others]
    return Verdicts(question.text, (*[(reason, ", so yes")] * len(others), *denied))
