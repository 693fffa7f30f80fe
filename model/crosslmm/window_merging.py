"""Merging in windows of frames as they come, so that a long video's full tokens never exist at once."""

import torch

from crosslmm.limits import MERGED_FRAMES
from crosslmm.merging import MergedTokens, merge_tokens
from crosslmm.vision import FrameBuffer


class WindowMerger:
    """Gives each window of a video's frames its share of the tokens that are kept, by its frames."""

    def __init__(
        self, merge: str, *, frames: int, budget: int, window: int = MERGED_FRAMES
    ) -> None:
        """merge: a name in `MERGERS`; frames: how many will come, at most; budget: K, the tokens that
        are kept of all of them."""
        self._method = merge
        self._frames = frames
        self._budget = budget
        self._window = window
        self._buffer = FrameBuffer(min(window, frames))
        self._pending = 0
        self._done = 0  # frames that are merged
        self._merged: list[MergedTokens] = []
        self._kept = 0

    def allocate(self, tokens: torch.Tensor) -> None:
        """Allocate what adding tokens like these takes."""
        self._buffer.allocate(tokens)

    def add(self, tokens: torch.Tensor) -> None:
        """tokens: (F, M, W) of the frames that follow; a window is merged as soon as it is full."""
        while len(tokens):
            room = self._window - self._pending
            part, tokens = tokens[:room], tokens[room:]
            self._buffer.add(part)
            self._pending += len(part)
            if self._pending == self._window:
                until = self._done + self._window
                self._merge(self._budget * until // self._frames - self._kept)
                self._buffer = FrameBuffer(min(self._window, max(self._frames - until, 1)))

    def finish(self, budget: int | None = None) -> MergedTokens:
        """All that came, merged.

        budget: K of the frames that came, where these are fewer than expected; what earlier windows
        kept is not taken back.
        """
        if self._pending:
            self._merge((self._budget if budget is None else budget) - self._kept)
        if len(self._merged) == 1:
            return self._merged[0]
        return MergedTokens(
            torch.cat([part.tokens for part in self._merged]),
            torch.cat([part.place for part in self._merged]),
            torch.cat([part.member for part in self._merged]),
            torch.cat([part.mass for part in self._merged]),
        )

    def _merge(self, budget: int) -> None:
        tokens = self._buffer.joined()
        frames, pooled = tokens.shape[:2]
        budget = min(max(budget, 0 if self._kept else 1), frames * pooled)
        merged = self._merge_window(tokens, budget)
        if merged is not None:
            self._merged.append(merged)
        self._done += frames
        self._kept += budget
        self._pending = 0

    def _merge_window(self, tokens: torch.Tensor, budget: int) -> MergedTokens | None:
        if budget == 0:
            # Fewer tokens are kept than there are windows: the last one stands for these, too.
            last, count = self._merged[-1], tokens.shape[0] * tokens.shape[1]
            self._merged[-1] = MergedTokens(
                last.tokens,
                last.place,
                torch.cat([last.member, last.member.new_full((count,), self._kept - 1)]),
                torch.cat([last.mass[:-1], last.mass[-1:] + count]),
            )
            return None
        merged = merge_tokens(tokens, budget, self._method)
        return MergedTokens(
            merged.tokens,
            merged.place + self._done * tokens.shape[1],
            merged.member + self._kept,
            merged.mass,
        )
