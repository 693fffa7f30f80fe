"""Where a window of frames is cut into scenes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ALIKE = 0.9  # the cosine of consecutive frames' means below which a scene ends
MOST_FORCED = 8
FRAMES_PER_SCENE = 4


def scene_of(tokens: "torch.Tensor") -> "torch.Tensor":
    """tokens: (T, M, W) → (T,), the number of the scene that each frame belongs to, from 0.

    A window without as many scenes as one for every four frames, at most eight, is cut where
    consecutive frames are least alike.
    """
    import torch
    from torch.nn.functional import cosine_similarity

    means = tokens.float().mean(dim=1)
    alike = cosine_similarity(means[:-1], means[1:], dim=-1)
    wanted = min(MOST_FORCED, len(tokens) // FRAMES_PER_SCENE) - 1
    cuts = alike < ALIKE
    if int(cuts.sum()) < wanted:
        cuts[alike.argsort(stable=True)[:wanted]] = True
    return torch.cat([cuts.new_zeros(1, dtype=torch.long), cuts.cumsum(0)])
