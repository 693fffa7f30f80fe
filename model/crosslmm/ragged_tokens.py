"""Visual tokens of which frames have unequal numbers: what merging over all frames of a video gives.

Legend: K merged tokens of a video, M tokens of a frame before merging; others as in
`modeling_crosslmm.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from crosslmm.merging import MergedTokens


@dataclass(frozen=True, eq=False)
class RaggedTokens:
    """What the language model sees of a batch of videos, each merged to a number of tokens of its own.

    - tokens: (R, H), the merged tokens of all rows, one after another; counts: how many of each row.
    - mass: (R,), in float32 on the CPU: how many tokens each stands for.
    - place: (R,), on the CPU: where in its video's full sequence of T·M tokens each stands, rising.
    - frames: T of each video; pooled: M.
    - features: (B, T, N, D) as in `VisualTokens`; frame_mask: (B, T), True at real frames.
    - member: (T·M,), on the CPU: of one complete video, the merged token that each token went into.
    - first, total: of a part of one video, which merged token comes first, and how many there are in
      all; None where videos are complete.
    """

    tokens: torch.Tensor
    counts: tuple[int, ...]
    mass: torch.Tensor
    place: torch.Tensor
    frames: tuple[int, ...]
    pooled: int
    features: torch.Tensor | None
    frame_mask: torch.Tensor | None = None
    first: int = 0
    total: int | None = None
    member: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        merged: Sequence[MergedTokens | None],
        *,
        frames: Sequence[int],
        pooled: int,
        width: int,
        features: torch.Tensor | None,
        frame_mask: torch.Tensor | None = None,
    ) -> "RaggedTokens":
        """merged: of each row, None for one without a video; width: H."""
        found = [each for each in merged if each is not None]
        none = torch.zeros(0, dtype=torch.long)
        return cls(
            torch.cat([each.tokens for each in found]) if found else torch.zeros(0, width),
            tuple(0 if each is None else len(each.tokens) for each in merged),
            torch.cat([none.float(), *(each.mass.float().cpu() for each in found)]),
            torch.cat([none, *(each.place.cpu() for each in found)]),
            tuple(frames),
            pooled,
            features,
            frame_mask,
            member=found[0].member.cpu() if len(merged) == len(found) == 1 else None,
        )

    @property
    def is_start(self) -> bool:
        """Whether these are the first tokens of their videos."""
        return self.first == 0

    @property
    def longest(self) -> int:
        """The most tokens that a row has."""
        return max(self.counts)

    @property
    def all_counts(self) -> list[int]:
        """K of each row, of complete videos."""
        return list(self.counts) if self.total is None else [self.total]

    @property
    def all_places(self) -> list[int]:
        """T·M of each row, of complete videos."""
        return [frames * self.pooled for frames in self.frames]

    @property
    def own_frames(self) -> "FrameGroups":
        """Whose features each token reads where it reads those of its own frame only."""
        return FrameGroups(self)

    def flat(self) -> torch.Tensor:
        """(R, H), of all rows, one after another."""
        return self.tokens

    def per_row(self, device: torch.device) -> torch.Tensor:
        """(B, 1), how many of each row."""
        return torch.tensor(self.counts, device=device)[:, None]

    def parts(self, most: int) -> Iterator[tuple[int, int, "RaggedTokens"]]:
        """Of one video, runs of at most so many tokens, with the features of all: first, last
        (excluded) and the tokens between them."""
        (count,) = self.counts
        for first in range(0, count, most):
            last = min(first + most, count)
            yield (
                first,
                last,
                replace(
                    self,
                    tokens=self.tokens[first:last],
                    counts=(last - first,),
                    mass=self.mass[first:last],
                    place=self.place[first:last],
                    first=first,
                    total=count,
                ),
            )

    def padded_places(self) -> torch.Tensor:
        """(B, Q), `place` of each row, zero after shorter ones."""
        rows = self.place.split(self.counts)
        return nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


class FrameGroups:
    """The tokens of each frame side by side, padded, so that each frame's attend to its features only.

    Built once for a pass and used by all layers; frames without a token are left out.
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

    def spread(self, query: torch.Tensor) -> torch.Tensor:
        """(B, Q, H) → (G, C, H), zeros at the padding"""
        shape = (len(self._groups) * self._widest, query.shape[-1])
        padded = query.new_zeros(shape)
        padded = padded.index_copy(
            0, self._to.to(query.device), query.flatten(0, 1)[self._from.to(query.device)]
        )
        return padded.unflatten(0, (-1, self._widest))

    def collect(self, addend: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """(G, C, H) → (B, Q, H), the shape of `like`"""
        device = addend.device
        read = addend.flatten(0, 1)[self._to.to(device)]
        rows = addend.new_zeros(like.shape[:-1].numel(), like.shape[-1])
        return rows.index_copy(0, self._from.to(device), read).view(like.shape)

    def features(self, features: torch.Tensor) -> torch.Tensor:
        """(B, T, N, D) → (G, N, D)"""
        flat, groups = features.flatten(0, 1), self._groups
        first, last = int(groups[0]), int(groups[-1]) + 1
        if last - first == len(groups):
            return flat[first:last]
        return flat[groups.to(flat.device)]
