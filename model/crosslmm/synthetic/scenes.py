"""Scenes with a ground truth: what is in a clip, where it is at every moment, and what happens when.

Time inside a clip runs from 0 to 1, whatever its length in seconds: what can be told from eight
frames of a two-second clip can be told from eight frames of a minute. Everything a question may ask
about is made to last longer than the gap between two of those frames, and nothing crosses anything
else except in the events that are about it, so that every question has one exact answer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from crosslmm.synthetic.seeds import Domain, derive_seed
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, GLYPHS, MOTIONS, SHAPES, SIZES

FRAMES_NEEDED = 8
"""Frames, spread evenly over the clip, that suffice to answer every question about it."""

EventKind = Literal["appears", "disappears", "turns", "meets", "passes", "cut"]
_STEPS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
_PLAIN_MOTIONS = ("still", "left", "right", "up", "down", "diagonally")
_FREE_MOTIONS = (*MOTIONS, "up", "down", "diagonally", "in a circle", "in a circle", "blinking")
"""What a thing without an event may do; what fits less often is drawn more often."""
_GROWTH = (0.085, 0.175)
_EDGE = 0.15
_TRIES = 24
_LAYOUTS = 6
_CHECKED = np.linspace(0, 1, 25)


@dataclass(frozen=True)
class Trajectory:
    """Where a thing is between `start` and `stop`; before and after, it rests at the ends."""

    x: float
    y: float
    dx: float = 0.0
    dy: float = 0.0
    start: float = 0.0
    stop: float = 1.0
    orbit: float = 0.0  # radius of a circle around (x, y), in short sides
    turns: float = 0.0
    phase: float = 0.0

    def at(self, times: np.ndarray, squeeze: tuple[float, float]) -> np.ndarray:
        """`(T, 2)` fractions of width and height; `squeeze`: one short side in such fractions."""
        progress = np.clip((times - self.start) / (self.stop - self.start), 0, 1)
        angle = self.phase + 2 * math.pi * self.turns * progress
        return np.stack(
            [
                self.x + self.dx * progress + self.orbit * squeeze[0] * np.cos(angle),
                self.y + self.dy * progress + self.orbit * squeeze[1] * np.sin(angle),
            ],
            axis=-1,
        )


@dataclass(frozen=True)
class Thing:
    """One object of a clip. `size` is None where it grows or shrinks; `glyph` None where unmarked."""

    colour: str
    shape: str
    size: str | None
    glyph: str | None
    motion: str
    path: Trajectory
    radius: tuple[float, float]  # at the beginning and the end of its motion
    seen_from: float = 0.0
    seen_until: float = 1.0
    scene: int = 0
    turns_at: float | None = None
    turns_to: str | None = None


@dataclass(frozen=True)
class Event:
    """`subject` and `other` index the clip's things; a cut has neither."""

    kind: EventKind
    time: float
    subject: int = -1
    other: int = -1


@dataclass(frozen=True)
class SyntheticClip:
    """One clip: `cuts` are the times at which a new scene begins; `aspect` is width over height."""

    things: tuple[Thing, ...]
    events: tuple[Event, ...]
    cuts: tuple[float, ...]
    duration: float
    aspect: float
    style_seed: int

    @property
    def squeeze(self) -> tuple[float, float]:
        """One short side of the frame, in fractions of its width and height."""
        return min(1.0, 1 / self.aspect), min(1.0, self.aspect)

    def scene_at(self, times: np.ndarray) -> np.ndarray:
        """Index of the scene on show, `(T,)`."""
        return np.searchsorted(np.asarray(self.cuts), times, side="right")

    def centres(self, times: np.ndarray) -> np.ndarray:
        """`(T, O, 2)`"""
        return np.stack([thing.path.at(times, self.squeeze) for thing in self.things], axis=1)

    def radii(self, times: np.ndarray) -> np.ndarray:
        """`(T, O)` in short sides."""
        columns = []
        for thing in self.things:
            path, (first, last) = thing.path, thing.radius
            progress = np.clip((times - path.start) / (path.stop - path.start), 0, 1)
            columns.append(first + (last - first) * progress)
        return np.stack(columns, axis=1)

    def visible(self, times: np.ndarray) -> np.ndarray:
        """`(T, O)` bool."""
        scenes = self.scene_at(times)
        columns = []
        for thing in self.things:
            seen = (times >= thing.seen_from) & (times < thing.seen_until) & (scenes == thing.scene)
            if thing.motion == "blinking":
                seen &= np.floor(times * 8) % 2 == 0
            columns.append(seen)
        return np.stack(columns, axis=1)

    def colours(self, times: np.ndarray) -> np.ndarray:
        """`(T, O)` indices into COLOURS."""
        columns = []
        for thing in self.things:
            first = COLOUR_NAMES.index(thing.colour)
            later = first if thing.turns_to is None else COLOUR_NAMES.index(thing.turns_to)
            moment = 2.0 if thing.turns_at is None else thing.turns_at
            columns.append(np.where(times < moment, first, later))
        return np.stack(columns, axis=1)


def make_clip(
    domain: Domain, seed: int, index: int, *, duration: float, aspect: float = 1.0
) -> SyntheticClip:
    """The `index`-th clip of a seed: the same for the same arguments on every machine."""
    rng = np.random.default_rng(derive_seed(domain, "clip", seed, index))
    cuts = _draw_cuts(rng, duration)
    while True:
        objects = int(rng.choice([1, 2, 3, 4, 5], p=[0.14, 0.28, 0.28, 0.18, 0.12]))
        moments = int(rng.choice(4, p=[0.14, 0.34, 0.34, 0.18]))
        tastes = rng.random(5)
        # A crowded layout may not fit at the first try; giving up at once would favour empty clips.
        for _ in range(_LAYOUTS):
            layout = _Layout(rng, tastes, aspect)
            if cuts:
                clip = _many_scenes(layout, cuts, duration)
            else:
                clip = _one_scene(layout, objects, moments, duration)
            if clip is not None:
                return clip


def _draw_cuts(rng: np.random.Generator, duration: float) -> tuple[float, ...]:
    """Scene changes, only in clips long enough for them, well inside a slice of the sampling."""
    if duration < 12 or rng.random() > 0.35:
        return ()
    slices = 2 if duration < 24 or rng.random() < 0.6 else 3
    jitter = rng.uniform(-0.04, 0.04, slices - 1)
    return tuple(float((i + 1) / slices + jitter[i]) for i in range(slices - 1))


def _identities(rng: np.random.Generator, count: int) -> list[tuple[str, str, str | None]]:
    """Colour, shape and glyph of so many things: no two share colour and shape, or a glyph."""
    few_colours = rng.permutation(len(COLOUR_NAMES))[: rng.integers(2, len(COLOUR_NAMES) + 1)]
    few_shapes = rng.permutation(len(SHAPES))[: rng.integers(2, len(SHAPES) + 1)]
    pairs = [(c, s) for c in few_colours for s in few_shapes]
    if len(pairs) < count:
        pairs = [(c, s) for c in range(len(COLOUR_NAMES)) for s in range(len(SHAPES))]
    glyphs = rng.permutation(len(GLYPHS))
    chosen = rng.permutation(len(pairs))[:count]
    return [
        (
            COLOUR_NAMES[pairs[c][0]],
            SHAPES[pairs[c][1]],
            GLYPHS[glyphs[i]] if rng.random() < 0.85 else None,
        )
        for i, c in enumerate(chosen)
    ]


def _draw_times(rng: np.random.Generator, count: int) -> list[float]:
    """Moments in different slices of the sampling, two frames or more from the clip's ends."""
    low, high, gap = 0.2, 0.78, 1.6 / FRAMES_NEEDED
    slack = high - low - gap * (count - 1)
    offsets = np.sort(rng.uniform(0, slack, count))
    return [float(low + offset + gap * i) for i, offset in enumerate(offsets)]


def _one_scene(
    layout: "_Layout", count: int, moments: int, duration: float
) -> SyntheticClip | None:
    rng = layout.rng
    layout.identities = _identities(rng, count)
    free = list(range(count))
    events: list[Event] = []
    for time in _draw_times(rng, moments):
        kinds: list[EventKind] = ["appears", "disappears", "turns"]
        if len(free) >= 2 and not any(event.other >= 0 for event in events):
            kinds += ["meets", "passes", "passes"]
        if not free:
            break
        kind = kinds[rng.integers(len(kinds))]
        if kind == "appears" and len(free) == count == 1:
            kind = "turns"
        other = free.pop() if kind in ("meets", "passes") else -1
        events.append(Event(kind, time, free.pop(), other))
    # The pairs first: they need the most room.
    for event in sorted(events, key=lambda event: event.other < 0):
        if not layout.stage(event):
            return None
    for index in free:
        if not layout.place(index, _FREE_MOTIONS):
            return None
    things = tuple(layout.things[index] for index in range(count))
    return SyntheticClip(
        things, tuple(events), (), duration, layout.aspect, int(rng.integers(2**31))
    )


def _many_scenes(
    layout: "_Layout", cuts: tuple[float, ...], duration: float
) -> SyntheticClip | None:
    rng = layout.rng
    per_scene = [int(rng.integers(1, 3)) for _ in range(len(cuts) + 1)]
    per_scene[0] -= int(sum(per_scene) == 6)
    layout.identities = _identities(rng, sum(per_scene))
    motions = [motion for motion in _FREE_MOTIONS if motion not in ("in a circle", "blinking")]
    bounds = [0.0, *cuts, 1.0]
    scenes = [scene for scene, count in enumerate(per_scene) for _ in range(count)]
    for index, scene in enumerate(scenes):
        span = (bounds[scene], bounds[scene + 1])
        if not layout.place(index, motions, span=span, scene=scene):
            return None
    things = tuple(layout.things[index] for index in range(len(scenes)))
    events = tuple(Event("cut", cut) for cut in cuts)
    return SyntheticClip(things, events, cuts, duration, layout.aspect, int(rng.integers(2**31)))


class _Layout:
    """Places things in one clip so that each has room, redrawing what does not fit."""

    def __init__(self, rng: np.random.Generator, tastes: np.ndarray, aspect: float):
        """`tastes`: what chooses each thing's motion, kept when a layout is retried: motions that need
        much room would be rare otherwise."""
        self.rng, self.tastes, self.aspect = rng, tastes, aspect
        self.squeeze = np.asarray([min(1.0, 1 / aspect), min(1.0, aspect)])
        self.identities: list[tuple[str, str, str | None]] = []
        self.things: dict[int, Thing] = {}
        self._tracks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def stage(self, event: Event) -> bool:
        """Place the thing or the two things that an event happens to; False if there is no room."""
        if event.other >= 0:
            return self._stage_pair(event)
        span = {"appears": (event.time, 1.0), "disappears": (0.0, event.time)}.get(event.kind)
        if span is not None:
            return self.place(event.subject, _PLAIN_MOTIONS, span=span)
        if not self.place(event.subject, _PLAIN_MOTIONS):
            return False
        thing = self.things[event.subject]
        taken = {(colour, shape) for colour, shape, _ in self.identities}
        taken |= {(t.turns_to, t.shape) for t in self.things.values() if t.turns_to}
        colours = [colour for colour in COLOUR_NAMES if (colour, thing.shape) not in taken]
        self.things[event.subject] = replace(
            thing, turns_at=event.time, turns_to=colours[self.rng.integers(len(colours))]
        )
        return True

    def place(
        self,
        index: int,
        motions: Sequence[str],
        *,
        span: tuple[float, float] = (0.0, 1.0),
        scene: int = 0,
    ) -> bool:
        """A thing with a path that stays inside the frame and keeps clear of the others."""
        colour, shape, glyph = self.identities[index]
        motion = motions[int(self.tastes[index] * len(motions))]
        for _ in range(_TRIES):
            size: str | None = ("small", "large")[self.rng.integers(2)]
            radius = (SIZES[str(size)],) * 2
            if motion in ("growing", "shrinking"):
                size = None
                radius = _GROWTH if motion == "growing" else _GROWTH[::-1]
            path = _draw_path(self.rng, self.squeeze, motion, span)
            thing = Thing(colour, shape, size, glyph, motion, path, radius, *span, scene)
            if self._add({index: thing}):
                return True
        return False

    def _stage_pair(self, event: Event) -> bool:
        """One thing rests, the other comes along a row: to it and stays, or past it."""
        rng = self.rng
        for _ in range(2 * _TRIES):
            sizes = [("small", "large")[rng.integers(2)] for _ in range(2)]
            reach = SIZES[sizes[0]] + SIZES[sizes[1]]
            sign = int(rng.choice([-1, 1]))
            x, y = rng.uniform(0.3, 0.7), rng.uniform(_EDGE, 1 - _EDGE)
            if event.kind == "meets":
                dx = sign * rng.uniform(0.3, 0.5)
                start_x = x - sign * reach * 0.97 * self.squeeze[0] - dx
                start_y, stop = y, event.time
            else:
                dx, stop = sign * rng.uniform(0.5, 0.7), 1.0
                start_x = x - dx * event.time
                start_y = y + rng.choice([-1, 1]) * reach * rng.uniform(0.85, 1) * self.squeeze[1]
            if min(start_x, start_x + dx, start_y) < 0.11:
                continue
            if max(start_x, start_x + dx, start_y) > 0.89:
                continue
            motion = "right" if sign > 0 else "left"
            mover, rest = event.subject, event.other
            paths = {
                mover: (
                    motion,
                    Trajectory(float(start_x), float(start_y), float(dx), 0.0, 0.0, stop),
                ),
                rest: ("still", Trajectory(float(x), float(y))),
            }
            pair = {
                index: Thing(*self.identities[index][:2], size, self.identities[index][2],
                             motion, path, (SIZES[size],) * 2)
                for (index, (motion, path)), size in zip(paths.items(), sizes, strict=True)
            }  # fmt: skip
            if self._add(pair):
                return True
        return False

    def _add(self, new: dict[int, Thing]) -> bool:
        """Add things if they keep clear of those placed before, as long as both are visible."""
        tracks = []
        for thing in new.values():
            centres = thing.path.at(_CHECKED, (self.squeeze[0], self.squeeze[1])) / self.squeeze
            path = thing.path
            progress = np.clip((_CHECKED - path.start) / (path.stop - path.start), 0, 1)
            radii = thing.radius[0] + (thing.radius[1] - thing.radius[0]) * progress
            there = (thing.seen_from <= _CHECKED) & (thing.seen_until >= _CHECKED)
            tracks.append((centres, radii, there))
            for other_centres, other_radii, other_there in self._tracks:
                apart = other_centres - centres
                reach = 1.12 * (radii + other_radii)
                near = apart[:, 0] ** 2 + apart[:, 1] ** 2 < reach**2
                if (near & there & other_there).any():
                    return False
        self._tracks += tracks
        self.things |= new
        return True


def _draw_path(
    rng: np.random.Generator, squeeze: np.ndarray, motion: str, span: tuple[float, float]
) -> Trajectory:
    x, y = rng.uniform(_EDGE, 1 - _EDGE, 2)
    if motion in _STEPS or motion == "diagonally":
        if motion == "diagonally":
            signs = rng.choice([-1, 1], 2)
            step = signs * rng.uniform(0.32, 0.5) * rng.uniform(0.85, 1.0, 2)
        else:
            step = np.asarray(_STEPS[motion]) * rng.uniform(0.36, 0.65)
        # The start is drawn where all of the path fits.
        low = np.maximum(_EDGE, _EDGE - step)
        high = np.minimum(1 - _EDGE, 1 - _EDGE - step)
        x, y = rng.uniform(low, high)
        return Trajectory(float(x), float(y), float(step[0]), float(step[1]), *span)
    if motion == "in a circle":
        orbit = rng.uniform(0.12, 0.17)
        room_x, room_y = (_EDGE + orbit * part for part in squeeze)
        return Trajectory(
            float(rng.uniform(room_x, 1 - room_x)), float(rng.uniform(room_y, 1 - room_y)),
            start=span[0], stop=span[1], orbit=float(orbit),
            turns=float(rng.choice([-1, 1]) * rng.uniform(1.0, 1.7)),
            phase=float(rng.uniform(0, 2 * math.pi)),
        )  # fmt: skip
    return Trajectory(float(x), float(y), start=span[0], stop=span[1])
