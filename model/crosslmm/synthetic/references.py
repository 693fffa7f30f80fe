"""Phrases for the things of a clip: for one alone (`the object marked K`), for some (`red objects`)."""

from collections.abc import Callable

import numpy as np

from crosslmm.synthetic.phrasing import DOES, named
from crosslmm.synthetic.scenes import FRAMES_MEANT, Clip, Thing
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, SHAPES

_MARGIN = 0.13


def refer(
    clip: Clip,
    thing: Thing,
    rng: np.random.Generator,
    *,
    but: str,
    plain: bool = False,
    roundabout: float | None = None,
) -> str | None:
    """A phrase that picks out `thing` alone and gives nothing away of its attribute `but`, None where
    there is none.

    - plain: by its looks only.
    - roundabout: how often rather by place, motion or what happens to it, where it can be; as it
      comes if None.
    """
    options = by_looks(clip, thing, but=but)
    if not plain:
        often = roundabout is not None and rng.random() < roundabout
        places = often or rng.random() < 0.5 or not options
        others = _by_place(clip, thing) if places else []
        others += _by_doing(clip, thing, but)
        options = others if often and others else options + others
    return options[rng.integers(len(options))] if options else None


def called(thing: Thing, reference: str) -> str:
    """What an answer calls a thing that the question calls `reference`: the same, unless that says
    where it is or what it does; then its colour and shape are a step on the way."""
    roundabout = any(part in reference for part in (" that ", "est object", "most object"))
    return named(thing) if roundabout else reference


def draw_group(clip: Clip, rng: np.random.Generator) -> str:
    """`objects`, `red objects`, `crosses` …: things that can be told and counted, maybe none."""
    options = ["objects", "objects"]
    options += [_plural(thing.shape) for thing in clip.things]
    if not any(thing.turns_to for thing in clip.things):
        options += [f"{thing.colour} objects" for thing in clip.things]
        options += [f"{rng.choice(COLOUR_NAMES)} objects"]
    if all(thing.size for thing in clip.things):
        options += ["small objects", "large objects"]
    options += [_plural(str(rng.choice(SHAPES)))]
    return options[rng.integers(len(options))]


def members(clip: Clip, group: str) -> list[Thing]:
    """The things of a group, by colour and shape."""
    word = "cross" if group == "crosses" else group.removesuffix("s").removesuffix(" object")
    return [
        thing
        for thing in in_order(clip)
        if word in ("object", thing.colour, thing.shape, thing.size)
    ]


def in_order(clip: Clip) -> list[Thing]:
    """All things by colour and shape: in a list so ordered, what was said tells what comes next."""
    return sorted(clip.things, key=lambda t: (COLOUR_NAMES.index(t.colour), SHAPES.index(t.shape)))


def _plural(shape: str) -> str:
    return "crosses" if shape == "cross" else f"{shape}s"


def _alone(clip: Clip, matches: Callable[[Thing], bool]) -> bool:
    return sum(map(matches, clip.things)) == 1


def by_looks(clip: Clip, thing: Thing, *, but: str = "") -> list[str]:
    """What picks `thing` out by attributes other than `but`."""
    said = []
    recolours = any(t.turns_to for t in clip.things)
    if but != "shape" and _alone(clip, lambda t: t.shape == thing.shape):
        said.append(f"the {thing.shape}")
    if but != "colour" and not recolours and _alone(clip, lambda t: t.colour == thing.colour):
        said.append(f"the {thing.colour} object")
    if but not in ("colour", "shape") and thing.turns_to is None:
        said.append(named(thing))
    if but != "glyph" and thing.glyph is not None:
        said.append(f"the object marked {thing.glyph}")
    if but not in ("size", "shape") and thing.size is not None:
        same = (thing.size, thing.shape)
        if _alone(clip, lambda t: (t.size or thing.size, t.shape) == same):
            said.append(f"the {thing.size} {thing.shape}")
    return said


def _by_place(clip: Clip, thing: Thing) -> list[str]:
    """Where it is at the start, where that is beyond doubt."""
    begun = [i for i, t in enumerate(clip.things) if t.scene == 0 and t.seen_from == 0]
    me = clip.things.index(thing)
    if me not in begun or thing.motion == "in a circle":
        return []
    # The first frame is seen a little after the start: the order must hold for both.
    places = clip.centres(np.asarray([0.0, 0.5, 1.0]) / FRAMES_MEANT)
    others = [i for i in begun if i != me]
    said = []
    for axis, low, high in ((0, "leftmost", "rightmost"), (1, "highest", "lowest")):
        mine = places[:, me, axis]
        if others and (places[:, others, axis] - mine[:, None] > _MARGIN).all():
            said.append(f"the {low} object at the start")
        if others and (mine[:, None] - places[:, others, axis] > _MARGIN).all():
            said.append(f"the {high} object at the start")
    return said


def _by_doing(clip: Clip, thing: Thing, but: str) -> list[str]:
    said = []
    moves = but != "motion" and thing.motion != "still"
    if moves and _alone(clip, lambda t: t.motion == thing.motion):
        said.append(f"the object that {DOES[thing.motion]}")
    for event in clip.events:
        kind = event.kind
        only = sum(e.kind == kind for e in clip.events) == 1
        if kind in ("appears", "disappears") and only and clip.things[event.subject] is thing:
            said.append(f"the object that {kind}")
    return said
