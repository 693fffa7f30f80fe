"""What `benchmarks.distillation` left in its folder, as the tables of docs/results.md.

Over the seeds of an arm a mean and a standard deviation are given. Intervals of 95 % are of the mean
gain over the same merging without training, from clips drawn with replacement: questions about one
clip are not independent.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks.record import Record, table

COUNTS = (9, 4)
_DRAWS = 4000


def tables(work: Path, merges: Mapping[str, str]) -> str:
    """merges: the merging method of each arm. Of what is finished."""
    parts = [accuracy(work, merges), agreement(work, merges), by_type(work, merges)]
    parts += [accuracy(work, merges, (1,)), agreement(work, merges, (1,))]
    return "\n\n".join(table(rows) for rows in parts if rows)


def accuracy(
    work: Path, merges: Mapping[str, str], counts: Sequence[int] = COUNTS
) -> list[dict[str, Any]]:
    """Right answers, and the share of what merging loses that is won back."""
    full = _right(_full(work)[0])
    rows: list[dict[str, Any]] = [{"student": "all tokens", f"at {counts[0]}": f"{full:.1%}"}]
    for label, merge in (*((f"not trained, {m}", m) for m in _untrained(work)), *merges.items()):
        row: dict[str, Any] = {"student": label, "seeds": ""}
        for count in counts:
            start = _answers(work, "teacher", merge, count)
            found = start if label not in merges else _answers(work, _seeds(label), merge, count)
            shares = [_right(answers) for answers in found]
            row |= {
                f"at {count}": spread(shares),
                f"gain at {count}": "",
                f"won back at {count}": "",
            }
            if label in merges and shares:
                lost = full - _right(start[0])
                low, high = gain_interval(start[0], found)
                gain = fmean(shares) - _right(start[0])
                row["seeds"] = len(shares)
                row[f"gain at {count}"] = f"{gain:+.1%} ({low:+.1%} to {high:+.1%})"
                row[f"won back at {count}"] = spread([1 - (full - s) / lost for s in shares])
        if any(row[f"at {count}"] for count in counts):
            rows.append(row)
    return [dict.fromkeys(rows[-1], "") | row for row in rows]


def agreement(
    work: Path, merges: Mapping[str, str], counts: Sequence[int] = COUNTS
) -> list[dict[str, Any]]:
    """Divergence from the teacher, the share of it that training takes away, and answers given word for
    word; also with one branch's gates closed."""
    rows = []
    labels = [(f"not trained, {merge}", "teacher", merge) for merge in _untrained(work)]
    for name, merge in merges.items():
        labels.append((name, _seeds(name), merge))
        labels += [(f"… without {b}", f"{_seeds(name)} without {b}", merge) for b in ("v2v", "t2v")]
    for label, pattern, merge in labels:
        row: dict[str, Any] = {"student": label}
        for count in counts:
            found = _read(work / "agreement", pattern, merge, count)
            start = _read(work / "agreement", "teacher", merge, count)
            nats, same = ([pair[i] for pair in found] for i in (0, 1))
            shares = [] if pattern == "teacher" else [1 - n / start[0][0] for n in nats]
            row |= {
                f"nats at {count}": f"{fmean(nats):.4f}" if nats else "",
                f"won back at {count}": spread(shares),
                f"same at {count}": spread(same),
            }
        if any(row[f"same at {count}"] for count in counts):
            rows.append(row)
    return rows


def by_type(
    work: Path, merges: Mapping[str, str], counts: Sequence[int] = COUNTS
) -> list[dict[str, Any]]:
    """Right answers by the type of the question, at each of the numbers of tokens."""
    columns = {"all tokens": {0: _full(work)}}
    columns["not trained"] = {n: _answers(work, "teacher", "folder", n) for n in counts}
    for name, merge in merges.items():
        columns[name] = {n: _answers(work, _seeds(name), merge, n) for n in counts}
    columns = {name: found for name, found in columns.items() if all(found.values())}
    rows = []
    for kind, rights in sorted(_by(columns["all tokens"][0][0], "type").items()):
        row: dict[str, Any] = {"type": kind, "questions": len(rights)}
        for name, found in columns.items():
            row[name] = " / ".join(
                f"{fmean(fmean(_by(answers, 'type')[kind]) for answers in runs):.0%}"
                for runs in found.values()
            )
        rows.append(row)
    return rows


def record(work: Path, merges: Mapping[str, str], teacher: str) -> Record:
    """Right answers of every student at every number of tokens, with intervals as those of the gains.

    Its name ends with the seed of the test clips."""
    (full,) = _full(work)
    students = {f"not trained, {merge}": ("teacher", merge) for merge in _untrained(work)}
    students |= {name: (_seeds(name), merge) for name, merge in merges.items()}
    found = [("all tokens", None, [full])]
    found += [(label, count, _answers(work, pattern, merge, count))
              for label, (pattern, merge) in students.items() for count in (*COUNTS, 1)]  # fmt: skip
    nothing = [{**row, "right": False} for row in full]
    rows = []
    for label, count, runs in found:
        if runs:
            low, high = gain_interval(nothing, runs)
            rights = [_right(run) for run in runs]
            rows.append({"student": label, "tokens_per_frame": count, "seeds": len(runs),
                         "right": fmean(rights), "low": low, "high": high,
                         "deviation": stdev(rights) if len(runs) > 1 else None})  # fmt: skip
    seed = full[0]["id"].partition("-")[0]
    settings = {"teacher": teacher, "questions": len(full), "seed": int(seed)}
    return Record(f"distillation_{seed}", settings, rows)


def gain_interval(
    start: Sequence[Mapping[str, Any]], found: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[float, float]:
    """Of the gain over `start`, both as shares of the questions, with its mean over several runs."""
    gains: dict[str, list[float]] = defaultdict(list)
    for index, row in enumerate(start):
        clip = row["id"].rpartition("-")[0]
        gains[clip].append(fmean(run[index]["right"] for run in found) - row["right"])
    sums = torch.tensor([sum(each) for each in gains.values()], dtype=torch.double)
    sizes = torch.tensor([len(each) for each in gains.values()])
    drawn = torch.randint(
        len(sums), (_DRAWS, len(sums)), generator=torch.Generator().manual_seed(0)
    )
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return low, high


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, in percent; empty without values."""
    if not values:
        return ""
    return f"{fmean(values):.1%}" + (f" ± {stdev(values):.1%}" if len(values) > 1 else "")


def _seeds(name: str) -> str:
    return re.escape(name) + "-[0-9]+"


def _untrained(work: Path) -> list[str]:
    found = [re.fullmatch(r"teacher-(\w+)-9\.json", p.name) for p in (work / "answers").iterdir()]
    return sorted(match[1] for match in found if match)


def _read(folder: Path, label: str, merge: str, count: int | str) -> list[Any]:
    """The contents of the files of all seeds; label: a pattern."""
    wanted = re.compile(rf"{label}-{merge}-{count}\.json")
    paths = sorted(path for path in folder.iterdir() if wanted.fullmatch(path.name))
    return [json.loads(path.read_text()) for path in paths]


def _answers(work: Path, label: str, merge: str, count: int | str) -> list[list[dict[str, Any]]]:
    return [found["rows"] for found in _read(work / "answers", label, merge, count)]


def _full(work: Path) -> list[list[dict[str, Any]]]:
    """The teacher's at all its tokens."""
    return _answers(work, "teacher", "pooled", "[0-9]{2}")


def _right(rows: Sequence[Mapping[str, Any]]) -> float:
    return fmean(row["right"] for row in rows)


def _by(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[bool]]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row["right"])
    return groups
