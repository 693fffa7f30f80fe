"""Frames from object states, in torch operators: batched over frames, the same on CPU and GPU.

An object is painted into a crop around its centre, not over the whole frame, which makes a 96-pixel
frame with five objects cost a fifth of a millisecond.

Legend: F frames, O objects, H and W pixels. Positions are fractions of the frame's width and height
(0 left or top); radii are in units of the shorter side of the *source* frame, whose aspect ratio
may differ from the rendered one's (a 4:3 clip squashed to a square, as the model sees it).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from crosslmm.synthetic.shapes import EXTENT, glyph_distance, shape_distance


@dataclass(frozen=True)
class Sprites:
    """The objects on every frame; all fields are `(F, O)` or `(F, O, 3)`. Later objects lie in front."""

    x: Tensor
    y: Tensor
    radius: Tensor
    shape: Tensor
    glyph: Tensor  # -1: none
    colour: Tensor  # (F, O, 3) in 0..1
    ink: Tensor  # (F, O) grey level of the glyph
    visible: Tensor  # (F, O) bool


@dataclass(frozen=True)
class Backdrops:
    """One background per row, all fields `(F,)` or `(F, 3)`."""

    kind: Tensor  # index into BACKDROPS
    first: Tensor  # (F, 3)
    second: Tensor  # (F, 3)
    angle: Tensor  # radians
    frequency: Tensor  # periods per frame
    phase: Tensor  # radians


BACKDROPS = ("plain", "gradient", "stripes", "checks", "clouds")


def paint_backdrops(backdrops: Backdrops, size: tuple[int, int]) -> Tensor:
    """Backgrounds `(F, H, W, 3)` in 0..1 at `size` = (height, width)."""
    height, width = size
    device = backdrops.kind.device
    y = (torch.arange(height, device=device) + 0.5) / height - 0.5
    x = (torch.arange(width, device=device) + 0.5) / width - 0.5
    y, x = y[None, :, None], x[None, None, :]
    cos, sin = backdrops.angle.cos()[:, None, None], backdrops.angle.sin()[:, None, None]
    along, across = x * cos + y * sin, y * cos - x * sin
    turn = 2 * math.pi * backdrops.frequency[:, None, None]
    phase = backdrops.phase[:, None, None]
    stripes = (torch.sin(turn * along + phase) * 6).clamp(-1, 1)
    checks = stripes * (torch.sin(turn * across + phase) * 6).clamp(-1, 1)
    clouds = torch.sin(0.4 * turn * along + phase) * torch.sin(0.3 * turn * across + 2 * phase)
    blend = torch.stack([torch.zeros_like(along), along + 0.5, 0.5 + 0.5 * stripes,
                         0.5 + 0.5 * checks, 0.5 + 0.5 * clouds], dim=1)  # fmt: skip
    rows = torch.arange(len(backdrops.kind), device=device)
    mix = blend[rows, backdrops.kind].clamp(0, 1).unsqueeze(-1)
    return backdrops.first[:, None, None] * (1 - mix) + backdrops.second[:, None, None] * mix


def paint(canvas: Tensor, sprites: Sprites, aspect: Tensor) -> tuple[Tensor, Tensor]:
    """Objects over `canvas: (F, H, W, 3)`; `aspect: (F,)` is the source's width over height.

    Returns the frames `(F, H, W, 3)` in 0..1 and the owner `(F, H, W)` of every pixel: the index of
    the object seen there, -1 for the background.
    """
    height, width = canvas.shape[1:3]
    device = canvas.device
    radius_x = sprites.radius * (1 / aspect).clamp(max=1)[:, None] * width
    radius_y = sprites.radius * aspect.clamp(max=1)[:, None] * height
    shown = sprites.visible
    biggest = float(torch.maximum(radius_x, radius_y)[shown].max()) if shown.any() else 1.0
    side = 2 * math.ceil(biggest * EXTENT + 1)
    offsets = torch.arange(side, device=device)
    padded = F.pad(canvas, (0, 0, side, side, side, side))
    owner = torch.full(padded.shape[:3], -1, dtype=torch.int8, device=device)
    for index in range(shown.shape[1]):
        on = shown[:, index].nonzero().squeeze(1)
        centre_x, centre_y = sprites.x[on, index] * width, sprites.y[on, index] * height
        left = (centre_x - side / 2).round().long().clamp(-side, width)
        top = (centre_y - side / 2).round().long().clamp(-side, height)
        columns, rows = left[:, None] + offsets, top[:, None] + offsets  # (n, side)
        scale_x, scale_y = radius_x[on, index], radius_y[on, index]
        x = ((columns + 0.5 - centre_x[:, None]) / scale_x[:, None])[:, None, :]
        y = ((rows + 0.5 - centre_y[:, None]) / scale_y[:, None])[:, :, None]
        x, y = x.expand(-1, side, -1).contiguous(), y.expand(-1, -1, side).contiguous()
        scale = (scale_x * scale_y).sqrt()[:, None, None]
        cover = (0.5 - shape_distance(sprites.shape[on, index], x, y) * scale).clamp(0, 1)
        glyph = sprites.glyph[on, index]
        inked = (0.5 - glyph_distance(glyph.clamp(min=0), x, y) * scale).clamp(0, 1)
        inked = (inked * (glyph >= 0)[:, None, None]).unsqueeze(-1)
        colour = sprites.colour[on, index][:, None, None]
        colour = colour * (1 - inked) + sprites.ink[on, index][:, None, None, None] * inked
        where = (on[:, None, None], rows[:, :, None] + side, columns[:, None, :] + side)
        cover = cover.unsqueeze(-1)
        padded[where] = padded[where] * (1 - cover) + colour * cover
        owner[where] = torch.where(cover.squeeze(-1) > 0.5, index, owner[where])
    inside = (slice(None), slice(side, side + height), slice(side, side + width))
    return padded[inside], owner[inside]


def simulate_camera(frames: Tensor, *, generator: torch.Generator) -> Tensor:
    """What a camera and a codec do to `frames: (F, H, W, 3)`: soft or sharpened edges, coarser
    colour than brightness (4:2:0), a little noise and a change of exposure. For training only."""
    count, height, width, _ = frames.shape

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, 1, 1, 1, generator=generator) * (high - low) + low

    pixels = frames.permute(0, 3, 1, 2)
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    soft = F.conv2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    pixels = pixels + (soft - pixels) * uniform(-0.4, 0.8)
    luma = pixels.mul(torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    chroma = pixels - luma
    coarse = F.interpolate(F.avg_pool2d(chroma, 2), size=(height, width), mode="bilinear")
    pixels = luma + chroma + (coarse - chroma) * uniform(0, 1)
    pixels = pixels * uniform(0.94, 1.06) + uniform(-0.02, 0.02)
    noise = torch.randn(count, 3, height, width, generator=generator) * uniform(0, 0.03)
    return (pixels + noise).clamp(0, 1).permute(0, 2, 3, 1)
