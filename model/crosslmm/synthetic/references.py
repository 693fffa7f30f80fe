"""Phrases for the things of a clip: for one alone (`the object marked K`), for some (`red objects`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crosslmm.synthetic.phrasing import DOES, name_thing
from crosslmm.synthetic.scenes import FRAMES_NEEDED, SyntheticClip, Thing
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, SHAPES, SIZES

_MARGIN = 0.13


@dataclass(frozen=True)
class Reference:
    """A phrase that picks out one thing, by its looks, its position or what it does."""

    text: str
    by: Literal["looks", "position", "action"]


@dataclass(frozen=True)
class Group:
    """Things with one colour, shape or size in common, or of None, all; `text`: `red objects`."""

    text: str
    value: str | None = None


def refer(
    clip: SyntheticClip,
    thing: Thing,
    rng: np.random.Generator,
    *,
    but: str,
    plain: bool = False,
    indirect: float | None = None,
) -> Reference | None:
    """A phrase that picks out `thing` alone and gives nothing away of its attribute `but`, None where
    there is none.

    - plain: by its looks only.
    - indirect: how often rather by position, motion or what happens to it, where that is possible;
      None for no preference.
    """
    options = _by_looks(clip, thing, but)
    if not plain:
        often = indirect is not None and rng.random() < indirect
        positions = often or rng.random() < 0.5 or not options
        others = _by_position(clip, thing) if positions else []
        others += _by_action(clip, thing, but)
        options = others if often and others else options + others
    return options[rng.integers(len(options))] if options else None


def answer_name(thing: Thing, reference: Reference) -> str:
    """What an answer calls a thing that the question refers to: the same, unless that says where it is
    or what it does; then its colour and shape are a step on the way."""
    return reference.text if reference.by == "looks" else name_thing(thing)


def draw_group(clip: SyntheticClip, rng: np.random.Generator) -> Group:
    """`objects`, `red objects`, `crosses` …: things that can be counted, maybe none."""
    options = [Group("objects"), Group("objects")]
    options += [_group_by_shape(thing.shape) for thing in clip.things]
    if not any(thing.turns_to for thing in clip.things):
        options += [group_by(thing.colour) for thing in clip.things]
        options += [group_by(str(rng.choice(COLOUR_NAMES)))]
    if all(thing.size for thing in clip.things):
        options += map(group_by, SIZES)
    options += [_group_by_shape(str(rng.choice(SHAPES)))]
    return options[rng.integers(len(options))]


def group_by(value: str) -> Group:
    """The objects of a colour or size."""
    return Group(f"{value} objects", value)


def _group_by_shape(shape: str) -> Group:
    return Group("crosses" if shape == "cross" else f"{shape}s", shape)


def find_members(clip: SyntheticClip, group: Group) -> list[Thing]:
    """The things of a group, by colour and shape."""
    things = sort_things(clip)
    return [t for t in things if group.value in (None, t.colour, t.shape, t.size)]


def sort_things(clip: SyntheticClip) -> list[Thing]:
    """All things by colour and shape: in a sorted list, what was said tells what comes next."""
    return sorted(clip.things, key=lambda t: (COLOUR_NAMES.index(t.colour), SHAPES.index(t.shape)))


def _alone(clip: SyntheticClip, matches: Callable[[Thing], bool]) -> bool:
    return sum(map(matches, clip.things)) == 1


def _by_looks(clip: SyntheticClip, thing: Thing, but: str) -> list[Reference]:
    """What picks `thing` out by attributes other than `but`."""
    said = []
    recolours = any(t.turns_to for t in clip.things)
    if but != "shape" and _alone(clip, lambda t: t.shape == thing.shape):
        said.append(f"the {thing.shape}")
    if but != "colour" and not recolours and _alone(clip, lambda t: t.colour == thing.colour):
        said.append(f"the {thing.colour} object")
    if but not in ("colour", "shape") and thing.turns_to is None:
        said.append(name_thing(thing))
    if but != "glyph" and thing.glyph is not None:
        said.append(f"the object marked {thing.glyph}")
    if but not in ("size", "shape") and thing.size is not None:
        same = (thing.size, thing.shape)
        if _alone(clip, lambda t: (t.size or thing.size, t.shape) == same):
            said.append(f"the {thing.size} {thing.shape}")
    return [Reference(text, "looks") for text in said]


def _by_position(clip: SyntheticClip, thing: Thing) -> list[Reference]:
    """Where it is at the start, where that is beyond doubt."""
    begun = [i for i, t in enumerate(clip.things) if t.scene == 0 and t.seen_from == 0]
    me = clip.things.index(thing)
    if me not in begun or thing.motion == "in a circle":
        return []
    # The first frame is seen a little after the start: the order must hold for both.
    centres = clip.centres(np.asarray([0.0, 0.5, 1.0]) / FRAMES_NEEDED)
    others = [i for i in begun if i != me]
    said = []
    for axis, low, high in ((0, "leftmost", "rightmost"), (1, "highest", "lowest")):
        mine = centres[:, me, axis]
        if others and (centres[:, others, axis] - mine[:, None] > _MARGIN).all():
            said.append(f"the {low} object at the start")
        if others and (mine[:, None] - centres[:, others, axis] > _MARGIN).all():
            said.append(f"the {high} object at the start")
    return [Reference(text, "position") for text in said]


def _by_action(clip: SyntheticClip, thing: Thing, but: str) -> list[Reference]:
    said = []
    moves = but != "motion" and thing.motion != "still"
    if moves and _alone(clip, lambda t: t.motion == thing.motion):
        said.append(f"the object that {DOES[thing.motion]}")
    for event in clip.events:
        kind = event.kind
        only = sum(e.kind == kind for e in clip.events) == 1
        if kind in ("appears", "disappears") and only and clip.things[event.subject] is thing:
            said.append(f"the object that {kind}")
    return [Reference(text, "action") for text in said]
