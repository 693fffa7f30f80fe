"""What a merging method makes of the tokens of a video, and the form that every method has."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

COLUMNS = 256


@dataclass(frozen=True, eq=False)
class MergedTokens:
    """K merged tokens of a video of T frames with M tokens each, in the order of time and place.

    - tokens: (K, W).
    - place: (K,), the index in the full sequence of T·M tokens that each stands at, rising; its frame
      is `place // M`.
    - member: (T·M,), the merged token, 0 to K-1, that every token went into, or stands for the most.
    - mass: (K,), how many tokens each stands for; the masses sum to T·M.
    """

    tokens: "torch.Tensor"
    place: "torch.Tensor"
    member: "torch.Tensor"
    mass: "torch.Tensor"


class Merger(Protocol):
    """A merging method without parameters that are trained."""

    def merge(
        self,
        tokens: "torch.Tensor",
        budget: int,
    ) -> MergedTokens:
        """tokens: (T, M, W) → exactly `budget` merged tokens, 1 to T·M.

        Raises ValueError for a budget that the method cannot meet exactly.
        """
        ...


def merge_into(tokens: "torch.Tensor", place: "torch.Tensor") -> MergedTokens:
    """The means of the tokens (T, M, W) that stand at the same place.

    place: (T·M,), of the token that each goes into, which goes into itself.
    """
    import torch

    stays = place == torch.arange(len(place), device=place.device)
    member = (stays.cumsum(0) - 1)[place]
    mass = torch.bincount(member)
    merged = mean_of(tokens.flatten(0, 1), member, mass)
    return MergedTokens(merged, stays.nonzero().flatten(), member, mass)


def mean_of(tokens: "torch.Tensor", member: "torch.Tensor", mass: "torch.Tensor") -> "torch.Tensor":
    """tokens (n, W) → the means of each group (K, W), zero where it is empty.

    member: (n,), the group of each; mass: (K,), how many a group has.
    """
    means = tokens.new_empty(len(mass), tokens.shape[-1])
    for columns in range(0, tokens.shape[-1], COLUMNS):  # no copy of all in float32
        part = tokens[:, columns : columns + COLUMNS].float()
        sums = part.new_zeros(len(mass), part.shape[-1]).index_add_(0, member, part)
        means[:, columns : columns + COLUMNS] = sums / mass.clamp(min=1)[:, None]
    return means
