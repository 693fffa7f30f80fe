"""Frames chosen by what they show: small ones are read first, several for each that is wanted.

- `scene`: each shot gets frames by its length, at least one, so that short shots are not missed.
- `diverse`: half of the frames evenly, then one by one the one least like its nearest chosen one
  (farthest-point sampling), so that rare events are seen and still stretches are not repeated.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from crosslmm.options import Sampling
from crosslmm.video.cuts import Differences
from crosslmm.video.frames import Frame
from crosslmm.video.plan import ReadPlan, plan_reading
from crosslmm.video.sampling import Target

# Candidates for each wanted frame, and of all unless more are wanted: bounds the second reading.
_PER_FRAME = 8
_MOST = 8192
_SIDE = 16  # pixels of a candidate
_BILINEAR = 2


def candidate_plan(plan: ReadPlan, sampling: Sampling) -> ReadPlan:
    """The small frames from which those of `plan`, an even one, will be chosen."""
    count = len(plan.targets)
    many = replace(
        sampling, frames=max(count, min(_PER_FRAME * count, _MOST)), fps=None, max_frames=None
    )
    return plan_reading(plan.probe, many, size=(_SIDE, _SIDE), resample=_BILINEAR)


def choose_by_content(
    plan: ReadPlan, candidates: ReadPlan, frames: Iterable[Frame], sampler: str
) -> ReadPlan:
    """`plan` with as many of the `frames`, those of `candidates`, as it has now."""
    read = list(frames)
    rows = SAMPLERS[sampler](read, min(len(plan.targets), len(read)))
    keys = {target.index for target in candidates.targets if target.key}
    chosen = sorted(read[row].index for row in rows)
    return replace(plan, targets=tuple(Target(number, number in keys) for number in chosen))


def by_scene(frames: Sequence[Frame], count: int) -> list[int]:
    """`count` rows: the middles of equal parts of each shot; where there are more shots than that, of
    the longest ones."""
    edges = [0, *Differences.of(frames).cuts().tolist(), len(frames)]
    lengths = np.diff(edges)
    shares = np.zeros(len(lengths), dtype=np.int64)
    shares[np.argsort(-lengths, kind="stable")[:count]] = 1
    for _ in range(count - int(shares.sum())):
        # The next one goes to the shot that has the fewest for its length.
        shares[np.argmax(np.where(shares < lengths, lengths / (shares + 0.5), -1))] += 1
    return [
        start + int((place + 0.5) * length / share)
        for start, length, share in zip(edges, lengths, shares, strict=False)
        for place in range(share)
    ]


def diverse(frames: Sequence[Frame], count: int) -> list[int]:
    """`count` rows, half of them even."""
    values = np.stack([frame.pixels.reshape(-1) for frame in frames]).astype(np.float32)
    squares = np.einsum("ij,ij->i", values, values)
    nearest = np.full(len(frames), np.inf, dtype=np.float32)  # squared distance to a chosen one

    def take(row: int) -> int:
        np.minimum(nearest, squares + squares[row] - 2 * (values @ values[row]), out=nearest)
        nearest[row] = -np.inf
        return row

    even = (count + 1) // 2
    rows = [take(int((slot + 0.5) * len(frames) / even)) for slot in range(even)]
    while len(rows) < count:
        rows.append(take(int(nearest.argmax())))
    return rows


SAMPLERS: dict[str, Callable[[Sequence[Frame], int], list[int]]] = {
    "scene": by_scene,
    "diverse": diverse,
}
