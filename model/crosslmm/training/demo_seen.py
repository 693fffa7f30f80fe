"""What every merged token of a clip should know: the demo's dense lesson in time.

As with the encoder's patches, what is hard to learn from answers is quick to learn where it happens:
each visual token is told, half-way up the language model, which frame it is of, what moves through
its cell and how, where that was and what colour it had a frame ago, what is next to it, what has just
happened there and to what, and in the first frame whether it is the outermost thing. The text then has
only to look it up. The heads are thrown away.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosslmm.synthetic.scene import FRAMES_MEANT, Clip
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, COLOURS, GLYPHS, MOTIONS, SHAPES

IGNORED = -100
NEWS = ("none", "appears", "disappears", "turns", "meets", "passes", "cut")
SEEN = {
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "glyph": len(GLYPHS),
    "motion": len(MOTIONS),
    "news": len(NEWS),
    "frame": FRAMES_MEANT,
    "across": 3,
    "down": 3,
    # A frame ago: not there, or in which of the nine cells around; and its colour then.
    "before": 10,
    "colour_before": len(COLOURS),
    # The nearest other thing: what it is, and whether it is on the left.
    "near_colour": len(COLOURS),
    "near_shape": len(SHAPES),
    "near_left": 2,
    # Of what the news is about its first colour and its shape, and what it meets, passes or turns.
    "news_colour": len(COLOURS),
    "news_shape": len(SHAPES),
    "other_colour": len(COLOURS),
    "other_shape": len(SHAPES),
}
_SETTLED = 2  # frames after which a motion shows
_REPORTED = ("motion", "news", "down", "before", "near_left", "near_colour", "news_colour",
             "other_shape")  # fmt: skip
_WEIGHTS = {"news": 4.0}  # what the others lead to, in a few tokens only; 1 for the rest


def seen_in_cells(clip: Clip, moments: np.ndarray, side: int) -> dict[str, Tensor]:
    """For each frame and cell of a `side`-square grid the class of what has its centre there, IGNORED
    where nothing has: `(T, side²)` per kind in SEEN, and the index of the `thing` in the clip.
    `moments`: the frames' times, 0 to 1."""
    frames, cells = len(moments), side**2
    targets = {name: np.full((frames, cells), IGNORED) for name in SEEN}
    targets["news"][:] = 0
    targets["thing"] = np.full((frames, cells), IGNORED)
    targets["frame"][:FRAMES_MEANT] = np.arange(frames)[:FRAMES_MEANT, None]
    centres = np.clip(clip.centres(moments), 0, 0.999)
    grid = (centres * side).astype(int)  # (T, O, 2): columns and rows
    cell = grid[..., 1] * side + grid[..., 0]
    visible, colours = clip.visible(moments), clip.colours(moments)
    for index, thing in enumerate(clip.things):
        first = int(visible[:, index].argmax())
        for frame in np.flatnonzero(visible[:, index]):
            here = (frame, cell[frame, index])
            targets["thing"][here] = index
            targets["colour"][here] = colours[frame, index]
            targets["shape"][here] = SHAPES.index(thing.shape)
            targets["glyph"][here] = IGNORED if thing.glyph is None else GLYPHS.index(thing.glyph)
            settled = frame - first >= _SETTLED
            targets["motion"][here] = MOTIONS.index(thing.motion) if settled else IGNORED
            if frame > 0 and visible[frame - 1, index]:
                across, down = np.sign(grid[frame, index] - grid[frame - 1, index]) + 1
                targets["before"][here] = 1 + 3 * down + across
                targets["colour_before"][here] = colours[frame - 1, index]
            elif frame > 0:
                targets["before"][here] = 0
            others = [i for i in np.flatnonzero(visible[frame]) if i != index]
            if others:
                apart = np.abs(centres[frame, others] - centres[frame, index]).sum(axis=-1)
                near = others[int(apart.argmin())]
                targets["near_colour"][here] = colours[frame, near]
                targets["near_shape"][here] = SHAPES.index(clip.things[near].shape)
                targets["near_left"][here] = centres[frame, near, 0] < centres[frame, index, 0]
    there = np.flatnonzero(visible[0])
    for axis, name in enumerate(("across", "down")) if len(there) > 1 else ():
        places = centres[0, there, axis]
        outermost = np.where(places == places.min(), 0, np.where(places == places.max(), 2, 1))
        targets[name][0, cell[0, there]] = outermost
    for event in clip.events:
        shown = int(np.searchsorted(moments, event.time))
        if shown == frames:
            continue
        if event.kind == "cut":
            targets["news"][shown] = NEWS.index("cut")
            continue
        place = cell[shown - 1 if event.kind == "disappears" else shown, event.subject]
        subject, other = clip.things[event.subject], clip.things[event.other]
        targets["news"][shown, place] = NEWS.index(event.kind)
        targets["news_colour"][shown, place] = COLOUR_NAMES.index(subject.colour)
        targets["news_shape"][shown, place] = SHAPES.index(subject.shape)
        if subject.turns_to is not None and event.kind == "turns":
            targets["other_colour"][shown, place] = COLOUR_NAMES.index(subject.turns_to)
        if event.other >= 0:
            targets["other_colour"][shown, place] = COLOUR_NAMES.index(other.colour)
            targets["other_shape"][shown, place] = SHAPES.index(other.shape)
    return {name: torch.from_numpy(target) for name, target in targets.items()}


class SeenHeads(nn.Module):
    """Linear heads on visual tokens `(B, V, H)` against classes `(B, V)` of each kind in SEEN."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in SEEN.items()})
        self.register_buffer("news_weight", torch.tensor([0.05] + [1.0] * (len(NEWS) - 1)))

    def forward(self, states: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss, and how often what is in _REPORTED is right (news: other than none)."""
        states = self.norm(states)
        losses, right = [], {}
        for name, head in self.heads.items():
            logits, target = head(states).float().flatten(0, 1), truth[name].flatten()
            if not bool((target != IGNORED).any()):
                losses.append(0 * logits.sum())
                continue
            weight = cast(Tensor, self.news_weight) if name == "news" else None
            loss = F.cross_entropy(logits, target, weight, ignore_index=IGNORED)
            losses.append(_WEIGHTS.get(name, 1.0) * loss)
            if name in _REPORTED:
                counted = target > 0 if name == "news" else target != IGNORED
                hits = (logits.argmax(-1) == target)[counted]
                right[name] = (
                    hits.float().mean() if len(hits) else target.new_ones((), dtype=torch.float)
                )
        return torch.stack(losses).sum(), right


def batched(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of `(T, cells)` as `(B, T·cells)`, named `seen_…`."""
    return {f"seen_{name}": torch.stack([row[name].flatten() for row in rows]) for name in rows[0]}
