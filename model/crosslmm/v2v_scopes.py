"""Which of the features each merged token reads: those of the whole video (the paper), of the frames up
to its own, of its own frame, or of the patches that it stands for.

Each scope calls a V2V branch with as many of the merged tokens together as read the same, so that none
needs a mask. Built once for a pass and used by all layers.

Legend: Q merged tokens of a row, the most that one has; others as in `modeling_crosslmm.py`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from crosslmm.limits import SLICE_BYTES
from crosslmm.merging import cell_of
from crosslmm.options import V2VScope
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.visual_tokens import VisualTokens

Branch = Callable[..., torch.Tensor]  # a `GatedCrossAttention`


class VisualScope(Protocol):
    """What the merged tokens of a pass read."""

    def read(
        self,
        v2v: Branch,
        query: torch.Tensor,
        features: torch.Tensor,
        mask: torch.Tensor | None,
        counts: Sequence[int] | None,
    ) -> torch.Tensor:
        """query (B, Q, H), features (B, T, N, D), mask (B, T·N) with True = a real frame → (B, Q, H)

        counts: as `GatedCrossAttention.forward` takes them, with the mask.
        """
        ...


class CompleteVideo:
    """Each token reads all features of its video."""

    def read(
        self,
        v2v: Branch,
        query: torch.Tensor,
        features: torch.Tensor,
        mask: torch.Tensor | None,
        counts: Sequence[int] | None,
    ) -> torch.Tensor:
        return v2v(query, features.flatten(1, 2), mask, counts=counts)


class PastFrames:
    """Each token reads the features of the frames up to its own."""

    def __init__(self, frames: Sequence[Sequence[int]], queries: int, patches: int) -> None:
        """frames: of each row, that of each token, rising; queries: Q; patches: N."""
        self._last = max((row[-1] for row in frames if row), default=-1)
        self._runs: list[list[tuple[int, int]]] = []
        for row in frames:
            runs = [(tokens, (frame + 1) * patches) for frame, tokens in Counter(row).items()]
            self._runs.append([*runs, (queries - len(row), 0)])

    def read(
        self,
        v2v: Branch,
        query: torch.Tensor,
        features: torch.Tensor,
        mask: torch.Tensor | None,
        counts: Sequence[int] | None,
    ) -> torch.Tensor:
        return v2v(query, features[:, : self._last + 1].flatten(1, 2), runs=self._runs)


class OwnFrames:
    """Each token reads the features of its frame, all of which have as many tokens."""

    def __init__(self, frames: slice) -> None:
        self._frames = frames

    def read(
        self,
        v2v: Branch,
        query: torch.Tensor,
        features: torch.Tensor,
        mask: torch.Tensor | None,
        counts: Sequence[int] | None,
    ) -> torch.Tensor:
        own = features[:, self._frames].flatten(0, 1)
        by_frame = query.reshape(len(own), -1, query.shape[-1])
        return v2v(by_frame, own).view(query.shape)


class FrameGroups:
    """Each token reads the features of its frame, of which some have more tokens than others.

    They stand side by side, padded; frames without a token are left out.
    """

    def __init__(self, visual: RaggedTokens) -> None:
        rows = torch.repeat_interleave(torch.tensor(visual.counts))  # (R,), of the batch
        most = max(visual.frames)
        frame = rows * most + visual.place // visual.pooled
        self._groups, group, sizes = frame.unique_consecutive(
            return_inverse=True, return_counts=True
        )
        self._widest = int(sizes.max())
        within = torch.arange(len(frame)) - (sizes.cumsum(0) - sizes)[group]
        column = torch.cat([torch.arange(count) for count in visual.counts])
        device = visual.tokens.device
        self._from = (rows * visual.longest + column).to(device)  # in (B · Q)
        self._to = (group * self._widest + within).to(device)  # in (G · C)

    def read(
        self,
        v2v: Branch,
        query: torch.Tensor,
        features: torch.Tensor,
        mask: torch.Tensor | None,
        counts: Sequence[int] | None,
    ) -> torch.Tensor:
        return self._collect(v2v(self._spread(query), self._features(features)), query)

    def _spread(self, query: torch.Tensor) -> torch.Tensor:
        """(B, Q, H) → (G, C, H), zeros at the padding"""
        shape = (len(self._groups) * self._widest, query.shape[-1])
        padded = query.new_zeros(shape)
        padded = padded.index_copy(
            0, self._to.to(query.device), query.flatten(0, 1)[self._from.to(query.device)]
        )
        return padded.unflatten(0, (-1, self._widest))

    def _collect(self, addend: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """(G, C, H) → (B, Q, H), the shape of `like`"""
        device = addend.device
        read = addend.flatten(0, 1)[self._to.to(device)]
        rows = addend.new_zeros(like.shape[:-1].numel(), like.shape[-1])
        return rows.index_copy(0, self._from.to(device), read).view(like.shape)

    def _features(self, features: torch.Tensor) -> torch.Tensor:
        """(B, T, N, D) → (G, N, D)"""
        flat, groups = features.flatten(0, 1), self._groups
        first, last = int(groups[0]), int(groups[-1]) + 1
        if last - first == len(groups):
            return flat[first:last]
        return flat[groups.to(flat.device)]


class MemberPatches:
    """Each token reads the patches that went into it, and no two the same.

    Tokens with as many patches are read together: nothing is padded, and each patch is projected once.
    """

    def __init__(self, owner: torch.Tensor, queries: int) -> None:
        """owner: (B, T·N), on the CPU: the token of its row that each patch went into, negative where
        that is none of this pass; queries: Q."""
        patches = (owner >= 0).flatten().nonzero().flatten()
        rows = torch.arange(len(owner))[:, None] * queries
        order = (owner + rows).flatten()[patches].sort(stable=True)
        patches = patches[order.indices]
        tokens, sizes = order.values.unique_consecutive(return_counts=True)
        starts = sizes.cumsum(0) - sizes
        self._groups: list[tuple[torch.Tensor, torch.Tensor]] = []
        for size in sizes.unique().tolist():
            chosen = sizes == size
            index = starts[chosen][:, None] + torch.arange(size)
            self._groups.append((tokens[chosen], patches[index]))  # (G,) and (G, size)

    def read(
        self,
        v2v: Branch,
        query: torch.Tensor,
        features: torch.Tensor,
        mask: torch.Tensor | None,
        counts: Sequence[int] | None,
    ) -> torch.Tensor:
        flat, queries = features.flatten(0, 2), query.flatten(0, 1)
        tokens, parts = [], []
        for group, patches in self._parts(flat.shape[1] * query.element_size()):
            group, patches = group.to(query.device), patches.to(flat.device)
            tokens.append(group)
            parts.append(v2v(queries[group][:, None], flat[patches])[:, 0])
        addend = torch.zeros_like(queries)
        if parts:
            addend = addend.index_copy(0, torch.cat(tokens), torch.cat(parts))
        return addend.view(query.shape)

    def _parts(self, patch_bytes: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Groups of which the features are alive together."""
        for tokens, patches in self._groups:
            most = max(1, SLICE_BYTES // (patches.shape[1] * patch_bytes))
            yield from zip(tokens.split(most), patches.split(most), strict=True)


def make_scope(visual: VisualTokens | RaggedTokens, scope: V2VScope) -> VisualScope:
    """What merged tokens read; they must have features. Raises ValueError where padding frames come
    before real ones and a scope does not know them."""
    assert visual.features is not None
    if scope == "video":
        return CompleteVideo()
    if scope == "frame":
        if isinstance(visual, VisualTokens):
            return OwnFrames(visual.own_frames)
        return FrameGroups(visual)
    patches = visual.features.shape[2]
    if scope == "past":
        return PastFrames(_frame_of_tokens(visual), visual.longest, patches)
    return MemberPatches(_token_of_patches(visual, patches), visual.longest)


def _real_frames(visual: VisualTokens | RaggedTokens) -> list[int]:
    """T of each row without its padding frames. Raises ValueError where these do not come last."""
    assert visual.features is not None
    rows, most = visual.features.shape[:2]
    if visual.frame_mask is None:
        return [most] * rows
    real = visual.frame_mask.cpu()
    frames = [int(count) for count in real.sum(dim=1)]
    if not all(bool(row[:count].all()) for row, count in zip(real, frames, strict=True)):
        raise ValueError("padding frames come after a video's own")
    return frames


def _frame_of_tokens(visual: VisualTokens | RaggedTokens) -> list[list[int]]:
    """Of each row, the frame of each token of this pass."""
    real = _real_frames(visual)
    if isinstance(visual, RaggedTokens):
        return [row.tolist() for row in (visual.place // visual.pooled).split(visual.counts)]
    given, tokens = visual.embeds.shape[1:3]
    first = visual.first_frame
    return [
        [frame for frame in range(first, min(first + given, frames)) for _ in range(tokens)]
        for frames in real
    ]


def _token_of_patches(visual: VisualTokens | RaggedTokens, patches: int) -> torch.Tensor:
    """(B, T·N), the token of this pass that each patch went into, negative where there is none."""
    real = _real_frames(visual)
    pooled = visual.pooled if isinstance(visual, RaggedTokens) else visual.embeds.shape[2]
    cell = torch.tensor(cell_of(patches, pooled))  # (N,)
    most = visual.features.shape[1] if visual.features is not None else 0
    owner = torch.full((len(real), most, patches), -1)
    if isinstance(visual, VisualTokens):
        first, given = visual.first_frame, visual.embeds.shape[1]
        token = torch.arange(given)[:, None] * pooled + cell  # (F, N)
        for row, frames in zip(owner, real, strict=True):
            row[first : first + given] = token
            row[frames:] = -1
        return owner.flatten(1)
    assert visual.member is not None
    members = visual.member.split([frames * pooled for frames in visual.frames])
    for row, member, count in zip(owner, members, visual.counts, strict=True):
        frames = len(member) // pooled
        token = member.view(frames, pooled)[:, cell] - visual.first
        row[:frames] = torch.where(token < count, token, -1)
    return owner.flatten(1)
