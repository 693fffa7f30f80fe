"""AOT (2026): tokens that go are spread over those that stay by optimal transport, first within each
frame, then over the frames of a scene."""

import math
from typing import TYPE_CHECKING

from crosslmm.merging.clusters import allocate
from crosslmm.merging.merged import MergedTokens
from crosslmm.merging.runs import RUNS_AT_ONCE, share
from crosslmm.merging.scenes import scene_of
from crosslmm.merging.tree import cosines, diverse

if TYPE_CHECKING:
    import torch

STAYING = 0.3  # of the tokens of a scene's later frames
TEMPERATURE = 0.1
ITERATIONS = 20


class TransportMerger:
    """Anchors of a frame are tokens unlike their surroundings and tokens unlike each other, half and
    half, and take up the others. In a scene, the first frame's anchors take up the others', except those
    that they fit least, which stay. An anchor has most of its own value, so it is no mean of members."""

    def merge(
        self,
        tokens: "torch.Tensor",
        budget: int,
    ) -> MergedTokens:
        """tokens: (T, M, W) → `budget` tokens at their own places."""
        import torch

        frames, places, _ = tokens.shape
        scene = scene_of(tokens)
        lengths = torch.bincount(scene)
        if len(lengths) > budget:
            lengths = lengths.sum()[None]
        budgets = allocate(lengths, budget, lengths * places).tolist()
        every = torch.arange(frames * places, device=tokens.device)
        merged, into, first = [], [], 0
        for length, count in zip(lengths.tolist(), budgets, strict=True):
            values, to = merge_scene(tokens[first : first + length], count)
            stays = to == torch.arange(length * places, device=to.device)
            merged.append(values[stays].to(tokens.dtype))
            into.append(to + first * places)
            first += length
        place = torch.cat(into)
        kept = place == every
        member = (kept.cumsum(0) - 1)[place]
        return MergedTokens(torch.cat(merged), every[kept], member, torch.bincount(member))


def merge_scene(tokens: "torch.Tensor", budget: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    """(L, M, W), K → values (L·M, W), right at the K tokens that stay, and for every token the place of
    that which it counts to (L·M,)."""
    import torch

    frames, places, width = tokens.shape
    # So many anchors in each frame that those which stay over time make up the budget.
    count = min(places, math.ceil(budget / (1 + STAYING * (frames - 1))))
    values = torch.empty(frames, places, width, device=tokens.device)
    into = torch.empty(frames, places, dtype=torch.long, device=tokens.device)
    for at in range(0, frames, RUNS_AT_ONCE):
        part = tokens[at : at + RUNS_AT_ONCE].float()
        start = torch.arange(at, at + len(part), device=tokens.device)[:, None] * places
        values[at : at + len(part)], to = spread_in_frames(part, count)
        into[at : at + len(part)] = to + start
    values, into = values.flatten(0, 1), into.flatten()
    anchors = (into == torch.arange(len(into), device=into.device)).nonzero().flatten()
    target, source = anchors[:count], anchors[count:]
    if len(source) == budget - count:
        return values, into
    apart = (source // places).float()[:, None]
    unlike = 1 - cosines(values[source][None], values[target][None])[0]
    plan = transport(unlike * (1 - torch.exp(-apart.square() / 4.5)))
    best = (plan / plan.sum(dim=1, keepdim=True)).max(dim=1)
    stays = torch.zeros(len(source), dtype=torch.bool, device=into.device)
    stays[best.values.argsort(stable=True)[: budget - count]] = True
    goes = source[~stays]
    values[target] = take_up(values[target], values[goes], plan[~stays])
    step = torch.arange(len(into), device=into.device)
    step[goes] = target[best.indices[~stays]]
    return values, step[into]


def spread_in_frames(tokens: "torch.Tensor", count: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    """(F, M, W) → values (F, M, W), right at `count` anchors of each frame, and the anchor that each
    token counts to (F, M)."""
    import torch

    frames, places, width = tokens.shape
    every = torch.arange(places, device=tokens.device).expand(frames, -1)
    if count == places:
        return tokens, every
    is_anchor = anchors_of(tokens, count)
    anchor, other = every[is_anchor].view(frames, -1), every[~is_anchor].view(frames, -1)
    kept = tokens[is_anchor].view(frames, -1, width)
    gone = tokens[~is_anchor].view(frames, -1, width)
    side = math.isqrt(places - 1) + 1
    at = torch.stack([every // side, every % side], dim=-1).float() / max(side - 1, 1)
    of_kept = at.gather(1, anchor[..., None].expand(-1, -1, 2))
    of_gone = at.gather(1, other[..., None].expand(-1, -1, 2))
    plan = transport(1 - cosines(gone, kept) + 0.5 * torch.cdist(of_gone, of_kept))
    values = tokens.clone()
    values[is_anchor] = take_up(kept, gone, plan).flatten(0, 1)
    into = every.clone()
    into[~is_anchor] = anchor.gather(1, plan.argmax(dim=-1)).flatten()
    return values, into


def anchors_of(tokens: "torch.Tensor", count: int) -> "torch.Tensor":
    """(F, M, W) → (F, M), True at `count` of each frame: one from each of half as many runs of the grid,
    the least like the frame's mean, then those least like each other."""
    import torch

    frames, places, _ = tokens.shape
    chosen = torch.zeros(frames, places, dtype=torch.bool, device=tokens.device)
    frame = torch.arange(frames, device=tokens.device)
    odd = 1 - cosines(tokens, tokens.mean(dim=1, keepdim=True))[..., 0]
    first = 0
    for length in share(places, count // 2) if count > 1 else []:
        chosen[frame, first + odd[:, first : first + length].argmax(dim=1)] = True
        first += length
    return diverse(tokens, count - count // 2, chosen)


def transport(cost: "torch.Tensor") -> "torch.Tensor":
    """(..., n, m) → the plan of uniform marginals that makes the cost least, smoothed (Sinkhorn)."""
    sources, targets = cost.shape[-2:]
    log = -cost / TEMPERATURE
    for _ in range(ITERATIONS):
        log = log - log.logsumexp(dim=-1, keepdim=True) - math.log(sources)
        log = log - log.logsumexp(dim=-2, keepdim=True) - math.log(targets)
    return log.exp()


def take_up(kept: "torch.Tensor", gone: "torch.Tensor", plan: "torch.Tensor") -> "torch.Tensor":
    """kept (..., m, W) with the shares that the plan (..., n, m) gives them of gone (..., n, W)"""
    taken = plan.transpose(-1, -2)
    return (kept + taken @ gone) / (1 + taken.sum(dim=-1, keepdim=True))
