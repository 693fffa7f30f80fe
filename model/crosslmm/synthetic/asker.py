"""Draws questions about a clip, with exact answers: only what its frames decide, worded in many ways."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from crosslmm.synthetic import phrasing
from crosslmm.synthetic.narrator import Narrator
from crosslmm.synthetic.phrasing import DO, DOES, HELD_OUT, LETTERS, NOTHING, QUESTIONS, YES_NO
from crosslmm.synthetic.questions import QUESTION_TYPES, Question, QuestionType
from crosslmm.synthetic.references import (
    Reference,
    answer_name,
    draw_group,
    find_members,
    group_by,
    sort_things,
)
from crosslmm.synthetic.scenes import FRAMES_NEEDED, Event, SyntheticClip, Thing
from crosslmm.synthetic.spans import Phrase
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, GLYPHS, MOTIONS, SHAPES


class Asker(Narrator):
    """Draws questions about one clip, with the arguments of a `Narrator` and:

    - `frame_period`: how long a frame of the video lasts, in seconds.
    - `held_out`: use only the wordings kept from training.
    """

    def __init__(
        self,
        clip: SyntheticClip,
        rng: np.random.Generator,
        *,
        frame_times: Sequence[float],
        frame_period: float,
        held_out: bool = False,
        indirect: float | None = None,
        misplaced: float = 0.0,
    ):
        super().__init__(clip, rng, frame_times=frame_times, indirect=indirect, misplaced=misplaced)
        self.frame_period, self.held_out = frame_period, held_out
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
        said = phrasing.describe_clip(self.clip, sort_things(self.clip))
        return self._make("describe", "describe", said.text, taught=said.mark("asked"))

    def events(self) -> Question:
        said = phrasing.describe_events(self.clip)
        return self._make("events", "events", said, taught=self.conclude(said))

    def colour(self) -> Question | None:
        thing = self.pick_thing()
        if thing.turns_to is not None:
            if self.rng.random() < 0.5:
                name = self.refer_to(thing, but="colour")
                return self._about(thing, name, "colour", "new_colour", thing.turns_to)
            name = self.refer_to(thing, but="colour", plain=True)
            first = self.rng.random() < 0.5
            moment, answer = ("start", thing.colour) if first else ("end", thing.turns_to)
            if name is None or (thing.scene, thing.seen_from, thing.seen_until) != (0, 0.0, 1.0):
                return None
            name = replace(name, text=f"{name.text} at the {moment}")
            return self._about(thing, name, "colour", "colour", answer)
        name = self.refer_to(thing, but="colour")
        return self._about(thing, name, "colour", "colour", thing.colour)

    def shape(self) -> Question | None:
        thing = self.pick_thing()
        name = self.refer_to(thing, but="shape")
        return self._about(thing, name, "shape", "shape", thing.shape)

    def size(self) -> Question | None:
        sized = [thing for thing in self.clip.things if thing.size is not None]
        if not sized:
            return None
        thing = sized[self.rng.integers(len(sized))]
        name = self.refer_to(thing, but="size")
        return self._about(thing, name, "size", "size", str(thing.size))

    def glyph(self) -> Question | None:
        thing = self.pick_thing()
        if thing.glyph is None and self.rng.random() < 0.5:
            return None
        name = self.refer_to(thing, but="glyph")
        return self._about(thing, name, "glyph", "glyph", thing.glyph or NOTHING)

    def count(self) -> Question | None:
        group = draw_group(self.clip, self.rng)
        number = str(len(find_members(self.clip, group)))
        # A number is as right as the list before it, so all of it is asked for.
        taught = (self.list_group(group) + f": {number}").mark_end(number, "value").mark("asked")
        return self._make("count", "count", number, taught=taught, things=group.text)

    def motion(self) -> Question | None:
        thing = self.pick_thing()
        name = self.refer_to(thing, but="motion")
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
            said = phrasing.list_things(clip, shown).mark("value").mark("asked")
            return self._make("order", key, said.text, taught=said)
        if len(clip.events) < 2:
            return None
        events = [phrasing.describe_event(clip, event).text for event in clip.events]
        kind = str(rng.choice(["first", "last", "after", "before"]))
        index = int(rng.integers(len(events) - 1))
        answer = events[{"first": 0, "last": -1, "after": index + 1, "before": index}[kind]]
        event = events[index if kind == "after" else index + 1]
        taught = self.read_events() + f", so {answer}"
        taught = taught.mark_end(answer, "value").mark_end(f" {answer}", "asked")
        return self._make("order", kind, answer, taught=taught, event=event)

    def when(self) -> Question | None:
        clip = self.clip
        if not clip.events or len(clip.cuts) > 1:
            return None
        index = self.rng.integers(len(clip.events))
        event, said_at = clip.events[index], self.place_events()
        said = phrasing.describe_event(clip, event).text
        seconds, shown = event.time * clip.duration, self.frame_times[said_at[index]]
        return self._make(
            "when",
            "when",
            f"at {seconds:.2f} seconds",
            taught=self.conclude(f"{said} at {shown:.2f} seconds", said_at),
            tolerance=round(clip.duration / FRAMES_NEEDED + self.frame_period, 3),
            event=said,
            happen=phrasing.describe_event(clip, event, infinitive=True).text,
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
        wrong = [other for other in self.list_alternatives(kind) if other != base.answer]
        if len(wrong) < 3:
            return None
        options = [base.answer, *(wrong[i] for i in self.rng.permutation(len(wrong))[:3])]
        options = [options[i] for i in self.rng.permutation(4)]
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=True)]
        ending = self._wording(phrasing.CHOICE_ENDINGS)
        letter = LETTERS[options.index(base.answer)]
        text = "\n".join([base.text, *lines]) + ending
        taught = base.phrase.drop("asked") + phrasing.check_options(options, base.answer)
        return Question("multiple_choice", text, letter, taught.text, taught.spans, tuple(options),
                        held_out=self.held_out, by_position=base.by_position)  # fmt: skip

    def _is_there(self, yes: bool) -> Question | None:
        clip, rng = self.clip, self.rng
        # In the clip's order: a set's would differ from run to run.
        pairs = [(c, thing.shape) for thing in clip.things for c in (thing.colour, thing.turns_to)]
        if yes:
            thing = self.pick_thing()
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
            said = self.state(thing, phrasing.name_thing(thing), "glyph", mark) if yes else None
            return self._yes_no("exists", yes, because=said, a_thing=f"an object marked {mark}")
        group = group_by(wanted[0])
        because = self.list_group(group)
        alike = find_members(clip, group)
        if len(alike) == 1:
            because = because.mark_end(alike[0].shape, "value")
        a_thing = phrasing.fix_article(f"a {' '.join(wanted)}")
        return self._yes_no("exists", yes, because=because, a_thing=a_thing)

    def _is_it(self, yes: bool) -> Question | None:
        thing = self.pick_thing()
        kind = str(self.rng.choice(["colour", "shape", "size"]))
        value = getattr(thing, kind)
        name = self.refer_to(thing, but=kind)
        if value is None or name is None or (kind == "colour" and thing.turns_to):
            return None
        because = self.state(thing, answer_name(thing, name), kind, value)
        if not yes:
            wrong = [v for v in self.list_alternatives(kind) if v != value]
            value = wrong[self.rng.integers(len(wrong))]
        value = f"a {value}" if kind == "shape" else value
        return self._yes_no("is", yes, because=because, by=name, thing=name.text, value=value)

    def _does_it_move(self, yes: bool) -> Question | None:
        thing = self.pick_thing()
        name = self.refer_to(thing, but="motion")
        motion = thing.motion
        if not yes:
            wrong = [m for m in (*MOTIONS, "left", "right", "up", "down") if m != motion]
            motion = wrong[self.rng.integers(len(wrong))]
        if name is None:
            return None
        return self._yes_no(
            "does",
            yes,
            because=self.state(thing, answer_name(thing, name), "motion", DOES[thing.motion]),
            by=name,
            happen=f"{name.text} {DO[motion]}",
            event=f"{name.text} {DOES[motion]}",
        )

    def _does_it_happen(self, yes: bool) -> Question | None:
        clip, rng = self.clip, self.rng
        if clip.cuts:
            return None
        if yes:
            if not clip.events:
                return None
            event = clip.events[rng.integers(len(clip.events))]
            because = phrasing.describe_event(clip, event)
        else:
            subject = int(rng.integers(len(clip.things)))
            thing = clip.things[subject]
            kind = str(rng.choice(["appears", "disappears"]))
            if thing.motion == "blinking" or any(
                e.kind == kind and e.subject == subject for e in clip.events
            ):
                return None
            event = Event(kind, 0.0, subject)  # type: ignore[arg-type]
            real = [phrasing.describe_event(clip, e) for e in clip.events if e.subject == subject]
            name, does = phrasing.name_thing(thing), DOES[thing.motion]
            because = real[0] if real else self.state(thing, name, "motion", does)
        return self._yes_no(
            "does",
            yes,
            because=because,
            happen=phrasing.describe_event(clip, event, infinitive=True).text,
            event=phrasing.describe_event(clip, event).text,
        )

    def _are_there(self, yes: bool) -> Question | None:
        group = draw_group(self.clip, self.rng)
        number = there = len(find_members(self.clip, group))
        if not yes:
            number = max(number + int(self.rng.choice([-1, 1, 2])), 0)
            if number == there:
                return None
        if number < 2:
            return None
        because = self.list_group(group) + f": {there}"
        return self._yes_no("counts", yes, because=because, number=str(number), things=group.text)

    def _comes_before(self, yes: bool) -> Question | None:
        clip = self.clip
        if clip.cuts or len(clip.events) < 2:
            return None
        first, second = sorted(self.rng.choice(len(clip.events), 2, replace=False).tolist())
        if not yes:
            first, second = second, first
        one, two = clip.events[first], clip.events[second]
        other = phrasing.describe_event(clip, two).text
        return self._yes_no(
            "does",
            yes,
            because=self.read_events(),
            happen=f"{phrasing.describe_event(clip, one, infinitive=True)} before {other}",
            event=f"{phrasing.describe_event(clip, one)} before {other}",
        )

    def _yes_no(
        self,
        key: str,
        yes: bool,
        *,
        because: Phrase | None = None,
        by: Reference | None = None,
        **slots: Any,
    ) -> Question:
        answer = "yes" if yes else "no"
        asked = Phrase(f" {answer}").mark("asked")
        taught = because + ", so" + asked if because else Phrase(answer).mark("asked")
        return self._make("yes_no", key, answer, taught=taught, by=by, **slots)

    def _about(
        self, thing: Thing, name: Reference | None, kind: QuestionType, key: str, answer: str
    ) -> Question | None:
        """A question about the thing of this name, if it has one."""
        if name is None:
            return None
        if key == "new_colour":
            taught = phrasing.state_attribute(name.text, key, answer)
            if name.by == "looks":
                taught = taught.mark("thing", self.clip.things.index(thing))
        elif name.by != "looks" and kind in ("colour", "shape"):  # its name says it already
            taught = phrasing.list_things(self.clip, [thing])
            if kind == "colour":
                taught = taught.mark("asked")
                return self._make(kind, key, answer, taught=taught, by=name, thing=name.text)
            taught = taught.mark_end(answer, "value")
        else:
            taught = self.state(thing, answer_name(thing, name), key, answer)
        taught = taught.mark_end(f" {answer}", "asked")
        return self._make(kind, key, answer, taught=taught, by=name, thing=name.text)

    def _make(
        self,
        kind: QuestionType,
        key: str,
        answer: str,
        *,
        taught: Phrase,
        tolerance: float | None = None,
        by: Reference | None = None,
        **slots: str,
    ) -> Question:
        text = self._wording(QUESTIONS[key] if key in QUESTIONS else YES_NO[key]).format(**slots)
        return Question(
            kind,
            text[0].upper() + text[1:],
            answer,
            taught.text,
            taught.spans,
            tolerance=tolerance,
            held_out=self.held_out,
            by_position=by is not None and by.by == "position",
        )

    def _wording(self, wordings: Sequence[str]) -> str:
        allowed = wordings[-HELD_OUT:] if self.held_out else wordings[:-HELD_OUT]
        return allowed[int(self.rng.integers(len(allowed)))]


def ask_about(
    clip: SyntheticClip,
    rng: np.random.Generator,
    *,
    count: int,
    frame_times: Sequence[float],
    frame_period: float,
    types: Sequence[QuestionType] = QUESTION_TYPES,
    held_out_share: float = 0.0,
    indirect: float | None = None,
    misplaced: float = 0.0,
) -> list[Question]:
    """Up to `count` different questions about a clip, their types in turn from a random start."""
    asked: dict[str, Question] = {}
    order = rng.permutation(len(types))
    for turn in range(3 * count):
        if len(asked) == count:
            break
        held_out = bool(rng.random() < held_out_share)
        asker = Asker(clip, rng, frame_times=frame_times, frame_period=frame_period,
                      held_out=held_out, indirect=indirect, misplaced=misplaced)  # fmt: skip
        question = asker.ask(types[order[turn % len(types)]])
        if question is not None:
            asked.setdefault(question.text, question)
    return list(asked.values())
