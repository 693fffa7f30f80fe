"""Single random images with a truth for every patch: what the vision encoder learns from.

A small encoder does not learn shapes and glyphs from captions in any affordable time; trained on what
covers each patch, it does within minutes (the part that SigLIP's pretraining plays elsewhere).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from crosslmm.synthetic.rendering import (
    BACKDROPS,
    Backdrops,
    Sprites,
    paint,
    paint_backdrops,
    simulate_camera,
)
from crosslmm.synthetic.vocabulary import COLOURS, DARK_INK, GLYPHS, SHAPES

MOST_OBJECTS = 8
UNKNOWN = -100
"""Target of a patch that is neither clearly covered nor clearly free; no loss is taken there."""

PALETTE = torch.tensor(list(COLOURS.values()))
INKS = torch.tensor([0.05 if name in DARK_INK else 0.97 for name in COLOURS])


@dataclass(frozen=True)
class PatchTruth:
    """What covers each patch, all `(F, patches)`; class 0 is the background where there is one."""

    colour: Tensor  # 0 background, then COLOURS
    shape: Tensor  # SHAPES; UNKNOWN on the background
    glyph: Tensor  # 0 none, then GLYPHS; UNKNOWN on the background
    position: Tensor  # (F, patches, 3): centre x and y of the object, log2 of its radius over 0.13
    covered: Tensor  # bool: an object covers the patch


def random_backdrops(count: int, generator: torch.Generator) -> Backdrops:
    """Muted backgrounds, dark or light, whose two tones lie close together."""

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return torch.rand(count, *size, generator=generator) * (high - low) + low

    light = uniform(0, 1) < 0.35
    tone = torch.where(light, uniform(0.72, 0.9), uniform(0.08, 0.42))
    first = (tone[:, None] + uniform(-0.05, 0.05, 3)).clamp(0, 1)
    second = (tone[:, None] + uniform(-0.12, 0.12)[:, None] + uniform(-0.05, 0.05, 3)).clamp(0, 1)
    return Backdrops(
        kind=torch.randint(len(BACKDROPS), (count,), generator=generator),
        first=first,
        second=second,
        angle=uniform(0, math.pi),
        frequency=uniform(2, 7),
        phase=uniform(0, 2 * math.pi),
    )


def random_images(
    count: int, *, image_size: int, patch_size: int, generator: torch.Generator
) -> tuple[Tensor, PatchTruth]:
    """Frames `(F, 3, S, S)` in -1..1, as the model takes them, and their truth."""

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return torch.rand(*size, generator=generator) * (high - low) + low

    size = (count, MOST_OBJECTS)
    cells = torch.rand(count, 9, generator=generator).argsort(1)[:, :MOST_OBJECTS]
    colour = torch.randint(len(COLOURS), size, generator=generator)
    glyph = torch.randint(-3, len(GLYPHS), size, generator=generator).clamp(min=-1)
    shade = uniform(-0.06, 0.06, *size, 3) + uniform(-0.04, 0.04, *size, 1)
    sprites = Sprites(
        x=(cells % 3) * 0.31 + 0.19 + uniform(-0.13, 0.13, *size),
        y=(cells // 3) * 0.31 + 0.19 + uniform(-0.13, 0.13, *size),
        radius=0.082 * (0.18 / 0.082) ** uniform(0, 1, *size),
        shape=torch.randint(len(SHAPES), size, generator=generator),
        glyph=glyph,
        colour=(PALETTE[colour] + shade).clamp(0, 1),
        ink=INKS[colour],
        visible=torch.arange(MOST_OBJECTS) < torch.randint(3, MOST_OBJECTS + 1, (count, 1),
                                                           generator=generator),
    )  # fmt: skip
    aspect = torch.where(uniform(0, 1, count) < 0.5, 1.0, 2 ** uniform(-0.45, 0.6, count))
    canvas = paint_backdrops(random_backdrops(count, generator), (image_size, image_size))
    frames, owner = paint(canvas, sprites, aspect)
    truth = _patch_truth(sprites, colour, owner, patch_size)
    return simulate_camera(frames, generator=generator).permute(0, 3, 1, 2) * 2 - 1, truth


def _patch_truth(sprites: Sprites, colour: Tensor, owner: Tensor, patch_size: int) -> PatchTruth:
    share = torch.stack(
        [F.avg_pool2d((owner == index).float(), patch_size) for index in range(colour.shape[1])], 1
    ).flatten(2)  # (F, O, patches)
    most, who = share.max(1)
    covered, free = most >= 0.2, share.sum(1) < 0.03

    def of(values: Tensor, *, otherwise: int) -> Tensor:
        return torch.where(covered, values.gather(1, who), otherwise)

    background = torch.where(free, 0, UNKNOWN)
    position = torch.stack([sprites.x, sprites.y, (sprites.radius / 0.13).log2()], -1)
    return PatchTruth(
        colour=torch.where(covered, (colour + 1).gather(1, who), background),
        shape=of(sprites.shape, otherwise=UNKNOWN),
        glyph=of(sprites.glyph + 1, otherwise=UNKNOWN),
        position=position.gather(1, who.unsqueeze(-1).expand(-1, -1, 3)),
        covered=covered,
    )
