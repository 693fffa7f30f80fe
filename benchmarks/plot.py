"""Pictures of benchmark rows."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#dd8452", "#4c72b0", "#7d4b94", "#3f8f4f", "#8c8c8c")
Shares = Mapping[str, Mapping[str, tuple[float, float, float]]]


def draw_against(path: Path, rows: Sequence[Mapping[str, Any]], peer: str) -> None:
    """Time to first token and peak memory over the number of frames, one line per model.

    Both axes are logarithmic; the dashed line is a fraction of the peer's.
    """
    measures = [
        ("first_token_s", "time to first token, s", 5),
        ("peak_mb", "peak memory above weights, MB", 8),
    ]
    measures = [measure for measure in measures if any(row[measure[0]] for row in rows)]
    figure = _figure(5.4 * len(measures), 4.6)
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, (key, label, part) in zip(panels, measures, strict=True):
        for colour, model in zip(
            COLOURS, dict.fromkeys(row["model"] for row in rows), strict=False
        ):
            points = [
                (row["frames"], row[key]) for row in rows if row["model"] == model and row[key]
            ]
            if not points:
                continue
            axes.plot(*zip(*points, strict=True), marker="o", ms=4, color=colour, label=model)
            if model == peer:
                parts = [(frames, value / part) for frames, value in points]
                axes.plot(
                    *zip(*parts, strict=True),
                    "--",
                    color=colour,
                    lw=1,
                    label=f"1/{part} of it",
                )
        frames = sorted({row["frames"] for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(frames, [str(count) for count in frames])
        axes.minorticks_off()
        axes.set_xlabel("frames")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=7.5, frameon=False)
    _save(figure, path)


def draw_shares(path: Path, shares: Shares, *, label: str, most: float | None = None) -> None:
    """Right answers and their intervals, as shares: a line of the picture for each group, with a point
    for each series. `most`, the best that can be expected, is a line across."""
    names = list(dict.fromkeys(name for group in shares.values() for name in group))
    figure = _figure(7.2, 1.3 + 0.13 * len(shares) * (len(names) + 1))
    axes = figure.subplots()
    for number, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        lines = [line for line, group in enumerate(shares.values()) if name in group]
        found = [group[name] for group in shares.values() if name in group]
        axes.errorbar(
            [100 * right for right, _, _ in found],
            [line + 0.7 * ((number + 0.5) / len(names) - 0.5) for line in lines],
            xerr=[
                [100 * (right - low) for right, low, _ in found],
                [100 * (high - right) for right, _, high in found],
            ],
            fmt="o",
            ms=4,
            lw=1.2,
            color=colour,
            label=name,
        )
    if most is not None:
        axes.axvline(100 * most, ls="--", lw=1, color="#8c8c8c")
    axes.set_yticks(range(len(shares)), list(shares), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(-2, 102)
    axes.set_xlabel(label)
    axes.grid(axis="x", lw=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7.5, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=5)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    figure.savefig(temporary)
    os.replace(temporary, path)
