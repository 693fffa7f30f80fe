"""Signed distances of the shapes and glyphs, in units of an object's radius, y pointing down.

Distances, not bitmaps: one definition is sharp at every resolution, and half a pixel of it makes an
anti-aliased edge. The glyphs are drawn here, dot by dot, so no system font decides how a clip looks.
"""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from crosslmm.synthetic.vocabulary import GLYPHS, SHAPES

EXTENT = 1.3
"""Every shape lies inside this many radii from its centre."""

GLYPH_HEIGHT = 1.1
"""Height of a printed glyph in radii; its width is 5/7 of it."""

_DOTS = {
    "2": ".###. #...# ....# ...#. ..#.. .#... #####",
    "3": ".###. #...# ....# ..##. ....# #...# .###.",
    "4": "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "7": "##### ....# ...#. ..#.. ..#.. ..#.. ..#..",
    "9": ".###. #...# #...# .#### ....# ...#. .##..",
    "A": ".###. #...# #...# ##### #...# #...# #...#",
    "C": ".###. #...# #.... #.... #.... #...# .###.",
    "E": "##### #.... #.... ####. #.... #.... #####",
    "F": "##### #.... #.... ####. #.... #.... #....",
    "H": "#...# #...# #...# ##### #...# #...# #...#",
    "K": "#...# #..#. #.#.. ##... #.#.. #..#. #...#",
    "L": "#.... #.... #.... #.... #.... #.... #####",
    "P": "####. #...# #...# ####. #.... #.... #....",
    "T": "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..",
    "U": "#...# #...# #...# #...# #...# #...# .###.",
    "X": "#...# #...# .#.#. ..#.. .#.#. #...# #...#",
    "Y": "#...# #...# .#.#. ..#.. ..#.. ..#.. ..#..",
}
_SCALE = 4  # atlas cells per dot
_MARGIN = 4  # atlas cells around a glyph


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.87


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    sides = math.cos(math.pi / 6) * x.abs() - 0.5 * (y - 0.1)
    return torch.maximum(y - 0.1, sides) - 0.62


def _diamond(x: Tensor, y: Tensor) -> Tensor:
    return (x.abs() + y.abs() - 1.2) * math.sqrt(0.5)


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: every direction is folded onto the edge from an outer to an inner corner."""
    fifth = 2 * math.pi / 5
    angle = torch.remainder(torch.atan2(x, -y) + fifth / 2, fifth) - fifth / 2
    length = torch.hypot(x, y)
    outer, inner = 1.25, 0.64
    corner = (inner * math.cos(fifth / 2), inner * math.sin(fifth / 2))
    normal = (corner[1], outer - corner[0])
    scale = 1 / math.hypot(*normal)
    along = length * angle.cos() - outer
    across = length * angle.abs().sin()
    return (normal[0] * along + normal[1] * across) * scale


def _cross(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    flat = torch.maximum(x - 1.08, y - 0.46)
    tall = torch.maximum(x - 0.46, y - 1.08)
    return torch.minimum(flat, tall)


_DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
    "cross": _cross,
}


def shape_distance(shape: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Distance to each object's outline, negative inside.

    `shape: (n,)` indices into SHAPES; `x, y: (n, ...)` in radii from the centre. Returns `(n, ...)`.
    """
    distance = torch.empty_like(x)
    for index, name in enumerate(SHAPES):
        chosen = (shape == index).nonzero().squeeze(1)
        if len(chosen):
            distance[chosen] = _DISTANCES[name](x[chosen], y[chosen])
    return distance


def glyph_distance(glyph: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the ink of each object's glyph, in radii; `glyph: (n,)` indices into GLYPHS."""
    atlas = _atlas().to(x.device)[glyph].unsqueeze(1)  # (n, 1, rows, columns)
    rows, columns = atlas.shape[-2:]
    cell = GLYPH_HEIGHT / (7 * _SCALE)
    grid = torch.stack([x / (cell * columns / 2), y / (cell * rows / 2)], dim=-1)
    sampled = F.grid_sample(atlas, grid, padding_mode="border", align_corners=False)
    return sampled.squeeze(1) * cell


@functools.cache
def _atlas() -> Tensor:
    """Signed distances of all glyphs on a grid, in grid cells: `(glyphs, rows, columns)`."""
    fields = []
    for glyph in GLYPHS:
        dots = torch.tensor([[dot == "#" for dot in row] for row in _DOTS[glyph].split()])
        ink = dots.repeat_interleave(_SCALE, 0).repeat_interleave(_SCALE, 1)
        ink = F.pad(ink, (_MARGIN,) * 4)
        cells = torch.stack(torch.meshgrid(*map(torch.arange, ink.shape), indexing="ij"), -1)
        cells = cells.reshape(-1, 2).float()
        away = torch.cdist(cells, cells)
        inked = ink.reshape(-1)
        to_ink = away[:, inked].amin(1)
        to_blank = away[:, ~inked].amin(1)
        fields.append((to_ink - to_blank).sign() * (torch.maximum(to_ink, to_blank) - 0.5))
    return torch.stack(fields).reshape(len(GLYPHS), *ink.shape)
