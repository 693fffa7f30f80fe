"""Merging by trees over time, against plain loops over the published steps."""

import torch
from torch import Tensor

from crosslmm.merging import merge_tokens
from crosslmm.merging.clusters import allocate, cluster
from crosslmm.merging.scenes import scene_of


def tokens(frames: int, places: int = 9, width: int = 6, seed: int = 0) -> Tensor:
    """Frames that change slowly, so that some tokens link and some do not."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(1, places, width, generator=generator)
    steps = 0.4 * torch.randn(frames, places, width, generator=generator)
    return (first + steps.cumsum(dim=0)).double()


def cosine(first: Tensor, second: Tensor) -> float:
    return float(torch.cosine_similarity(first, second, dim=0))


def peaks_slowly(values: list[Tensor], budget: int) -> list[int]:
    """Which of the tokens each goes into."""
    size = float(torch.stack(values).square().mean().sqrt())
    apart = [[float((a - b).norm()) / size / len(a) ** 0.5 for b in values] for a in values]
    every = range(len(values))
    density = []
    for each in every:
        near = sorted(apart[each][other] for other in every if other != each)[: min(7, budget)]
        density.append(
            float(torch.exp(-torch.tensor(sum(d * d for d in near) / max(len(near), 1))))
        )
    furthest = max(max(row) for row in apart)
    score = []
    for each in every:
        denser = [apart[each][other] for other in every if density[other] > density[each]]
        score.append(density[each] * min(denser, default=furthest + 1))
    centres = sorted(every, key=lambda each: -score[each])[:budget]
    return [
        each if each in centres else min(centres, key=lambda centre: apart[each][centre])
        for each in every
    ]


def tree_slowly(given: Tensor, budget: int) -> list[list[int]]:
    """The members of each merged token."""
    frames, places, _ = given.shape
    flat = given.flatten(0, 1)
    count = min(int(0.7 * (budget // frames)), budget // frames - 1)
    chosen: set[int] = set()
    for frame in range(frames):
        own = range(frame * places, (frame + 1) * places)
        taken: list[int] = []
        for _ in range(count):
            free = [at for at in own if at not in taken]
            taken.append(
                max(
                    free,
                    key=lambda at: min(
                        1 - cosine(flat[at], flat[other])
                        for other in (taken or [each for each in own if each != at])
                    ),
                )
            )
        chosen.update(taken)
    scene = scene_of(given).tolist()
    links = []
    for at in range(places, frames * places):
        frame = at // places
        before = range((frame - 1) * places, frame * places)
        found = [(cosine(flat[at], flat[to]), to) for to in before if to not in chosen]
        if at not in chosen and found and scene[frame] == scene[frame - 1] and max(found)[0] >= 0.8:
            links.append((-max(found)[0], at, max(found)[1]))
    members = {at: [at] for at in range(frames * places)}
    for _, at, to in sorted(
        sorted(links)[: frames * places - budget], key=lambda link: -link[1]
    ):  # the last frame first
        members[to] += members.pop(at)
    left = [[at for at in members if at // places == f and at not in chosen] for f in range(frames)]
    sizes = torch.tensor([len(each) for each in left])
    shares = allocate(sizes, budget - frames * count, sizes).tolist()
    for trees, share in zip(left, shares, strict=True):
        means = [flat[members[at]].mean(dim=0) for at in trees]
        into = peaks_slowly(means, share) if trees else []
        for at, to in zip(trees, into, strict=True):
            if trees[to] != at:
                members[trees[to]] += members.pop(at)
    return sorted(sorted(each) for each in members.values())


def test_equals_plain_loops() -> None:
    for frames, budget in ((1, 4), (3, 3), (3, 14), (4, 24), (9, 40), (4, 35)):
        given = tokens(frames, seed=budget)
        merged = merge_tokens(given, budget, "tree")
        slots = [(merged.member == slot).nonzero().flatten().tolist() for slot in range(budget)]
        assert sorted(slots) == tree_slowly(given, budget), (frames, budget)
        means = torch.stack([given.flatten(0, 1)[slot].mean(dim=0) for slot in slots])
        torch.testing.assert_close(merged.tokens, means, atol=1e-5, rtol=1e-5)
        assert (merged.member[merged.place] == torch.arange(budget)).all()


def test_what_does_not_change_is_kept_once() -> None:
    """What a still clip leaves of the budget goes to finer detail of its first frame."""
    given = tokens(1, places=36).expand(4, -1, -1)
    merged = merge_tokens(given, 4 * 4, "tree")
    frame = torch.bincount(merged.place // 36, minlength=4)
    assert frame.tolist() == [2 + 4 * 2, 2, 2, 2]


def test_scenes_do_not_link() -> None:
    given = tokens(2, places=16).mean(dim=0, keepdim=True).repeat(4, 1, 1)
    given[2:] *= -1
    merged = merge_tokens(given, 8, "tree")
    assert scene_of(given).tolist() == [0, 0, 1, 1]
    slots = [(merged.member == slot).nonzero().flatten() // 32 for slot in range(8)]
    assert all(len(set(slot.tolist())) == 1 for slot in slots)


def test_a_long_window_has_a_scene_for_every_four_frames_at_most_eight() -> None:
    given = 5 + tokens(1).expand(64, -1, -1)
    assert len(set(scene_of(given[:4]).tolist())) == 1
    assert len(set(scene_of(given[:16]).tolist())) == 4
    assert len(set(scene_of(given).tolist())) == 8


def test_clusters_take_only_valid_tokens() -> None:
    given = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(1))
    valid = torch.arange(12)[None] % 3 != 0
    among = cluster(given, torch.tensor([3]), valid)[valid]
    alone = cluster(given[valid][None], torch.tensor([3]))[0]
    assert among.tolist() == valid[0].nonzero().flatten()[alone].tolist()


def test_a_budget_is_shared_in_proportion_below_the_cap() -> None:
    scores = torch.tensor([6.0, 3.0, 1.0, 0.0])
    assert allocate(scores, 10, torch.tensor([10, 10, 10, 0])).tolist() == [6, 3, 1, 0]
    assert allocate(scores, 10, torch.tensor([4, 10, 10, 0])).tolist() == [4, 5, 1, 0]
    assert allocate(scores, 3, torch.tensor([4, 10, 10, 0])).tolist() == [1, 1, 1, 0]
    assert allocate(scores, 24, torch.tensor([4, 10, 10, 0])).tolist() == [4, 10, 10, 0]
