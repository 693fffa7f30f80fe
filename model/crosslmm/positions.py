"""Rotary positions where frames take another number of tokens than the weights were trained with.

What a language model knows of a frame's grid, and of how far frames are apart, it knows by the
positions of the trained grid. So a merged token takes the position of the trained cell at its centre
(cells of a finer grid share them: positions in between gave no clear gain), or of its own place,
and the text goes on where it would after all of these cells. A token's index in its row stays what
callers count with; what is added to it to give its position is the shift.
"""

from dataclasses import dataclass

import torch

from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.limits import VIDEO_CONTEXT
from crosslmm.merging import nearest_cells
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.visual_tokens import VisualTokens


@dataclass(frozen=True)
class PositionShift:
    """What is added to the indices of tokens to give their positions.

    - tokens: (B, L), for those of this pass.
    - following: (B, 1), for all that come after the videos of a row.
    """

    tokens: torch.Tensor
    following: torch.Tensor


def shift_positions(
    config: CrossLMMConfig, visual: VisualTokens | RaggedTokens, is_merged: torch.Tensor
) -> PositionShift | None:
    """The shift of a pass that holds merged tokens; None where the frames take as many as trained.

    is_merged: (B, L), True at the merged tokens. Videos that would take more than `VIDEO_CONTEXT` of
    the language model's context are fitted into it: their positions are scaled down, to fractions.
    """
    if isinstance(visual, RaggedTokens):
        return _shift_ragged(config, visual, is_merged)
    tokens, trained = visual.embeds.shape[2], config.tokens_per_frame
    if tokens == trained:
        return None
    merged = is_merged.cumsum(dim=1) + visual.first_frame * tokens  # (B, L), up to here
    rows = merged.shape[0]
    if visual.total_frames is None:
        frames = merged[:, -1:] // tokens
    else:
        frames = merged.new_full((rows, 1), visual.total_frames)
    index = (merged - 1).clamp(min=0)  # of a merged token among those of its row
    cells = torch.tensor(nearest_cells(tokens, trained), device=merged.device)
    grid = index // tokens * trained + cells[index % tokens]
    text, end = merged // tokens * trained, frames * trained  # in trained cells, so far
    room = _room(config)
    if (visual.total_frames or visual.embeds.shape[1]) * trained > room:
        scale = (room / end.clamp(min=1)).clamp(max=1.0)
        grid, text, end = grid * scale, (text * scale).ceil(), (end * scale).ceil()
    return PositionShift(
        tokens=torch.where(is_merged, grid - index, text - merged),
        following=end - frames * tokens,
    )


def _shift_ragged(
    config: CrossLMMConfig, visual: RaggedTokens, is_merged: torch.Tensor
) -> PositionShift | None:
    """As `shift_positions`: each token stands at its own place of the trained grids, and text after a
    video where that ends."""
    ends, kept = visual.all_places, visual.all_counts
    if kept == ends:
        return None
    device = is_merged.device
    merged = is_merged.cumsum(dim=1)  # (B, L), up to here, in this pass
    index = (merged - 1).clamp(min=0)
    place = visual.padded_places().to(device).gather(1, index)
    text = visual.padded_stood().to(device).gather(1, merged)  # in trained cells, so far
    count = torch.tensor(kept, device=device)[:, None]
    end = torch.tensor(ends, device=device)[:, None]
    room = _room(config)
    if max(ends) > room:
        scale = (room / end.clamp(min=1)).clamp(max=1.0)
        place, text, end = place * scale, (text * scale).ceil(), (end * scale).ceil()
    before = merged + visual.first
    shift = torch.where(is_merged, place - (index + visual.first), text - before)
    return PositionShift(tokens=shift, following=end - count)


def _room(config: CrossLMMConfig) -> int:
    return int(VIDEO_CONTEXT * config.context)
