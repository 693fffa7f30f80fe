"""Visual tokens of which frames have unequal numbers: what merging over all frames of a video gives.

Legend: K merged tokens of a video, M tokens of a frame before merging; others as in
`modeling_crosslmm.py`.
"""

from collections.abc import Sequence
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
    - member: on the CPU, the merged token of its video that each token went into: (T·M,), of each
      complete video, one after another.
    - first, total: of a part of one video, which merged token comes first, and how many there are in
      all; None where videos are complete. stood: how many tokens those before it stand for.
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
    stood: int = 0
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
            member=torch.cat([none, *(each.member.cpu() for each in found)]),
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

    def flat(self) -> torch.Tensor:
        """(R, H), of all rows, one after another."""
        return self.tokens

    def per_row(self, device: torch.device) -> torch.Tensor:
        """(B, 1), how many of each row."""
        return torch.tensor(self.counts, device=device)[:, None]

    def step(self, most: int) -> int:
        """So many tokens: no two belong together."""
        return most

    def between(self, first: int, last: int) -> "RaggedTokens":
        """Of one row, tokens first to last (excluded), with the features of all."""
        (count,) = self.counts
        return replace(
            self,
            tokens=self.tokens[first:last],
            counts=(last - first,),
            mass=self.mass[first:last],
            place=self.place[first:last],
            first=first,
            total=count,
            stood=int(self.mass[:first].sum()),
        )

    def padded_stood(self) -> torch.Tensor:
        """(B, Q + 1), how many tokens of its video the first so many of each row stand for."""
        rows = [each.long().cumsum(0) for each in self.mass.split(self.counts)]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return nn.functional.pad(padded, (1, 0)) + self.stood

    def padded_places(self) -> torch.Tensor:
        """(B, Q), `place` of each row, zero after shorter ones."""
        rows = self.place.split(self.counts)
        return nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
