"""Says what is in a clip: names, lists, statements, conclusions."""

from collections.abc import Sequence

import numpy as np

from crosslmm.synthetic import phrasing
from crosslmm.synthetic.phrasing import DOES
from crosslmm.synthetic.references import Group, Reference, find_members, refer, sort_things
from crosslmm.synthetic.scenes import FRAMES_NEEDED, Event, SyntheticClip, Thing
from crosslmm.synthetic.spans import Phrase
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, GLYPHS, SHAPES, SIZES


class Narrator:
    """Answers and parts of them about one clip.

    - `frame_times`: of the frames shown, in seconds.
    - `indirect`: see `refer`.
    - `misplaced`: the share of answers, told frame by frame, in which all events are said some frames
      early or late, as a model may say them: see `describe_frames`.
    """

    def __init__(
        self,
        clip: SyntheticClip,
        rng: np.random.Generator,
        *,
        frame_times: Sequence[float],
        indirect: float | None = None,
        misplaced: float = 0.0,
    ):
        self.clip, self.rng = clip, rng
        self.frame_times, self.indirect, self.misplaced = frame_times, indirect, misplaced

    def state(self, thing: Thing, name: str, key: str, value: str) -> Phrase:
        said = phrasing.state_attribute(name, key, value)
        return said.mark("thing", self.clip.things.index(thing))

    def read_events(self) -> Phrase:
        """All events in order, after what happens frame by frame."""
        return self.conclude(phrasing.describe_events(self.clip)).drop("asked")

    def conclude(self, end: str, said_at: Sequence[int] | None = None) -> Phrase:
        """What follows from what happens frame by frame, after that. `said_at`: see `place_events`."""
        frames = phrasing.describe_frames(
            self.clip, self.frame_times, said_at or self.place_events()
        )
        return frames + ", so" + Phrase(f" {end}").mark("asked")

    def place_events(self) -> list[int]:
        """For each event the frame at which an answer says it, in the order of the events."""
        frames = phrasing.first_frames(self.clip, self.frame_times)
        if not self.misplaced or self.rng.random() >= self.misplaced:
            return frames
        # Less than what lies between two events, so that none overtakes another.
        most = len(self.frame_times) // (2 * FRAMES_NEEDED) + 1
        steps = self.rng.choice([-1, 1]) * self.rng.integers(1, most + 1, len(frames))
        return np.clip(frames + steps, 0, len(self.frame_times) - 1).tolist()

    def pick_thing(self) -> Thing:
        return self.clip.things[self.rng.integers(len(self.clip.things))]

    def refer_to(self, thing: Thing, *, but: str, plain: bool = False) -> Reference | None:
        return refer(self.clip, thing, self.rng, but=but, plain=plain, indirect=self.indirect)

    def list_group(self, group: Group) -> Phrase:
        """The things of a group, after all things where it is a part of them: finding them and choosing
        among them are steps of their own."""
        clip, sizes = self.clip, group.value in SIZES
        everything = phrasing.list_things(clip, sort_things(clip), sizes=sizes)
        if group.value is None:
            return everything
        members = phrasing.list_things(clip, find_members(clip, group), sizes=sizes)
        return everything + f"; {group.text}: " + members

    def list_alternatives(self, kind: str) -> list[str]:
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
            names = [phrasing.name_thing(thing) for thing in clip.things]
            colours, shapes = self.rng.permutation(COLOUR_NAMES), self.rng.permutation(SHAPES)
            extra = [f"the {c} {s}" for c, s in zip(colours, shapes, strict=False)]
            return list(dict.fromkeys([*names, *extra]))[:5]
        said = [phrasing.describe_event(clip, event).text for event in clip.events]
        for index in range(len(clip.things)):
            for kind in ("appears", "disappears"):
                said.append(phrasing.describe_event(clip, Event(kind, 0.0, index)).text)
        return list(dict.fromkeys(said))
