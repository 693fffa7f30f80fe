"""architecture.svg, the README's figure of the model."""

from itertools import count, pairwise

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

INK, FAINT, LINE = "#1f2933", "#616e7c", "#9aa5b1"
TEAL, TEAL_PALE = "#0f766e", "#d5efeb"  # un-pooled features
AMBER, AMBER_PALE = "#d97706", "#fdecc8"  # merged visual tokens
BLUE, BLUE_PALE = "#2563eb", "#dbe7fd"  # text
GREY_PALE = "#f1f4f8"


_layers = count(10)  # later artists are drawn above earlier ones


def box(
    axes: Axes, x: float, y: float, w: float, h: float, *, face: str, edge: str, width: float = 1.3
) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            w,
            h,
            boxstyle="round,pad=0,rounding_size=0.9",
            facecolor=face,
            edgecolor=edge,
            linewidth=width,
        )
    )


def label(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 10.5,
    color: str = INK,
    weight: str = "normal",
    align: str = "center",
) -> None:
    axes.text(
        x, y + 0.22, text, fontsize=size, color=color, fontweight=weight, ha=align,
        va="center_baseline", linespacing=1.35,
    )  # fmt: skip


def arrow(
    axes: Axes,
    points: list[tuple[float, float]],
    *,
    color: str = INK,
    width: float = 1.6,
) -> None:
    """A line along `points` with square corners and a head at the last."""
    for start, end in pairwise(points[:-1]):
        axes.plot(*zip(start, end, strict=True), color=color, lw=width, solid_capstyle="round")
    axes.add_patch(
        FancyArrowPatch(
            points[-2],
            points[-1],
            arrowstyle="-|>,head_length=5,head_width=2.8",
            color=color,
            linewidth=width,
            shrinkA=0,
            shrinkB=0,
            joinstyle="miter",
        )
    )


def grid(axes: Axes, x: float, y: float, side: float, cells: int, face: str, edge: str) -> None:
    layer = next(_layers)
    axes.add_patch(
        Rectangle((x, y), side, side, facecolor=face, edgecolor=edge, lw=1.2, zorder=layer)
    )
    for cell in range(1, cells):
        at = cell * side / cells
        thin = 0.35 if cells > 5 else 0.9
        axes.plot([x + at, x + at], [y, y + side], color=edge, lw=thin, zorder=layer)
        axes.plot([x, x + side], [y + at, y + at], color=edge, lw=thin, zorder=layer)


def film_frame(axes: Axes, x: float, y: float, w: float, h: float, step: float) -> None:
    """A small scene: a ball that rolls down a hill as `step` goes from 0 to 1."""
    layer = next(_layers)
    hill = [(x, y), (x, y + 0.62 * h), (x + w, y + 0.12 * h), (x + w, y)]
    along = 0.14 + 0.7 * step
    ball = (x + along * w, y + (0.62 - 0.5 * along) * h + 0.115 * h)
    for shape in (
        Rectangle((x, y), w, h, facecolor="#e3f2fd", edgecolor="none"),
        Polygon(hill, facecolor="#a7c796", edgecolor="none"),
        Circle(ball, 0.115 * h, facecolor="#dc2626", edgecolor="none"),
        Rectangle((x, y), w, h, facecolor="none", edgecolor=INK, lw=1.2),
    ):
        axes.add_patch(shape)
        shape.set_zorder(layer)


def tokens(
    axes: Axes, x: float, y: float, number: int, *, face: str, edge: str, side: float = 1.5
) -> float:
    for index in range(number):
        left = x + index * (side + 0.42)
        axes.add_patch(
            Rectangle((left, y), side, side, facecolor=face, edgecolor=edge, linewidth=1.1)
        )
    return x + number * (side + 0.42)


def draw_encoder(axes: Axes) -> None:
    label(axes, 9, 60.2, "video", size=12.5, weight="bold")
    for index in range(3):
        film_frame(axes, 2.0 + 1.7 * index, 51.0 - 3.6 * index, 10.4, 6.2, (0, 0.32, 1)[index])
    label(axes, 9, 42.0, "T frames, evenly spaced", size=9.5, color=FAINT)

    arrow(axes, [(16.2, 50.2), (20.6, 50.2)])
    box(axes, 20.9, 45.4, 12.6, 9.6, face=GREY_PALE, edge=INK)
    label(axes, 27.2, 51.5, "vision encoder", weight="bold", size=10.5)
    label(axes, 27.2, 48.2, "SigLIP2, one\nframe at a time", size=9.2, color=FAINT)
    arrow(axes, [(33.8, 50.2), (38.2, 50.2)], color=TEAL)

    label(axes, 45.2, 60.2, "un-pooled features  V", size=12.5, weight="bold", color=TEAL)
    for index in range(4):
        grid(axes, 39.6 + 1.1 * index, 48.2 - 1.3 * index, 8.2, 13, TEAL_PALE, TEAL)
    label(axes, 45.6, 42.0, "729 features per frame", size=9.5, color=TEAL)


def draw_merge(axes: Axes) -> None:
    arrow(axes, [(45.6, 40.4), (45.6, 34.4)], color=AMBER)
    label(axes, 44.6, 37.6, "token merge", size=10.5, weight="bold", align="right")
    label(axes, 44.6, 35.5, "area average, no parameters", size=9.2, color=FAINT, align="right")
    for index in range(4):
        grid(axes, 41.6 + 1.1 * index, 28.8 - 1.3 * index, 4.6, 3, AMBER_PALE, AMBER)
    label(axes, 39.8, 28.4, "9 tokens per frame", size=9.5, color=AMBER, align="right")
    label(axes, 39.8, 26.2, "(or 1, 4, 16, …)", size=9.2, color=FAINT, align="right")
    arrow(axes, [(45.6, 24.0), (45.6, 19.2)], color=AMBER)
    box(axes, 39.1, 14.4, 13.0, 4.5, face=GREY_PALE, edge=INK)
    label(axes, 45.6, 16.65, "projector", weight="bold")
    arrow(axes, [(45.6, 14.1), (45.6, 8.2), (58.0, 8.2)], color=AMBER)

    label(axes, 2.4, 18.6, "64 frames:", size=10.5, weight="bold", align="left")
    label(axes, 2.4, 15.9, "46,656 features to attend to", size=10.5, color=TEAL, align="left")
    label(axes, 2.4, 13.4, "576 tokens in the context", size=10.5, color=AMBER, align="left")
    label(axes, 2.4, 8.3, "The video is prefilled once;", size=9.5, color=FAINT, align="left")
    label(axes, 2.4, 6.3, "further questions reuse it.", size=9.5, color=FAINT, align="left")


def draw_language_model(axes: Axes) -> None:
    left, width = 61.0, 21.5
    label(axes, left + width / 2, 60.2, "language model, unmodified", size=12.5, weight="bold")
    end = tokens(axes, 58.9, 7.4, 7, face=AMBER_PALE, edge=AMBER)
    label(axes, 65.4, 5.4, "merged visual tokens", size=9.2, color=AMBER)
    tokens(axes, end + 0.5, 7.4, 5, face=BLUE_PALE, edge=BLUE)
    label(axes, 77.4, 5.4, "“what happens?”", size=9.2, color=BLUE)

    middle = left + width / 2
    arrow(axes, [(middle, 9.6), (middle, 12.1)])
    bottoms = [12.4, 27.6]
    for number, bottom in enumerate(bottoms):
        box(axes, left, bottom, width, 6.0, face=GREY_PALE, edge=INK)
        label(axes, middle, bottom + 3.0, "K decoder layers", weight="bold")
        arrow(axes, [(middle, bottom + 6.2), (middle, bottom + 8.1)])
        box(axes, left, bottom + 8.4, width, 4.6, face=TEAL_PALE, edge=TEAL, width=1.9)
        label(axes, middle, bottom + 10.7, "dual cross-attention", weight="bold", color=TEAL)
        arrow(axes, [(middle, bottom + 13.2), (middle, bottom + 14.8)])
        if number == 1:
            label(axes, middle, bottom + 16.3, "⋮", size=13)
    arrow(axes, [(middle, 45.9), (middle, 48.4)])
    box(axes, left, 48.7, width, 5.2, face=GREY_PALE, edge=INK)
    label(axes, middle, 51.3, "head, token by token", weight="bold")
    label(axes, middle, 56.4, "“A ball rolls down the hill.”", size=10.5, color=BLUE)
    arrow(axes, [(middle, 53.9), (middle, 55.2)])

    # One copy of V, read by every cross-attention layer.
    axes.plot([51.6, 56.2], [47.5, 47.5], color=TEAL, lw=1.6, solid_capstyle="round")
    axes.plot([56.2, 56.2], [47.5, 23.1], color=TEAL, lw=1.6, solid_capstyle="round")
    for y in (38.3, 23.1):
        arrow(axes, [(56.2, y), (60.7, y)], color=TEAL)
    label(axes, 55.5, 31.0, "keys and\nvalues", size=9.5, color=TEAL, align="right")


def draw_detail(axes: Axes) -> None:
    left, bottom, width, height = 88.6, 12.4, 30.2, 41.5
    box(axes, left, bottom, width, height, face="#ffffff", edge=TEAL, width=1.9)
    corners = [(82.5, 40.6), (left, bottom + height - 0.9), (left, bottom + 0.9), (82.5, 36.0)]
    axes.add_patch(Polygon(corners, facecolor=TEAL_PALE, edgecolor="none", alpha=0.45))
    center = left + width / 2
    label(axes, center, 60.2, "dual cross-attention", size=12.5, weight="bold", color=TEAL)
    label(axes, center, 57.6, "after every K-th decoder layer", size=9.5, color=FAINT)
    branches = (
        (35.6, "V2V", "merged tokens attend to V", "v", AMBER, AMBER_PALE, 4),
        (17.6, "T2V", "text attends to V", "t", BLUE, BLUE_PALE, 3),
    )
    for y, name, purpose, letter, edge, face, number in branches:
        label(axes, left + 2.0, y + 14.6, name, size=11.5, weight="bold", color=edge, align="left")
        label(axes, left + 7.0, y + 14.6, purpose, size=9.8, color=FAINT, align="left")
        tokens(axes, left + 2.0, y + 10.2, number, face=face, edge=edge)
        label(axes, left + 2.0, y + 8.6, "queries", size=9.2, color=edge, align="left")
        box(axes, left + 12.6, y + 8.2, 10.2, 4.6, face=TEAL_PALE, edge=TEAL)
        label(axes, left + 17.7, y + 10.5, "attention", weight="bold")
        start = left + 2.2 + number * 1.92
        arrow(axes, [(start, y + 10.95), (left + 12.3, y + 10.95)], color=edge)
        grid(axes, left + 25.0, y + 9.1, 3.0, 8, TEAL_PALE, TEAL)
        arrow(axes, [(left + 24.9, y + 10.5), (left + 23.0, y + 10.5)], color=TEAL)
        label(axes, left + 26.5, y + 7.6, "V", size=10.5, weight="bold", color=TEAL)
        label(
            axes,
            left + 2.0,
            y + 4.1,
            rf"$h_{letter} \leftarrow h_{letter} + \tanh(g_{letter})\,\cdot\,"
            rf"\mathrm{{Attn}}_{letter}(h_{letter},\, V)$",
            size=12.0,
            align="left",
        )
    axes.plot([left + 1.6, left + width - 1.6], [34.3, 34.3], color=LINE, lw=0.8)
    label(
        axes,
        center,
        bottom + 4.6,
        "gates $g$ start at zero: before training\nthe layer changes nothing",
        size=9.5,
        color=FAINT,
    )


def draw() -> plt.Figure:
    mpl.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "mathtext.fontset": "dejavusans",
            "svg.hashsalt": "crosslmm",
        }
    )
    figure = plt.figure(figsize=(13.2, 6.9), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 121)
    axes.set_ylim(2.6, 63.2)
    axes.axis("off")
    draw_encoder(axes)
    draw_merge(axes)
    draw_language_model(axes)
    draw_detail(axes)
    return figure
