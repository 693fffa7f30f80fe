"""Merging by a pool of tokens that differ, against plain loops over the published steps."""

import torch

from crosslmm.merging import merge_tokens, pool
from tests.merging.test_tree import cosine, peaks_slowly, tokens


def test_equals_plain_loops(monkeypatch) -> None:
    monkeypatch.setattr(pool, "BLOCK", 5)
    for frames, budget in ((1, 1), (2, 5), (3, 14), (4, 30)):
        given = tokens(frames, seed=budget)
        flat = given.flatten(0, 1)
        joined: list[int] = []
        for at in range(len(flat)):
            if len(joined) == int(0.7 * budget):
                break
            if all(cosine(flat[at], flat[other]) < 0.7 for other in joined):
                joined.append(at)
        others = [at for at in range(len(flat)) if at not in joined]
        into = peaks_slowly([flat[at] for at in others], budget - len(joined))
        expected = list(range(len(flat)))
        for at, to in zip(others, into, strict=True):
            expected[at] = others[to]
        merged = merge_tokens(given, budget, "pool")
        assert merged.place[merged.member].tolist() == expected, (frames, budget)
        means = torch.stack([flat[merged.member == slot].mean(dim=0) for slot in range(budget)])
        torch.testing.assert_close(merged.tokens, means, atol=1e-5, rtol=1e-5)


def test_many_others_are_clustered_in_blocks(monkeypatch) -> None:
    monkeypatch.setattr(pool, "CLUSTERED", 10)
    given = 5 + tokens(8)
    for budget in (1, 3, 20):
        merged = merge_tokens(given, budget, "pool")
        assert len(merged.tokens) == budget
        spread = [(merged.member == slot).nonzero().flatten() for slot in range(budget)]
        if budget == 20:
            assert max(int(each.max() - each.min()) for each in spread) < 12


def test_what_does_not_change_is_kept_once() -> None:
    given = tokens(1, places=36).expand(8, -1, -1)
    merged = merge_tokens(given, 32, "pool")
    assert merged.place[:5].max() < 36
