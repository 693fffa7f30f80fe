"""What a merging method makes of the tokens of a video, and the form that every method has."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


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
