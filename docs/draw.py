"""Draw every picture and table of docs/ that is made from code or from a benchmark's record.

    python docs/draw.py            # draw what is stale
    python docs/draw.py --check    # only say what is stale; exit code 1 if anything is

`drawn.json` holds, for each picture, a hash of what it was drawn from and of the file itself.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

import draw_architecture  # noqa: E402
import draw_evidence  # noqa: E402
import draw_terminal  # noqa: E402

from benchmarks import plot  # noqa: E402
from benchmarks.against_llava_onevision import PEER  # noqa: E402
from crosslmm.cost import chart  # noqa: E402
from crosslmm.cost import profile as cost  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
DRAWN = DOCS / "drawn.json"
NEEDLES = "needles_demo_40917265"
DISTILLED = "distillation_29517346"
METHODS = {
    "uniform": "uniform",
    "codec": "--sampler codec",
    "zoom": "--zoom",
    "zoom, codec": "--zoom --sampler codec",
}
COST = ("crosslmm-7b", "llava-onevision-7b")  # what cost.png compares


@dataclass(frozen=True)
class Picture:
    """A picture, the text of what it is drawn from, and how it is drawn to a file."""

    name: str
    source: Callable[[], str]
    draw: Callable[[Path], None]

    def state(self) -> dict[str, str]:
        file = DOCS / self.name
        drawn = file.read_bytes() if file.exists() else b""
        return {"from": _hash(self.source().encode()), "file": _hash(drawn)}

    def is_stale(self) -> bool:
        drawn = json.loads(DRAWN.read_text("utf-8")) if DRAWN.exists() else {}
        return bool(drawn.get(self.name) != self.state())


@dataclass(frozen=True)
class Table:
    """A table of a page: the columns of a record's rows, under the headings they have there."""

    record: str
    columns: Mapping[str, str]
    page: str = "benchmarks.md"

    def text(self) -> str:
        rows = _rows(self.record)
        lines = [list(self.columns.values())]
        lines.append(["---" if isinstance(rows[0][key], str) else "---:" for key in self.columns])
        lines += [[_cell(key, row[key]) for key in self.columns] for row in rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


AGAINST = {
    "frames": "frames",
    "model": "model",
    "first_token_s": "first token, s",
    "times_faster": "ratio",
    "tokens_per_s": "tokens/s",
    "peak_mb": "peak, MB",
    "times_smaller": "ratio",
}
SAVED = {
    "encoded": "encoded",
    "computed": "computed",
    "right": "right",
    "95 %": "95 %",
    "other answers": "other answers",
    "computed of videos": "computed, camera",
    "error of features": "error, camera",
    "seconds per frame": "s per frame",
}
TABLES = (
    Table("against_llava_onevision_middle_cpu", AGAINST),
    Table("against_llava_onevision_middle_cpu_without_amx", AGAINST),
    Table("against_llava_onevision_0.5b_cpu", AGAINST),
    Table("encoder_savings", SAVED),
)


def _rows(record: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{record}.json").read_text("utf-8"))["rows"]
    return rows


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key.startswith("times_"):  # how much less, as a fraction of the other
        return "" if value == 1 else f"1/{value:.1f}"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cost_profiles() -> tuple[cost.Profile, cost.Profile]:
    first = cost.profile(COST[0])
    return first, cost.compare(first, COST[1])


def _source(module: Any, data: Any = None) -> str:
    """The text of a module that draws, and the data that it is given."""
    return Path(module.__file__).read_text("utf-8") + json.dumps(data)


def _needles() -> plot.Shares:
    """Right answers by the length of the clips and how their frames are chosen."""
    shares: dict[str, dict[str, tuple[float, float, float]]] = {}
    for row in _rows(NEEDLES):
        right, low, high = (float(each) / 100 for each in re.findall(r"[0-9.]+", row["right"]))
        name = METHODS[row["method"]]
        shares.setdefault(f"{row['frames of the clip']} frames", {})[name] = (right, low, high)
    return shares


def _distilled() -> plot.Shares:
    """Right answers of each student, by its tokens per frame."""
    shares: dict[str, dict[str, tuple[float, float, float]]] = {}
    for row in _rows(DISTILLED):
        if (tokens := row["tokens_per_frame"]) in (9, 4):
            found = (row["right"], row["low"], row["high"])
            shares.setdefault(row["student"], {})[f"{tokens} tokens per frame"] = found
    return shares


def _draw_distilled(path: Path) -> None:
    (full,) = (row["right"] for row in _rows(DISTILLED) if row["tokens_per_frame"] is None)
    label = "right answers, %; dashed: all 36 tokens"
    plot.draw_shares(path, _distilled(), label=label, most=full)


def _draw_architecture(path: Path) -> None:
    draw_architecture.draw().savefig(path, metadata={"Date": None})


@cache
def _terminal() -> str:
    return draw_terminal.draw(draw_terminal.run())


PICTURES = (
    Picture("architecture.svg", lambda: _source(draw_architecture), _draw_architecture),
    Picture("terminal.svg", _terminal, lambda path: path.write_text(_terminal(), "utf-8")),
    Picture("evidence.png", draw_evidence.source, lambda path: draw_evidence.draw("light", path)),
    Picture(
        "evidence-dark.png", draw_evidence.source, lambda path: draw_evidence.draw("dark", path)
    ),
    Picture(
        "cost.png",
        lambda: _source(chart, [each.as_dict() for each in _cost_profiles()]),
        lambda path: chart.draw(path, *_cost_profiles()),
    ),
    Picture(
        "against_llava_onevision.png",
        lambda: _source(plot, _rows(TABLES[0].record)),
        lambda path: plot.draw_against(path, _rows(TABLES[0].record), PEER),
    ),
    Picture(
        "needles.png",
        lambda: _source(plot, _needles()),
        lambda path: plot.draw_shares(path, _needles(), label="right answers, %"),
    ),
    Picture("distillation.png", lambda: _source(plot, _rows(DISTILLED)), _draw_distilled),
)


def stale_pictures() -> list[Picture]:
    return [picture for picture in PICTURES if picture.is_stale()]


def stale_tables() -> list[Table]:
    return [table for table in TABLES if with_table(page(table), table) != page(table)]


def page(table: Table) -> str:
    return (DOCS / table.page).read_text("utf-8")


def with_table(text: str, table: Table) -> str:
    """The page with the table that stands under its mark drawn again. Raises ValueError without one."""
    mark = re.escape(f"<!-- drawn from {table.record} -->\n")
    changed, found = re.subn(f"({mark})(?:\\|.*\n)*", lambda m: f"{m[1]}{table.text()}\n", text)
    if found != 1:
        raise ValueError(f"{table.page} has {found} places for {table.record}")
    return changed


def draw(pictures: Sequence[Picture], tables: Sequence[Table]) -> None:
    for picture in pictures:
        picture.draw(DOCS / picture.name)
    for table in tables:
        (DOCS / table.page).write_text(with_table(page(table), table), "utf-8")
    states = {picture.name: picture.state() for picture in PICTURES}
    DRAWN.write_text(json.dumps(states, indent=1) + "\n", "utf-8")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw the pictures and tables of docs/.")
    parser.add_argument("--check", action="store_true", help="only say what is stale")
    options = parser.parse_args()
    pictures, tables = stale_pictures(), stale_tables()
    for stale in (*pictures, *tables):
        print(f"stale: {stale.name if isinstance(stale, Picture) else stale.record}")
    if options.check:
        return int(bool(pictures or tables))
    draw(pictures, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
