"""Pictures of benchmark rows."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#dd8452", "#4c72b0", "#7d4b94", "#3f8f4f", "#8c8c8c")


def draw_against(path: Path, rows: Sequence[Mapping[str, Any]], peer: str) -> None:
    """Time to first token and peak memory over the number of frames, one line per model.

    Both axes are logarithmic; the dashed line is a fraction of the peer's.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measures = [
        ("first_token_s", "time to first token, s", 5),
        ("peak_mb", "peak memory above weights, MB", 8),
    ]
    measures = [measure for measure in measures if any(row[measure[0]] for row in rows)]
    figure = Figure(figsize=(5.4 * len(measures), 4.6), dpi=130)
    FigureCanvasAgg(figure)
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
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    figure.savefig(temporary)
    os.replace(temporary, path)
