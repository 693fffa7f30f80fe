"""A profile as text for an 80-column terminal, and as CSV.

Frame counts are columns and stages are rows, so that a column adds up to its total.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any

from crosslmm.cost.budget import frames_at, most_frames
from crosslmm.cost.measured import Measured, Spread
from crosslmm.cost.profile import Profile, Row
from crosslmm.cost.published import PublishedComparison
from crosslmm.files import gigabytes
from crosslmm.merging import TokenBudget
from crosslmm.options import SCOPES

LABEL, COLUMN, COLUMNS = 26, 11, 4
STAGES = {
    "vision": "vision tower",
    "projector": "projector",
    "merging": "merging",
    "language_linear": "language model, linear",
    "self_attention": "self-attention",
    "shared_projection": "shared keys and values",
    "v2v_projection": "V2V projections",
    "v2v_attention": "V2V attention",
    "t2v_projection": "T2V projections",
    "t2v_attention": "T2V attention",
    "head": "head",
}
MEMORY = {
    "weights": "weights",
    "features": "features",
    "kv_cache": "KV cache",
    "cross_cache": "cross-attention cache",
    "activations": "activations",
}


def text(profile: Profile) -> str:
    """The complete profile: a table per number of tokens per frame and four numbers of frames."""
    blocks = [f"{title(profile)}\n{_weights(profile)}"]
    for group in groups(profile.rows):
        for rows in _columns(group):
            blocks.append("\n".join(_table(profile, rows)))
    return "\n\n".join(blocks)


def comparison_text(profile: Profile, other: Profile) -> str:
    """What matters of another model, and the first one against it."""
    lines = [f"Against {title(other)}"]
    theirs = {row.frames: row for row in other.rows}
    for group in groups(profile.rows):
        budget = group[0].budget
        for rows in _columns(group):
            against = [theirs[row.frames] for row in rows]
            macs = unit(max(row.prefill.total for row in against))
            lines += [
                "",
                _line("frames", [f"{row.frames:,}" for row in rows]),
                _line("prompt, tokens", [f"{row.tokens.prompt:,}" for row in against]),
                _figures(f"prefill, {macs[1]}MACs", (r.prefill.total for r in against), macs[0]),
                _figures("one more token, GMACs", (r.token.total for r in against), 1e9),
                _figures(
                    "memory above weights, GB", (r.memory.above_weights for r in against), 1e9
                ),
                _wrapped(f"{profile.model}, {budget.short}, as a multiple of it"),
            ]
            ratios: dict[str, Callable[[Row], int]] = {
                "  prefill": lambda row: row.prefill.total,
                "  one more token": lambda row: row.token.total,
                "  memory above weights": lambda row: row.memory.above_weights,
            }
            for label, value in ratios.items():
                pairs = zip(rows, against, strict=True)
                lines.append(_line(label, [_ratio(value(a), value(b)) for a, b in pairs]))
    return "\n".join(lines)


def fits_text(profile: Profile, memory: int) -> str:
    """The most frames whose run fits in `memory` bytes, for every budget of visual tokens."""
    lines = []
    for budget, frames in _fitting(profile, memory).items():
        what = f"{frames:,} frames at {budget} fit" if frames else "not even one frame fits"
        line = f"{what} in {gigabytes(memory)}"
        in_context = profile.frames_in_context(budget)
        if frames > in_context:
            line += f"; the context of the language model ends at {in_context:,}"
        lines.append(_wrapped(line))
    return "\n".join(lines)


def budget_frames(profile: Profile, macs: float) -> dict[TokenBudget, int]:
    """The most frames whose prefill takes so many multiply-accumulates, by their tokens."""
    return {
        budget: frames_at(profile.shape, macs, budget=budget, settings=profile.settings)
        for budget in dict.fromkeys(row.budget for row in profile.rows)
    }


def budget_text(profile: Profile, macs: float, rate: float | None = None) -> str:
    """Frames and tokens per frame whose prefills cost alike; `rate`, in multiply-accumulates a second,
    is what seconds were counted with."""
    found = budget_frames(profile, macs)
    merged = any(budget.merge for budget in found)
    scale, letter = unit(2 * macs)
    heading = f"A prefill of {2 * macs / scale:,.3g} {letter}FLOPs"
    if rate is not None:
        scale, letter = unit(2 * rate)
        heading += (
            f", {macs / rate:,.3g} s at the {2 * rate / scale:,.3g} {letter}FLOP/s of a matrix "
            "product on this device; a run takes longer"
        )
    lines = [
        _wrapped(f"{heading}:"),
        f"{'tokens' if merged else 'tokens per frame':>22}{'frames':>12}{'visual tokens':>15}",
    ]
    for budget, frames in found.items():
        past = frames > profile.frames_in_context(budget)
        note = "  past the context" if past else ""
        tokens = budget.short if merged else f"{budget.pooled:,}"
        lines.append(f"{tokens:>22}{frames:>12,}{budget.count(frames):>15,}{note}")
    return "\n".join(lines)


def as_record(
    profile: Profile,
    other: Profile | PublishedComparison | None = None,
    measured: Sequence[Measured] = (),
    memory: int | None = None,
    macs: float | None = None,
) -> dict[str, Any]:
    """The JSON form of all of it; with only what was requested."""
    record = profile.as_dict()
    if other:
        record["compare"] = other.as_dict()
    if measured:
        record["measured"] = [item.as_dict() for item in measured]
    if memory is not None:
        record["fits"] = {"bytes": memory, "frames": _by_key(_fitting(profile, memory))}
    if macs is not None:
        record["budget"] = {"macs": macs, "frames": _by_key(budget_frames(profile, macs))}
    return record


def measured_text(measured: Sequence[Measured]) -> str:
    """Seconds per stage and peak memory as run, next to the estimate."""
    runs = [item.run for item in measured]
    rows = [
        ("frames", [f"{run.frames:,}" for run in runs]),
        ("tokens", [run.budget.short.replace(" tokens", "") for run in runs]),
        ("decode, s", [_spread(run.decode) for run in runs]),
        ("encode, s", [_spread(run.encode) for run in runs]),
        ("prefill, s", [_spread(run.prefill) for run in runs]),
        ("to first token, s", [_spread(run.first_token) for run in runs]),
        ("second question, s", [_spread(run.second_question) for run in runs]),
        ("per token, ms", [_spread(run.per_token, 1000) for run in runs]),
        ("peak above weights, MB", [_megabytes(run.peak) for run in runs]),
        ("  estimated", [_megabytes(item.estimate.above_weights) for item in measured]),
    ]
    width = max(len(cell) for _, cells in rows for cell in cells) + 2
    each = max((79 - LABEL) // width, 1)
    settings = measured[0].settings
    where = f"{settings['device_name']} ({settings['device']}), {settings['dtype']}"
    heading = f"Measured on {where}: median of {runs[0].repeats} warm runs (fastest-slowest)"
    lines = [_wrapped(heading)]
    for start in range(0, len(measured), each):
        lines.append("")
        for label, cells in rows:
            shown = "".join(f"{cell:>{width}}" for cell in cells[start : start + each])
            lines.append(f"{label:<{LABEL}}{shown}")
    return "\n".join(lines)


def paper_text(profile: Profile, paper: PublishedComparison) -> str:
    """Figure 4 beside the paper's cost model and the count of crosslmm."""
    rows = paper.rows
    own = TokenBudget(rows[0].tokens_per_frame)
    memory = {row.frames: row.memory for row in profile.rows if row.budget == own}
    estimates = [memory[row.frames].above_weights for row in rows]
    return "\n".join(
        [
            f"Figure 4 of the paper, {paper.model}, {own}",
            "",
            _line("frames", [f"{row.frames:,}" for row in rows]),
            _figures("published, TMACs", (row.published.macs for row in rows), 1e12),
            _figures("the paper's cost model", (row.modelled.total for row in rows), 1e12),
            _line("  deviation", [f"{row.deviation:+.2%}" for row in rows]),
            _figures("crosslmm, linear parts", (row.linear for row in rows), 1e12),
            _line("  deviation", [f"{row.linear_deviation:+.2%}" for row in rows]),
            _figures("crosslmm, full count", (row.counted for row in rows), 1e12),
            _line("  deviation", [f"{row.counted_deviation:+.2%}" for row in rows]),
            _figures("memory published, GB", (row.published.memory for row in rows), 1e9),
            _figures("  crosslmm, estimate", estimates, 1e9),
            _figures("prefill published, s", (row.published.seconds for row in rows), 1),
            "",
            _wrapped(
                "The paper counts MACs and calls them FLOPs; its cost model leaves out attention "
                "products of the language model. Memory is above the weights. See docs/cost.md."
            ),
        ]
    )


def csv_text(profiles: Sequence[Profile]) -> str:
    """One line per row of every profile; MACs and bytes as plain numbers."""
    stream = io.StringIO()
    records = [_flat(profile.model, row) for profile in profiles for row in profile.rows]
    writer = csv.DictWriter(stream, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def title(profile: Profile) -> str:
    """The model and what its cost was counted for, in a line or two."""
    shape, settings = profile.shape, profile.settings
    said = [
        _tokens(row.budget for row in profile.rows),
        f"{settings.text_tokens} of text",
        settings.dtype or shape.dtype,
    ]
    if settings.quantization != "none":
        said.append(f"{settings.quantization} decoder")
    said += [f"{settings.feature_bits}-bit features"] * (settings.feature_bits is not None)
    said += [f"batch of {settings.batch}"] * (settings.batch > 1)
    if shape.interval and not shape.open_v2v + shape.open_t2v:
        said.append("cross-attention closed")
    elif shape.interval:
        reading = "merged tokens" if shape.open_v2v else "text tokens"
        scope = SCOPES[shape.v2v_scope if shape.open_v2v else "video"]
        after = f"after every {_ordinal(shape.interval)} layer"
        said.append(f"{reading} reading {scope} {after}{', keys shared' * shape.shares_kv}")
    return _wrapped(f"{profile.model}: {', '.join(said)}")


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows by their budget of visual tokens, in their order."""
    found: dict[TokenBudget, list[Row]] = {}
    for row in rows:
        found.setdefault(row.budget, []).append(row)
    return list(found.values())


def unit(largest: float) -> tuple[float, str]:
    """The scale to write numbers up to `largest` in, and its letter."""
    for scale, letter in ((1e12, "T"), (1e9, "G")):
        if largest >= scale:
            return scale, letter
    return 1e6, "M"


def _columns(rows: list[Row]) -> list[list[Row]]:
    """As many rows at a time as stand side by side."""
    return [rows[start : start + COLUMNS] for start in range(0, len(rows), COLUMNS)]


def _table(profile: Profile, rows: Sequence[Row]) -> list[str]:
    last = rows[-1]
    macs, macs_letter = unit(last.prefill.total)
    token, token_letter = unit(last.token.total)
    size, size_letter = unit(last.memory.total)
    pooled = last.budget.pooled
    each = f"Frames, {pooled:,} token{'s' if pooled != 1 else ''} each"
    if last.budget.merge is not None:
        each = f"Frames, {last.budget.short}".removesuffix(" in all")
    heading = _line(each, [f"{row.frames:,}" for row in rows])
    lines = [
        f"{heading}     share",
        "Tokens" + " " * (LABEL - 6 + COLUMN * len(rows)) + f"{f'at {last.frames:,}':>10}",
        _line("  features", [f"{row.tokens.features:,}" for row in rows]),
        _line("  visual", [f"{row.tokens.visual:,}" for row in rows]),
        _line("  text", [f"{row.tokens.text:,}" for row in rows]),
        f"Prefill, {macs_letter}MACs",
    ]
    for stage, label in STAGES.items():
        values = [getattr(row.prefill, stage) for row in rows]
        if any(values) or stage not in ("merging", "shared_projection"):
            share = _share(values[-1], last.prefill.total)
            lines.append(_figures(f"  {label}", values, macs) + share)
    lines += [
        _figures("  total", (row.prefill.total for row in rows), macs),
        _figures(
            f"  total, {macs_letter}FLOPs = 2 x MACs", (2 * r.prefill.total for r in rows), macs
        ),
        f"Per generated token, {token_letter}MACs",
    ]
    for stage, label in STAGES.items():
        values = [getattr(row.token, stage) for row in rows]
        if any(values):
            lines.append(
                _figures(f"  {label}", values, token) + _share(values[-1], last.token.total)
            )
    lines += [
        _figures("  total", (row.token.total for row in rows), token),
        f"Memory, {size_letter}B",
    ]
    for part, label in MEMORY.items():
        values = [getattr(row.memory, part) for row in rows]
        lines.append(_figures(f"  {label}", values, size) + _share(values[-1], last.memory.total))
    lines.append(_figures("  total", (row.memory.total for row in rows), size))
    return lines


def _weights(profile: Profile) -> str:
    parts = sorted(profile.parts, key=lambda part: -part.bytes)
    scale, letter = unit(parts[0].bytes)
    usual = profile.settings.dtype or profile.shape.dtype
    said = []
    for part in parts:
        if part.bytes:
            precision = "" if part.precision == usual else f" in {part.precision}"
            said.append(f"{part.name} {part.bytes / scale:,.2f}{precision}")
    return _wrapped(f"Weights, {letter}B: {', '.join(said)}")


def _flat(model: str, row: Row) -> dict[str, Any]:
    record = {"model": model}
    for key, value in row.as_dict().items():
        if isinstance(value, dict):
            record |= {f"{key}_{name}": number for name, number in value.items()}
        else:
            record[key] = value
    return record


def _wrapped(sentence: str) -> str:
    return fill(sentence, 79, break_on_hyphens=False)


def _line(label: str, cells: Iterable[str]) -> str:
    return f"{label:<{LABEL}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells)


def _figures(label: str, values: Iterable[float], scale: float) -> str:
    return _line(label, [_figure(value / scale) for value in values])


def _figure(value: float) -> str:
    return "<0.01" if 0 < value < 0.005 else f"{value:,.2f}" if value else "0"


def _share(value: float, total: float) -> str:
    return f"{value / total:>10.0%}" if value else f"{'-':>10}"


def _fitting(profile: Profile, memory: int) -> dict[TokenBudget, int]:
    """The most frames whose run fits in so many bytes, by their tokens."""
    return {
        budget: most_frames(profile.shape, memory, budget=budget, settings=profile.settings)
        for budget in dict.fromkeys(row.budget for row in profile.rows)
    }


def _by_key(frames: Mapping[TokenBudget, int]) -> dict[str, int]:
    """For JSON: `9` for tokens per frame, `folder, 10%` for a merging."""
    return {
        str(budget.pooled) if budget.merge is None else budget.short: count
        for budget, count in frames.items()
    }


def _spread(spread: Spread | None, scale: float = 1) -> str:
    if spread is None:
        return "-"
    middle, low, high = (
        f"{scale * s:.3g}" for s in (spread.median, spread.fastest, spread.slowest)
    )
    return f"{middle} ({low}-{high})"


def _megabytes(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1e6:,.0f}" if size >= 10e6 else f"{size / 1e6:.1f}"


def _ratio(cost: float, other: float) -> str:
    """`cost` as a multiple of the other, to two figures."""
    if not other:
        return "-"
    ratio = cost / other
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:#.2g}x"


def _tokens(budgets: Iterable[TokenBudget]) -> str:
    """`4, 9 tokens per frame`, `196 tokens per frame merged (folder 10%, random 10%)`"""
    different = dict.fromkeys(budgets)
    plain = sorted({budget.pooled for budget in different})
    listed = ", ".join([*(f"{count:,}" for count in plain[:-1]), str(TokenBudget(plain[-1]))])
    merged = [budget.short for budget in different if budget.merge is not None]
    return f"{listed} merged ({', '.join(merged)})" if merged else listed


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 <= number % 100 <= 20 else ending}"
