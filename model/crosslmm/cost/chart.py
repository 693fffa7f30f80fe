"""A profile as stacked bars: where the prefill's work goes, and the memory above the weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crosslmm.cost.profile import Profile, Row
from crosslmm.cost.tables import MEMORY, STAGES, title, unit
from crosslmm.errors import UsageError
from crosslmm.files import atomic_file, check_writable

FORMATS = (".png", ".svg", ".pdf")
# A hue per part of the model, its projections light and its attention products dark.
STAGE_COLOURS = {
    "vision": "#4c72b0",
    "projector": "#9db7dc",
    "merging": "#2f3f5f",
    "language_linear": "#dd8452",
    "self_attention": "#a3521f",
    "shared_projection": "#e3c567",
    "v2v_projection": "#a6d8a8",
    "v2v_attention": "#3f8f4f",
    "t2v_projection": "#d3b5e0",
    "t2v_attention": "#7d4b94",
    "head": "#8c8c8c",
}
MEMORY_COLOURS = {
    "features": "#4c72b0",
    "kv_cache": "#dd8452",
    "cross_cache": "#7d4b94",
    "activations": "#c9c9c9",
}


def draw(path: Path, profile: Profile, other: Profile | None = None) -> None:
    """Write the chart to `path`, in the format of its ending: .png, .svg or .pdf. Raises UsageError.

    `other` stands beside `profile`, bar by bar, hatched.
    """
    check_chart_path(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = _pairs(profile, other)
    bars = len(pairs) * (2 if other else 1)
    figure = Figure(figsize=(min(max(7 + 0.55 * bars, 10.5), 18), 5.2), dpi=130)
    FigureCanvasAgg(figure)
    work, memory = figure.subplots(1, 2)
    _bars(work, pairs, STAGES, STAGE_COLOURS, lambda row, key: getattr(row.prefill, key))
    _bars(memory, pairs, MEMORY, MEMORY_COLOURS, lambda row, key: getattr(row.memory, key))
    most = max(row.prefill.total for pair in pairs for row in pair)
    _finish(work, pairs, "Prefill, {}MACs (1 MAC = 2 FLOPs)", most)
    most = max(row.memory.above_weights for pair in pairs for row in pair)
    weights = profile.rows[0].memory.weights
    scale, letter = unit(weights)
    _finish(memory, pairs, f"Memory above {weights / scale:,.2f} {letter}B of weights, {{}}B", most)
    heading = title(profile)
    if other:
        heading += f"\nhatched: {title(other)}"
    figure.suptitle(heading, fontsize=8.5, x=0.01, ha="left")
    figure.tight_layout()
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower())


def check_chart_path(path: Path) -> None:
    """Raises UsageError where no chart can be written to `path`."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: `plot` needs a file ending in {', '.join(FORMATS)}")
    check_writable(path)


def _pairs(profile: Profile, other: Profile | None) -> list[tuple[Row, ...]]:
    """Every row, with the other model's of the same number of frames."""
    others = {row.frames: row for row in other.rows} if other else {}
    return [(row, others[row.frames]) if other else (row,) for row in profile.rows]


def _bars(
    axes: Any,
    pairs: Sequence[tuple[Row, ...]],
    labels: dict[str, str],
    colours: dict[str, str],
    value: Any,
) -> None:
    width = 0.76 / len(pairs[0])
    drawn: dict[str, Any] = {}
    for index, pair in enumerate(pairs):
        for side, row in enumerate(pair):
            bottom = 0
            centre = index + (side - (len(pair) - 1) / 2) * width
            for key, colour in colours.items():
                height = value(row, key)
                bar = axes.bar(
                    centre,
                    height,
                    width * 0.94,
                    bottom=bottom,
                    color=colour,
                    hatch="////" if side else None,
                    edgecolor="white",
                    linewidth=0,
                )
                bottom += height
                if height:
                    drawn.setdefault(key, bar)
            axes.text(centre, bottom, _value(bottom), ha="center", va="bottom", fontsize=6)
    shown = [key for key in colours if key in drawn]
    axes.legend(
        [drawn[key] for key in shown],
        [labels[key] for key in shown],
        fontsize=7.5,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=3 if len(shown) > 4 else 2,
    )


def _value(amount: float) -> str:
    """A bar's height, short enough for the width of a bar."""
    scale, letter = unit(int(amount))
    return f"{amount / scale:.3g}{letter}"


def _finish(axes: Any, pairs: Sequence[tuple[Row, ...]], label: str, most: int) -> None:
    scale, letter = unit(most)
    several = len({pair[0].budget for pair in pairs}) > 1
    names = [
        f"{pair[0].frames:,}" + (f"\n{pair[0].budget.short}" if several else "") for pair in pairs
    ]
    axes.set_xticks(range(len(pairs)), names)
    axes.set_xlabel("frames" + (", and their tokens" if several else ""))
    axes.set_ylabel(label.format(letter))
    axes.yaxis.set_major_formatter(lambda height, _: f"{height / scale:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(0, 1.08 * most)
