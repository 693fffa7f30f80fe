"""Accuracy of the needle test by length and depth, as a picture."""

from pathlib import Path

import numpy as np

from crosslmm.cost.chart import check_chart_path
from crosslmm.errors import UsageError
from crosslmm.evaluation.runner import Report
from crosslmm.files import atomic_file


def draw_heat_map(path: Path, report: Report, *, title: str) -> None:
    """Write it to `path`, in the format of its ending: .png, .svg or .pdf. Raises UsageError, also for
    questions that are not of the needle test."""
    check_chart_path(path)
    parts = report.depths
    if not parts:
        raise UsageError("`plot` is for the needle test: these questions have no length and depth")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lengths = sorted({length for length, _ in parts})
    depths = sorted({depth for _, depth in parts})
    shares = np.full((len(depths), len(lengths)), np.nan)
    size = min(2.4 + 0.9 * len(lengths), 18.0), min(1.8 + 0.5 * len(depths), 18.0)
    figure = Figure(figsize=size, dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (length, depth), part in parts.items():
        row, column = depths.index(depth), lengths.index(length)
        shares[row, column] = part.accuracy
        ink = "white" if part.accuracy < 0.5 else "black"  # on the colours of the map
        axes.text(
            column, row, f"{part.accuracy:.0%}", ha="center", va="center", color=ink, fontsize=8
        )
    drawn = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes.set_xlabel("frames of the clip")
    axes.set_ylabel("depth")
    axes.set_title(title, fontsize=9)
    figure.colorbar(drawn, format="{x:.0%}", label="right answers")
    figure.tight_layout()
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower())
