"""Questions with exact answers about a clip: only what its frames decide, said in many ways."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from crosslmm.synthetic import phrasing
from crosslmm.synthetic.phrasing import DO, DOES, HELD_OUT, LETTERS, NOTHING, QUESTIONS, YES_NO
from crosslmm.synthetic.references import called, draw_group, in_order, members, refer
from crosslmm.synthetic.scenes import FRAMES_MEANT, Clip, Event, Thing
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, GLYPHS, MOTIONS, SHAPES

QuestionType = Literal[
    "describe", "events", "colour", "shape", "size", "glyph", "count", "motion", "order", "when",
    "yes_no", "multiple_choice",
]  # fmt: skip
QUESTION_TYPES: tuple[QuestionType, ...] = QuestionType.__args__  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Question:
    """- `answer`: the truth, as short as it goes; `taught`: what training teaches to say. That names
      the thing before what is asked of it, the reason before yes or no, the things before their
      number, what each frame shows before all events and those before the first: each word then
      rests on the ones before. A time is that of the first frame that shows the event, which the
      model can read off.
    - An `answer` of "" is that of notes: nothing is asked for.
    - `options`: texts of a multiple choice; `tolerance`: seconds, for times.
    - `held_out`: the wording is one that training never shows.
    """

    type: QuestionType
    text: str
    answer: str
    taught: str
    options: tuple[str, ...] = ()
    tolerance: float | None = None
    held_out: bool = False


class Asker:
    """Draws questions about one clip.

    - `held_out`: use only the wordings kept from training.
    - `roundabout`: see `refer`.
    """

    def __init__(
        self,
        clip: Clip,
        rng: np.random.Generator,
        *,
        frame_times: Sequence[float],
        frame_period: float,
        held_out: bool = False,
        roundabout: float | None = None,
    ):
        """`frame_times`: of the frames watched, in seconds, for what `when` is taught to say."""
        self.clip, self.rng = clip, rng
        self.frame_times, self.frame_period = frame_times, frame_period
        self.held_out, self.roundabout = held_out, roundabout
        self.makers: dict[QuestionType, Callable[[], Question | None]] = {
            "describe": self.describe,
            "events": self.events,
            "colour": self.colour,
            "shape": self.shape,
            "size": self.size,
            "glyph": self.glyph,
            "count": self.count,
            "motion": self.motion,
            "order": self.order,
            "when": self.when,
            "yes_no": self.yes_no,
            "multiple_choice": self.multiple_choice,
        }

    def ask(self, kind: QuestionType) -> Question | None:
        """One question of this type, or None where the clip gives no occasion for one."""
        return self.makers[kind]()

    def describe(self) -> Question:
        return self._make("describe", "describe", phrasing.clip_described(in_order(self.clip)))

    def events(self) -> Question:
        said = phrasing.events_said(self.clip)
        return self._make("events", "events", said, taught=self._read_off())

    def colour(self) -> Question | None:
        thing = self._pick()
        if thing.turns_to is not None:
            if self.rng.random() < 0.5:
                name = self._name(thing, but="colour")
                return self._about(thing, name, "colour", "new_colour", thing.turns_to)
            name = self._name(thing, but="colour", plain=True)
            first = self.rng.random() < 0.5
            moment, answer = ("start", thing.colour) if first else ("end", thing.turns_to)
            if name is None or (thing.scene, thing.seen_from, thing.seen_until) != (0, 0.0, 1.0):
                return None
            return self._about(thing, f"{name} at the {moment}", "colour", "colour", answer)
        name = self._name(thing, but="colour")
        return self._about(thing, name, "colour", "colour", thing.colour)

    def shape(self) -> Question | None:
        thing = self._pick()
        name = self._name(thing, but="shape")
        return self._about(thing, name, "shape", "shape", thing.shape)

    def size(self) -> Question | None:
        sized = [thing for thing in self.clip.things if thing.size is not None]
        if not sized:
            return None
        thing = sized[self.rng.integers(len(sized))]
        name = self._name(thing, but="size")
        return self._about(thing, name, "size", "size", str(thing.size))

    def glyph(self) -> Question | None:
        thing = self._pick()
        if thing.glyph is None and self.rng.random() < 0.5:
            return None
        name = self._name(thing, but="glyph")
        return self._about(thing, name, "glyph", "glyph", thing.glyph or NOTHING)

    def count(self) -> Question | None:
        group = draw_group(self.clip, self.rng)
        number = len(members(self.clip, group))
        taught = f"{self._listed(group)}: {number}"
        return self._make("count", "count", str(number), taught=taught, things=group)

    def motion(self) -> Question | None:
        thing = self._pick()
        name = self._name(thing, but="motion")
        return self._about(thing, name, "motion", "motion", DOES[thing.motion])

    def order(self) -> Question | None:
        clip, rng = self.clip, self.rng
        if clip.cuts:
            scenes = [thing.scene for thing in clip.things]
            last = rng.random() < 0.5
            shown = [t for t in clip.things if t.scene == (len(clip.cuts) if last else 0)]
            if len(shown) != 1 or len(set(scenes)) < 2:
                return None
            key = "shown_last" if last else "shown_first"
            return self._make("order", key, phrasing.named(shown[0]))
        if len(clip.events) < 2:
            return None
        said = [phrasing.event_said(clip, event) for event in clip.events]
        kind = str(rng.choice(["first", "last", "after", "before"]))
        index = int(rng.integers(len(said) - 1))
        asked = {"first": 0, "last": -1, "after": index + 1, "before": index}[kind]
        event = said[index if kind == "after" else index + 1]
        taught = f"{self._read_off()}, so {said[asked]}"
        return self._make("order", kind, said[asked], taught=taught, event=event)

    def when(self) -> Question | None:
        clip = self.clip
        if not clip.events or len(clip.cuts) > 1:
            return None
        event = clip.events[self.rng.integers(len(clip.events))]
        said = phrasing.event_said(clip, event)
        seconds = event.time * clip.duration
        seen = phrasing.seen_at(seconds, self.frame_times)
        return self._make(
            "when",
            "when",
            f"at {seconds:.2f} seconds",
            taught=self._concluded(f"{said} at {seen:.2f} seconds"),
            tolerance=round(clip.duration / FRAMES_MEANT + self.frame_period, 3),
            event=said,
            happen=phrasing.event_said(clip, event, infinitive=True),
        )

    def yes_no(self) -> Question | None:
        makers = [self._is_there, self._is_it, self._does_it_move, self._does_it_happen,
                  self._are_there, self._comes_before]  # fmt: skip
        return makers[self.rng.integers(len(makers))](bool(self.rng.random() < 0.5))

    def multiple_choice(self) -> Question | None:
        kinds: list[QuestionType] = ["colour", "shape", "glyph", "motion", "count", "order"]
        kind = kinds[self.rng.integers(len(kinds))]
        base = self.ask(kind)
        if base is None or base.answer == NOTHING:
            return None
        wrong = [other for other in self._alternatives(kind) if other != base.answer]
        if len(wrong) < 3:
            return None
        options = [base.answer, *(wrong[i] for i in self.rng.permutation(len(wrong))[:3])]
        options = [options[i] for i in self.rng.permutation(4)]
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=True)]
        ending = self._wording(phrasing.CHOICE_ENDINGS)
        letter = LETTERS[options.index(base.answer)]
        text = "\n".join([base.text, *lines]) + ending
        taught = phrasing.chosen(base.taught, options, base.answer)
        return Question("multiple_choice", text, letter, taught, tuple(options),
                        held_out=self.held_out)  # fmt: skip

    def _is_there(self, yes: bool) -> Question | None:
        clip, rng = self.clip, self.rng
        # In the clip's order: a set's would differ from run to run.
        pairs = [(c, thing.shape) for thing in clip.things for c in (thing.colour, thing.turns_to)]
        if yes:
            thing = self._pick()
            wanted = (thing.colour, thing.shape)
        else:
            # Near misses: half of them share a colour and a shape with what is there.
            near = [(c, s) for c, _ in pairs for _, s in pairs if c and (c, s) not in pairs]
            if near and rng.random() < 0.5:
                wanted = near[rng.integers(len(near))]
            else:
                wanted = (str(rng.choice(COLOUR_NAMES)), str(rng.choice(SHAPES)))
            if wanted in pairs:
                return None
        if rng.random() < 0.3:
            marks = {thing.glyph for thing in clip.things}
            mark = thing.glyph if yes else str(rng.choice(list(GLYPHS)))
            if mark is None or (not yes and mark in marks):
                return None
            because = phrasing.answered(phrasing.named(thing), "glyph", mark) if yes else ""
            return self._yes_no("exists", yes, because=because, a_thing=f"an object marked {mark}")
        because = self._listed(f"{wanted[0]} objects")
        a_thing = phrasing.with_article(f"a {' '.join(wanted)}")
        return self._yes_no("exists", yes, because=because, a_thing=a_thing)

    def _is_it(self, yes: bool) -> Question | None:
        thing = self._pick()
        kind = str(self.rng.choice(["colour", "shape", "size"]))
        value = getattr(thing, kind)
        name = self._name(thing, but=kind)
        if value is None or name is None or (kind == "colour" and thing.turns_to):
            return None
        because = phrasing.answered(called(thing, name), kind, value)
        if not yes:
            wrong = [v for v in self._alternatives(kind) if v != value]
            value = wrong[self.rng.integers(len(wrong))]
        value = f"a {value}" if kind == "shape" else value
        return self._yes_no("is", yes, because=because, thing=name, value=value)

    def _does_it_move(self, yes: bool) -> Question | None:
        thing = self._pick()
        name = self._name(thing, but="motion")
        motion = thing.motion
        if not yes:
            wrong = [m for m in (*MOTIONS, "left", "right", "up", "down") if m != motion]
            motion = wrong[self.rng.integers(len(wrong))]
        if name is None:
            return None
        return self._yes_no(
            "does",
            yes,
            because=f"{called(thing, name)} {DOES[thing.motion]}",
            happen=f"{name} {DO[motion]}",
            event=f"{name} {DOES[motion]}",
        )

    def _does_it_happen(self, yes: bool) -> Question | None:
        clip, rng = self.clip, self.rng
        if clip.cuts:
            return None
        if yes:
            if not clip.events:
                return None
            event = clip.events[rng.integers(len(clip.events))]
            because = phrasing.event_said(clip, event)
        else:
            subject = int(rng.integers(len(clip.things)))
            thing = clip.things[subject]
            kind = str(rng.choice(["appears", "disappears"]))
            if thing.motion == "blinking" or any(
                e.kind == kind and e.subject == subject for e in clip.events
            ):
                return None
            event = Event(kind, 0.0, subject)  # type: ignore[arg-type]
            own = [phrasing.event_said(clip, e) for e in clip.events if e.subject == subject]
            because = own[0] if own else f"{phrasing.named(thing)} {DOES[thing.motion]}"
        return self._yes_no(
            "does",
            yes,
            because=because,
            happen=phrasing.event_said(clip, event, infinitive=True),
            event=phrasing.event_said(clip, event),
        )

    def _are_there(self, yes: bool) -> Question | None:
        group = draw_group(self.clip, self.rng)
        number = there = len(members(self.clip, group))
        if not yes:
            number = max(number + int(self.rng.choice([-1, 1, 2])), 0)
            if number == there:
                return None
        if number < 2:
            return None
        because = f"{self._listed(group)}: {there}"
        return self._yes_no("counts", yes, because=because, number=str(number), things=group)

    def _comes_before(self, yes: bool) -> Question | None:
        clip = self.clip
        if clip.cuts or len(clip.events) < 2:
            return None
        first, second = sorted(self.rng.choice(len(clip.events), 2, replace=False).tolist())
        if not yes:
            first, second = second, first
        one, two = clip.events[first], clip.events[second]
        other = phrasing.event_said(clip, two)
        return self._yes_no(
            "does",
            yes,
            because=self._read_off(),
            happen=f"{phrasing.event_said(clip, one, infinitive=True)} before {other}",
            event=f"{phrasing.event_said(clip, one)} before {other}",
        )

    def _yes_no(self, key: str, yes: bool, *, because: str = "", **slots: Any) -> Question:
        answer = "yes" if yes else "no"
        taught = f"{because}, so {answer}" if because else answer
        return self._make("yes_no", key, answer, taught=taught, **slots)

    def _about(
        self, thing: Thing, name: str | None, kind: QuestionType, key: str, answer: str
    ) -> Question | None:
        """A question about the thing of this name, if it has one."""
        if name is None:
            return None
        subject = name if key == "new_colour" else called(thing, name)
        if subject != name and kind in ("colour", "shape"):
            taught = subject  # says it already
        else:
            taught = phrasing.answered(subject, key, answer)
        return self._make(kind, key, answer, taught=taught, thing=name)

    def _read_off(self) -> str:
        """All events in order, after what happens frame by frame."""
        return self._concluded(phrasing.events_said(self.clip))

    def _concluded(self, end: str) -> str:
        """What follows from what happens frame by frame, after that."""
        return f"{phrasing.frames_said(self.clip, self.frame_times)}, so {end}"

    def _make(
        self,
        kind: QuestionType,
        key: str,
        answer: str,
        *,
        taught: str | None = None,
        tolerance: float | None = None,
        **slots: str,
    ) -> Question:
        text = self._wording(QUESTIONS[key] if key in QUESTIONS else YES_NO[key]).format(**slots)
        return Question(kind, text[0].upper() + text[1:], answer, taught or answer,
                        tolerance=tolerance, held_out=self.held_out)  # fmt: skip

    def _wording(self, wordings: Sequence[str]) -> str:
        chosen = wordings[-HELD_OUT:] if self.held_out else wordings[:-HELD_OUT]
        return chosen[int(self.rng.integers(len(chosen)))]

    def _pick(self) -> Thing:
        return self.clip.things[self.rng.integers(len(self.clip.things))]

    def _name(self, thing: Thing, *, but: str, plain: bool = False) -> str | None:
        return refer(self.clip, thing, self.rng, but=but, plain=plain, roundabout=self.roundabout)

    def _listed(self, group: str) -> str:
        """The things of a group; of a part of all, after all: finding them and choosing among them are
        steps of their own."""
        return phrasing.group_listed(group, in_order(self.clip), members(self.clip, group))

    def _alternatives(self, kind: str) -> list[str]:
        """Answers of a kind, the right one maybe among them."""
        if kind == "order":
            return self._other_events()
        values: dict[str, Sequence[str]] = {
            "colour": COLOUR_NAMES,
            "shape": SHAPES,
            "size": ("small", "large"),
            "glyph": tuple(GLYPHS),
            "motion": tuple(DOES.values()),
            "count": tuple("012345"),
        }
        return list(values[kind])

    def _other_events(self) -> list[str]:
        """What happens in the clip, and what could have but does not."""
        clip = self.clip
        if clip.cuts:
            names = [phrasing.named(thing) for thing in clip.things]
            colours, shapes = self.rng.permutation(COLOUR_NAMES), self.rng.permutation(SHAPES)
            extra = [f"the {c} {s}" for c, s in zip(colours, shapes, strict=False)]
            return list(dict.fromkeys([*names, *extra]))[:5]
        said = [phrasing.event_said(clip, event) for event in clip.events]
        for index in range(len(clip.things)):
            for kind in ("appears", "disappears"):
                said.append(phrasing.event_said(clip, Event(kind, 0.0, index)))
        return list(dict.fromkeys(said))


def ask_about(
    clip: Clip,
    rng: np.random.Generator,
    *,
    count: int,
    frame_times: Sequence[float],
    frame_period: float,
    types: Sequence[QuestionType] = QUESTION_TYPES,
    held_out_share: float = 0.0,
    roundabout: float | None = None,
) -> list[Question]:
    """Up to `count` different questions about a clip, their types in turn from a random start."""
    asked: dict[str, Question] = {}
    order = rng.permutation(len(types))
    for turn in range(3 * count):
        if len(asked) == count:
            break
        held_out = bool(rng.random() < held_out_share)
        asker = Asker(clip, rng, frame_times=frame_times, frame_period=frame_period,
                      held_out=held_out, roundabout=roundabout)  # fmt: skip
        question = asker.ask(types[order[turn % len(types)]])
        if question is not None:
            asked.setdefault(question.text, question)
    return list(asked.values())
