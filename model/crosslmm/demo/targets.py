"""Dense targets: what every merged token of a clip should know.

As with the encoder's patches, what is hard to learn from answers is quick to learn where it happens:
two thirds up the language model, heads predict from each visual token which frame it is of, what moves
through its cell and how, where that was and what colour it had a frame ago, what is next to it, what
has just happened there and to what, and in the first frame whether it is the outermost thing. The text
then has only to look it up. The heads are thrown away.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosslmm.demo.optimizer import OutputHead
from crosslmm.synthetic.scenes import FRAMES_NEEDED, SyntheticClip
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, COLOURS, GLYPHS, MOTIONS, SHAPES

IGNORED = -100
EVENTS = ("none", "appears", "disappears", "turns", "meets", "passes", "cut")
CLASSES = {
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "glyph": len(GLYPHS),
    "motion": len(MOTIONS),
    "event": len(EVENTS),
    "frame": FRAMES_NEEDED,
    "across": 3,
    "down": 3,
    # A frame ago: not there, or in which of the nine cells around; and its colour then.
    "before": 10,
    "colour_before": len(COLOURS),
    # The nearest other thing: what it is, and whether it is on the left.
    "near_colour": len(COLOURS),
    "near_shape": len(SHAPES),
    "near_left": 2,
    # Of what the event happens to its first colour and its shape, and what it meets, passes or turns.
    "event_colour": len(COLOURS),
    "event_shape": len(SHAPES),
    "other_colour": len(COLOURS),
    "other_shape": len(SHAPES),
}
_SETTLED = 2  # frames after which a motion shows
_REPORTED = ("motion", "event", "down", "before", "near_left", "near_colour", "event_colour",
             "other_shape")  # fmt: skip
_WEIGHTS = {"event": 4.0}  # what the others lead to, in a few tokens only; 1 for the rest


def dense_targets(clip: SyntheticClip, moments: np.ndarray, side: int) -> dict[str, Tensor]:
    """For each frame and cell of a `side`-square grid the class of what has its centre there, IGNORED
    where nothing has: `(T, side²)` per kind in CLASSES, and the index of the `thing` in the clip.
    `moments`: the frames' times, 0 to 1."""
    grid = _TargetGrid(clip, moments, side)
    targets = {name: np.full((len(moments), side**2), IGNORED) for name in (*CLASSES, "thing")}
    targets["frame"][:FRAMES_NEEDED] = np.arange(len(moments))[:FRAMES_NEEDED, None]
    for index in range(len(clip.things)):
        grid.set_thing(index, targets)
    grid.set_outermost(targets)
    grid.set_events(targets)
    return {name: torch.from_numpy(target) for name, target in targets.items()}


class _TargetGrid:
    """Where the things of a clip are in some of its frames; each method fills in targets."""

    def __init__(self, clip: SyntheticClip, moments: np.ndarray, side: int):
        self.clip, self.moments = clip, moments
        self.centres = np.clip(clip.centres(moments), 0, 0.999)  # (T, O, 2)
        self.grid = (self.centres * side).astype(int)  # columns and rows
        self.cell = self.grid[..., 1] * side + self.grid[..., 0]  # (T, O)
        self.visible, self.colours = clip.visible(moments), clip.colours(moments)

    def set_thing(self, index: int, targets: dict[str, np.ndarray]) -> None:
        """What it is, what it does, what it was and what is next to it."""
        thing, visible = self.clip.things[index], self.visible[:, index]
        first = int(visible.argmax())
        for frame in np.flatnonzero(visible):
            here = (frame, self.cell[frame, index])
            targets["thing"][here] = index
            targets["colour"][here] = self.colours[frame, index]
            targets["shape"][here] = SHAPES.index(thing.shape)
            targets["glyph"][here] = IGNORED if thing.glyph is None else GLYPHS.index(thing.glyph)
            settled = frame - first >= _SETTLED
            targets["motion"][here] = MOTIONS.index(thing.motion) if settled else IGNORED
            if frame > 0 and visible[frame - 1]:
                step = self.grid[frame, index] - self.grid[frame - 1, index]
                across, down = np.sign(step) + 1
                targets["before"][here] = 1 + 3 * down + across
                targets["colour_before"][here] = self.colours[frame - 1, index]
            elif frame > 0:
                targets["before"][here] = 0
            others = [i for i in np.flatnonzero(self.visible[frame]) if i != index]
            if others:
                apart = self.centres[frame, others] - self.centres[frame, index]
                nearest = int(np.abs(apart).sum(axis=-1).argmin())
                near = others[nearest]
                targets["near_colour"][here] = self.colours[frame, near]
                targets["near_shape"][here] = SHAPES.index(self.clip.things[near].shape)
                targets["near_left"][here] = apart[nearest, 0] < 0

    def set_outermost(self, targets: dict[str, np.ndarray]) -> None:
        """In the first frame, where several things are there."""
        there = np.flatnonzero(self.visible[0])
        for axis, name in enumerate(("across", "down")) if len(there) > 1 else ():
            centres = self.centres[0, there, axis]
            outermost = np.where(
                centres == centres.min(), 0, np.where(centres == centres.max(), 2, 1)
            )
            targets[name][0, self.cell[0, there]] = outermost

    def set_events(self, targets: dict[str, np.ndarray]) -> None:
        """What has just happened; of what disappears, where it was."""
        targets["event"][:] = EVENTS.index("none")
        for event in self.clip.events:
            frame = int(np.searchsorted(self.moments, event.time))
            if not 0 < frame < len(self.moments):
                continue  # no frame before it, or none that shows it
            if event.kind == "cut":
                targets["event"][frame] = EVENTS.index("cut")
                continue
            shown = frame - 1 if event.kind == "disappears" else frame
            here = (frame, self.cell[shown, event.subject])
            subject, other = self.clip.things[event.subject], self.clip.things[event.other]
            targets["event"][here] = EVENTS.index(event.kind)
            targets["event_colour"][here] = COLOUR_NAMES.index(subject.colour)
            targets["event_shape"][here] = SHAPES.index(subject.shape)
            if subject.turns_to is not None and event.kind == "turns":
                targets["other_colour"][here] = COLOUR_NAMES.index(subject.turns_to)
            if event.other >= 0:
                targets["other_colour"][here] = COLOUR_NAMES.index(other.colour)
                targets["other_shape"][here] = SHAPES.index(other.shape)


class DenseHeads(nn.Module):
    """Linear heads on visual tokens `(B, V, H)` against classes `(B, V)` of each kind in CLASSES."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.heads = nn.ModuleDict({name: OutputHead(width, n) for name, n in CLASSES.items()})
        self.register_buffer("event_weight", torch.tensor([0.05] + [1.0] * (len(EVENTS) - 1)))

    def forward(self, states: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss, and how often what is in _REPORTED is right (events: other than none)."""
        states = self.norm(states)
        losses, right = [], {}
        for name, head in self.heads.items():
            logits, target = head(states).float().flatten(0, 1), truth[name].flatten()
            if not bool((target != IGNORED).any()):
                losses.append(0 * logits.sum())
                continue
            weight = cast(Tensor, self.event_weight) if name == "event" else None
            loss = F.cross_entropy(logits, target, weight, ignore_index=IGNORED)
            losses.append(_WEIGHTS.get(name, 1.0) * loss)
            if name in _REPORTED:
                counted = target > 0 if name == "event" else target != IGNORED
                hits = (logits.argmax(-1) == target)[counted]
                right[name] = (
                    hits.float().mean() if len(hits) else target.new_ones((), dtype=torch.float)
                )
        return torch.stack(losses).sum(), right


def stack_targets(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of `(T, cells)` as `(B, T·cells)`, named `dense_…`."""
    return {f"dense_{name}": torch.stack([row[name].flatten() for row in rows]) for name in rows[0]}
