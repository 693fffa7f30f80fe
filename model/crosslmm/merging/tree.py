"""FlashVID's outer half (2026): diverse tokens of each frame stay, the others merge over time and then
around density peaks."""

from typing import TYPE_CHECKING

from crosslmm.merging.clusters import allocate, cluster
from crosslmm.merging.merged import MergedTokens, mean_of, merge_into
from crosslmm.merging.runs import RUNS_AT_ONCE
from crosslmm.merging.scenes import scene_of

if TYPE_CHECKING:
    import torch

CHOSEN = 0.7  # of a frame's budget
LINKED = 0.8  # the cosine from which a token goes into one of the frame before


class TreeMerger:
    """Of each frame, 0.7 of its budget are tokens as different from each other as can be. Each of the
    rest goes into the most similar rest of the frame before, in the same scene, where that is similar
    enough, and what this leaves is clustered frame by frame to the rest of the budget."""

    def merge(
        self,
        tokens: "torch.Tensor",
        budget: int,
    ) -> MergedTokens:
        """tokens: (T, M, W) → `budget` means of their members, at the place of one of them."""
        import torch

        frames, places, width = tokens.shape
        if budget < frames:  # not a token for each: one of each is clustered
            first = self.merge(tokens, frames)
            centre = cluster(first.tokens[None], torch.tensor([budget], device=tokens.device))[0]
            return merge_into(tokens, first.place[centre][first.member])
        each = budget // frames
        count = min(int(CHOSEN * each), each - 1)
        parts = range(0, frames, RUNS_AT_ONCE)
        chosen = torch.cat([diverse(tokens[at : at + RUNS_AT_ONCE], count) for at in parts])
        rest = budget - frames * count
        root = self._roots(tokens, chosen, frames * places - budget)  # (T·M,)
        mass = torch.bincount(root, minlength=len(root))
        trees = mean_of(tokens.flatten(0, 1), root, mass).view(frames, places, width)
        left = (mass > 0).view(frames, places) & ~chosen
        shares = allocate(left.sum(dim=1), rest, left.sum(dim=1))
        centres = []
        for at in parts:
            part = slice(at, at + RUNS_AT_ONCE)
            found = cluster(trees[part], shares[part], left[part])
            start = torch.arange(at, at + len(found), device=tokens.device)[:, None] * places
            centres.append(found + start)
        itself = torch.arange(frames * places, device=tokens.device)
        into = torch.where(left.flatten(), torch.cat(centres).flatten(), itself)
        return merge_into(tokens, into[root])

    def _roots(self, tokens: "torch.Tensor", chosen: "torch.Tensor", most: int) -> "torch.Tensor":
        """For every token the place of the root of its tree (T·M,), itself where it is not linked; the
        `most` similar are linked at most. chosen: (T, M), tokens that link to none."""
        import torch

        frames, places, _ = tokens.shape
        root = torch.arange(frames * places, device=tokens.device)
        scene = scene_of(tokens)
        similarity, before = [], []
        for at in range(0, frames - 1, RUNS_AT_ONCE):
            last = min(at + RUNS_AT_ONCE, frames - 1)
            cosine = cosines(tokens[at + 1 : last + 1], tokens[at:last])
            cosine = cosine.masked_fill(chosen[at:last, None], -torch.inf)
            best = cosine.max(dim=-1)
            similarity.append(best.values)
            before.append(
                best.indices + torch.arange(at, last, device=root.device)[:, None] * places
            )
        if not similarity:
            return root
        value = torch.cat(similarity)
        linked = (value >= LINKED) & ~chosen[1:] & (scene[1:] == scene[:-1])[:, None]
        value = value.masked_fill(~linked, -torch.inf).flatten()
        order = value.argsort(descending=True, stable=True)[: min(most, int(linked.sum()))]
        root[order + places] = torch.cat(before).flatten()[order]
        while not torch.equal(root, above := root[root]):
            root = above
        return root


def diverse(
    tokens: "torch.Tensor", count: int, chosen: "torch.Tensor | None" = None
) -> "torch.Tensor":
    """(F, M, W) → (F, M), True at `count` tokens of each frame: first the one least like any other, then
    each time the one least like those before it, by cosine.

    chosen: (F, M), True at those that have been chosen before, as many in each frame; these stay so.
    """
    import torch

    distance = 1 - cosines(tokens, tokens)
    frames, places, _ = distance.shape
    frame = torch.arange(frames, device=tokens.device)
    if chosen is None:
        chosen = torch.zeros(frames, places, dtype=torch.bool, device=tokens.device)
    chosen = chosen.clone()
    itself = torch.eye(places, dtype=torch.bool, device=tokens.device)
    nearest = distance.masked_fill(itself, torch.inf).amin(dim=1)
    if chosen.any():
        nearest = distance.masked_fill(~chosen[..., None], torch.inf).amin(dim=1)
    for _ in range(count):
        best = nearest.masked_fill(chosen, -torch.inf).argmax(dim=1)
        of_best = distance[frame, best]
        nearest = torch.minimum(nearest, of_best) if chosen.any() else of_best
        chosen[frame, best] = True
    return chosen


def cosines(first: "torch.Tensor", second: "torch.Tensor") -> "torch.Tensor":
    """(F, n, W), (F, m, W) → (F, n, m)"""
    from torch.nn.functional import normalize

    return normalize(first.float(), dim=-1) @ normalize(second.float(), dim=-1).transpose(1, 2)
