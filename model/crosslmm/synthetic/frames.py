"""Clips as frames: scenes through the renderer, many frames of many clips at once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from crosslmm.synthetic.images import INKS, PALETTE, random_backdrops
from crosslmm.synthetic.rendering import Backdrops, Sprites, paint, paint_backdrops
from crosslmm.synthetic.scenes import SyntheticClip
from crosslmm.synthetic.vocabulary import GLYPHS, SHAPES


def render_clips(
    clips: Sequence[SyntheticClip], times: Sequence[np.ndarray], size: tuple[int, int]
) -> list[Tensor]:
    """The frames of each clip at its own times (0 to 1), `(T, H, W, 3)` float in 0..1, no noise."""
    counts = [len(moments) for moments in times]
    sprites, backdrops = zip(*map(_sprites, clips, times), strict=True)
    most = max(part.x.shape[1] for part in sprites)
    joined = Sprites(
        **{name: torch.cat([_pad_objects(vars(part)[name], most) for part in sprites])
           for name in vars(sprites[0])}
    )  # fmt: skip
    painted: list[Tensor] = []
    which: list[Tensor] = []
    for clip, moments, styles in zip(clips, times, backdrops, strict=True):
        scenes = torch.from_numpy(clip.scene_at(moments))
        which.append(scenes + sum(len(done) for done in painted))
        painted.append(paint_backdrops(styles, size))
    canvas = torch.cat(painted)[torch.cat(which)]
    aspect = torch.tensor([clip.aspect for clip in clips]).repeat_interleave(torch.tensor(counts))
    frames, _ = paint(canvas, joined, aspect)
    return list(frames.split(counts))


def _sprites(clip: SyntheticClip, times: np.ndarray) -> tuple[Sprites, Backdrops]:
    """One clip's objects at these times, and the background of each of its scenes."""
    generator = torch.Generator().manual_seed(clip.style_seed)
    backdrops = random_backdrops(len(clip.cuts) + 1, generator)
    count = len(clip.things)
    shade = (torch.rand(count, 3, generator=generator) - 0.5) * 0.1
    colour = torch.from_numpy(clip.colours(times))
    centres = torch.from_numpy(clip.centres(times)).float()

    def each(values: list[int]) -> Tensor:
        return torch.tensor(values).expand(len(times), count)

    sprites = Sprites(
        x=centres[..., 0],
        y=centres[..., 1],
        radius=torch.from_numpy(clip.radii(times)).float(),
        shape=each([SHAPES.index(thing.shape) for thing in clip.things]),
        glyph=each([-1 if t.glyph is None else GLYPHS.index(t.glyph) for t in clip.things]),
        colour=(PALETTE[colour] + shade).clamp(0, 1),
        ink=INKS[colour],
        visible=torch.from_numpy(clip.visible(times)),
    )
    return sprites, backdrops


def _pad_objects(values: Tensor, objects: int) -> Tensor:
    """`(F, O, ...)` padded with zeros (invisible) to so many objects."""
    missing = objects - values.shape[1]
    return torch.cat([values, values.new_zeros(len(values), missing, *values.shape[2:])], dim=1)
