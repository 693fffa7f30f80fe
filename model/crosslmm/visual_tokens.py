"""The visual tokens of a batch of videos, and how merged tokens replace the placeholders of a prompt."""

from dataclasses import dataclass

import torch
from torch import nn

from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.merging import grid_side
from crosslmm.ragged_tokens import RaggedTokens


@dataclass(frozen=True)
class VisualTokens:
    """What the language model sees of a batch of videos.

    - embeds: (B, T, M, H), merged tokens, projected, for the placeholders of the prompt.
    - features: (B, T, N, D), normalised, for cross-attention; None where every gate is
      closed and nothing would read them.
    - frame_mask: (B, T), True at real frames; None where all are.
    - first_frame, total_frames: of a part of a video, which frame of it comes first, and how many it
      has in all; None where `embeds` are of complete videos.
    """

    embeds: torch.Tensor
    features: torch.Tensor | None
    frame_mask: torch.Tensor | None = None
    first_frame: int = 0
    total_frames: int | None = None

    @property
    def is_start(self) -> bool:
        """Whether these are the first tokens of their videos."""
        return self.first_frame == 0

    @property
    def longest(self) -> int:
        """The most tokens that a row has."""
        return self.embeds.shape[1:3].numel()

    @property
    def own_frames(self) -> slice:
        """Those of the features that the merged tokens stand for."""
        return slice(self.first_frame, self.first_frame + self.embeds.shape[1])

    def flat(self) -> torch.Tensor:
        """(R, H), the merged tokens of all rows, one after another."""
        embeds = self.embeds if self.frame_mask is None else self.embeds[self.frame_mask]
        return embeds.flatten(0, -2)

    def per_row(self, device: torch.device) -> torch.Tensor:
        """(B, 1), how many of each row."""
        if self.frame_mask is None:
            return torch.full((len(self.embeds), 1), self.longest, device=device)
        return self.frame_mask.sum(dim=1, keepdim=True) * self.embeds.shape[2]

    def step(self, most: int) -> int:
        """About so many tokens, of complete frames."""
        tokens = self.embeds.shape[2]
        return max(1, most // tokens) * tokens

    def between(self, first: int, last: int) -> "VisualTokens":
        """Of one row, tokens first to last (excluded) of complete frames, with the features of all."""
        tokens = self.embeds.shape[2]
        return self.part(first // tokens, last // tokens)

    def part(self, first: int, last: int) -> "VisualTokens":
        """Merged tokens of frames first to last (excluded), with the features of all; no padding."""
        assert self.frame_mask is None
        return VisualTokens(
            self.embeds[:, first:last],
            self.features,
            first_frame=first,
            total_frames=self.embeds.shape[1],
        )


def count_tokens_per_frame(
    config: CrossLMMConfig, is_placeholder: torch.Tensor, frames: list[int]
) -> int:
    """M, from the number of placeholders of each row; merging has no parameters to ask.

    is_placeholder: (B, L); frames: of each row, over all of its videos, each of which may end with a
    newline. Raises ValueError where they do not fit.
    """
    counts = [int(count) for count in is_placeholder.sum(dim=1).tolist()]
    newline = int(config.video_newline)
    ends = is_placeholder & ~nn.functional.pad(is_placeholder[:, 1:], (0, 1))
    newlines = [newline * int(count) for count in ends.sum(dim=1).tolist()]
    row = next((row for row, count in enumerate(frames) if count), 0)
    tokens = (counts[row] - newlines[row]) // max(frames[row], 1)
    expected = [
        count * tokens + ended if count else 0
        for count, ended in zip(frames, newlines, strict=True)
    ]
    if counts != expected or grid_side(tokens, config.patches_per_frame) is None:
        raise ValueError(
            f"{counts} video placeholders do not fit videos of {frames} frames"
            f"{' and a newline' if newline else ''}: each frame takes a perfect square of "
            f"tokens up to {config.patches_per_frame}, the same for all"
        )
    return tokens


def find_placeholders(
    video_token: int,
    embedding: nn.Module,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
) -> torch.Tensor:
    """(B, L), True where a merged token belongs: by its id, or by the embedding of that id."""
    if input_ids is not None:
        return input_ids == video_token
    assert inputs_embeds is not None
    wanted = embedding(torch.tensor(video_token, device=inputs_embeds.device))
    return (inputs_embeds == wanted.to(inputs_embeds)).all(dim=-1)


def count_merged(
    config: CrossLMMConfig, is_placeholder: torch.Tensor, frames: list[int]
) -> list[int]:
    """K of each row, from the number of its placeholders.

    is_placeholder: (B, L); frames: of each row's video, which may end with a newline. Raises ValueError
    where they do not fit.
    """
    counts = [int(count) for count in is_placeholder.sum(dim=1).tolist()]
    ends = is_placeholder & ~nn.functional.pad(is_placeholder[:, 1:], (0, 1))
    videos = [int(count) for count in ends.sum(dim=1).tolist()]
    if max(videos) > 1:
        raise ValueError("`merge` takes one video in a prompt")
    newline = int(config.video_newline)
    kept = [count - newline * found for count, found in zip(counts, videos, strict=True)]
    most = [count * config.tokens_per_frame for count in frames]
    if any(not min(1, high) <= count <= high for count, high in zip(kept, most, strict=True)):
        raise ValueError(
            f"{counts} video placeholders do not fit videos of {frames} frames"
            f"{' and a newline' if newline else ''}: with `merge` each takes from 1 to "
            f"{config.tokens_per_frame} tokens for every frame"
        )
    return kept


def insert_merged(
    visual: VisualTokens | RaggedTokens,
    inputs_embeds: torch.Tensor,
    is_placeholder: torch.Tensor,
    newline: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (B, L, H) with merged tokens at the placeholders (B, L), and where these are.

    newline: (H,), for the last placeholder of each video, where there are more than merged tokens.
    """
    is_merged = is_placeholder
    if newline is not None:
        follows = nn.functional.pad(is_placeholder[:, 1:], (0, 1))
        placeholders = is_placeholder.sum(dim=1, keepdim=True)
        exceeds = placeholders > visual.per_row(is_placeholder.device)
        is_newline = is_placeholder & ~follows & exceeds
        is_merged = is_placeholder & ~is_newline
        inputs_embeds = torch.where(is_newline[..., None], newline.to(inputs_embeds), inputs_embeds)
    embeds = visual.flat().to(inputs_embeds)
    if embeds.numel() != int(is_merged.sum()) * embeds.shape[-1]:
        raise ValueError(
            f"{int(is_merged.sum())} placeholders in the prompt for {embeds[..., 0].numel()} merged "
            "tokens"
        )
    return inputs_embeds.masked_scatter(is_merged[..., None], embeds), is_merged


def frames_per_row(pixel_values: torch.Tensor, frame_mask: torch.Tensor | None) -> list[int]:
    """Frames of each video: pixel_values (B, T, 3, S, S), frame_mask (B, T)."""
    if frame_mask is None:
        return [pixel_values.shape[1]] * pixel_values.shape[0]
    return [int(count) for count in frame_mask.sum(dim=1).tolist()]


def patch_mask(frame_mask: torch.Tensor | None, config: CrossLMMConfig) -> torch.Tensor | None:
    """(B, T) → (B, T·N), True at the features of real frames; None where all are."""
    if frame_mask is None or bool(frame_mask.all()):
        return None
    return frame_mask.repeat_interleave(config.patches_per_frame, dim=1)


def patch_counts(frame_mask: torch.Tensor | None, config: CrossLMMConfig) -> tuple[int, ...] | None:
    """(B, T) → of each row the features of its real frames, where these come first in every row."""
    if frame_mask is None or torch.compiler.is_compiling():  # a graph has no such numbers
        return None
    if bool(frame_mask.all()):
        return None
    if bool((frame_mask[:, 1:] & ~frame_mask[:, :-1]).any()):
        return None
    return tuple(count * config.patches_per_frame for count in frame_mask.sum(dim=1).tolist())


class TokenPositions:
    """Positions of one kind of token in each row of a batch, ready to gather and to add back.

    index: (B, Q), valid: (B, Q); rows with fewer such tokens are filled up with invalid slots.
    """

    def __init__(self, chosen: torch.Tensor, count: int) -> None:
        """chosen: (B, L), True at the tokens meant; count: the most that a row has."""
        order = torch.argsort(~chosen, dim=1, stable=True)[:, :count]
        self.index = order
        self.valid = torch.gather(chosen, 1, order)

    def take(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, L, H) → (B, Q, H)"""
        return hidden_states.gather(1, self._rows(hidden_states))

    def add(self, hidden_states: torch.Tensor, addend: torch.Tensor) -> torch.Tensor:
        """hidden_states (B, L, H) with addend (B, Q, H) added at these positions."""
        addend = addend.to(hidden_states.dtype) * self.valid[..., None].to(addend.device)
        return hidden_states.scatter_add(1, self._rows(hidden_states), addend)

    def _rows(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # A model over several devices moves the tensors it passes on, but not what is inside of this.
        index = self.index.to(hidden_states.device)
        return index[..., None].expand(-1, -1, hidden_states.shape[-1])
