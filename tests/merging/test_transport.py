"""Merging by optimal transport, against plain loops over the published steps."""

import math

import torch
from torch import Tensor

from crosslmm.merging import merge_tokens
from crosslmm.merging.scenes import scene_of
from crosslmm.merging.transport import transport
from tests.merging.test_tree import cosine, tokens


def plan_slowly(cost: list[list[float]]) -> list[list[float]]:
    plan = [[math.exp(-each / 0.1) for each in row] for row in cost]
    for _ in range(20):
        plan = [[each / sum(row) / len(plan) for each in row] for row in plan]
        sums = [sum(row[column] for row in plan) for column in range(len(plan[0]))]
        plan = [
            [each / total / len(sums) for each, total in zip(row, sums, strict=True)]
            for row in plan
        ]
    return plan


def take_up_slowly(kept: Tensor, gone: list[Tensor], shares: list[float]) -> Tensor:
    total = sum((s * g for s, g in zip(shares, gone, strict=True)), torch.zeros_like(kept))
    return (kept + total) / (1 + sum(shares))


def frame_slowly(frame: Tensor, count: int) -> tuple[list[int], list[Tensor]]:
    """The anchors of a frame (9, W), and their values."""
    mean, local = frame.mean(dim=0), count // 2
    chosen: list[int] = []
    for run in range(local):
        own = range(9 * run // local, 9 * (run + 1) // local)
        chosen.append(min(own, key=lambda at: cosine(frame[at], mean)))
    while len(chosen) < count:
        free = [at for at in range(9) if at not in chosen]
        chosen.append(
            min(
                free,
                key=lambda at: max(
                    cosine(frame[at], frame[to])
                    for to in (chosen or [each for each in range(9) if each != at])
                ),
            )
        )
    chosen.sort()
    others = [at for at in range(9) if at not in chosen]
    if not others:
        return chosen, list(frame)
    cost = [
        [
            1
            - cosine(frame[at], frame[to])
            + 0.5 * math.hypot(at // 3 - to // 3, at % 3 - to % 3) / 2
            for to in chosen
        ]
        for at in others
    ]
    plan = plan_slowly(cost)
    gone = [frame[at] for at in others]
    return chosen, [
        take_up_slowly(frame[to], gone, [row[column] for row in plan])
        for column, to in enumerate(chosen)
    ]


def scene_slowly(given: Tensor, budget: int) -> dict[int, Tensor]:
    """The value at each place that stays, of one scene."""
    frames = len(given)
    count = min(9, math.ceil(budget / (1 + 0.3 * (frames - 1))))
    found = {
        frame * 9 + at: value
        for frame in range(frames)
        for at, value in zip(*frame_slowly(given[frame], count), strict=True)
    }
    target, source = list(found)[:count], list(found)[count:]
    if not source:
        return found
    plan = plan_slowly(
        [
            [
                (1 - cosine(found[at], found[to])) * (1 - math.exp(-((at // 9) ** 2) / 4.5))
                for to in target
            ]
            for at in source
        ]
    )
    fit = [max(row) / sum(row) for row in plan]
    order = sorted(range(len(source)), key=fit.__getitem__)
    goes = order[budget - count :]
    gone = [found[source[each]] for each in goes]
    result = {
        to: take_up_slowly(found[to], gone, [plan[each][column] for each in goes])
        for column, to in enumerate(target)
    }
    return result | {source[each]: found[source[each]] for each in order[: budget - count]}


def test_equals_plain_loops() -> None:
    for frames, budget in ((1, 4), (3, 3), (3, 8), (3, 20)):
        given = tokens(frames, seed=budget)
        given = given + 20 * given.mean(dim=(0, 1))  # one scene
        assert scene_of(given).max() == 0
        merged = merge_tokens(given, budget, "transport")
        expected = scene_slowly(given, budget)
        assert merged.place.tolist() == sorted(expected), (frames, budget)
        values = torch.stack([expected[at] for at in sorted(expected)])
        torch.testing.assert_close(merged.tokens, values, atol=1e-3, rtol=1e-3)


def test_a_plan_has_uniform_marginals() -> None:
    plan = transport(torch.rand(6, 4, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(plan.sum(dim=0), torch.full((4,), 1 / 4))
    torch.testing.assert_close(plan.sum(dim=1), torch.full((6,), 1 / 6), atol=1e-2, rtol=0)


def test_every_scene_has_a_share() -> None:
    given = tokens(2, places=16).mean(dim=0, keepdim=True).repeat(4, 1, 1)
    given[2:] *= -1
    merged = merge_tokens(given, 8, "transport")
    assert torch.bincount(merged.place // 32).tolist() == [4, 4]
    assert len(merge_tokens(given, 1, "transport").tokens) == 1
