"""The videos and images of a batch of prompts, each at its placeholder."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from crosslmm.prompts.frame_pixels import FramePixels
from crosslmm.prompts.inputs import ClipInput, split_batch


@dataclass(frozen=True)
class PromptVisuals:
    """`rows` has the clips of each prompt in the order of their placeholders, none for a prompt that is
    text only. An image is a clip of one frame."""

    rows: Sequence[Sequence[ClipInput]]

    @classmethod
    def read(
        cls,
        prompts: Sequence[str],
        given: Mapping[str, Any],
        tokens: Mapping[str, str],
        read: Callable[[Any, str], ClipInput],
    ) -> "PromptVisuals":
        """given: what the user gave as `image` and `video`; tokens: their placeholders; read: makes
        clips of them. Raises ValueError where they do not match the prompts."""
        dealt: dict[str, list[list[Any]]] = {}
        for kind, token in tokens.items():
            places = [prompt.count(token) for prompt in prompts]
            if any(places) and given[kind] is None:
                raise ValueError(f"the prompt has {token} but no {kind} was given")
            dealt[kind] = split_batch(given[kind], places, kind, token)
        kinds = {token: kind for kind, token in tokens.items()}
        placeholder = "|".join(map(re.escape, kinds))
        rows = []
        for index, prompt in enumerate(prompts):
            rest = {kind: iter(batch[index]) for kind, batch in dealt.items()}
            found = [kinds[match[0]] for match in re.finditer(placeholder, prompt)]
            rows.append([read(next(rest[kind]), kind) for kind in found])
        return cls(rows)

    def frames(self, kind: str) -> list[int]:
        """Frames of each clip of this kind, over all prompts."""
        return [len(clip.frames) for row in self.rows for clip in row if clip.kind == kind]

    def pixels(self, settings: Mapping[str, FramePixels]) -> dict[str, torch.Tensor]:
        """The frames of each prompt, one clip after another: `pixel_values_videos` (B, T, 3, S, S), and
        which of them are real: `video_frame_mask` (B, T).

        settings: of images and of videos.
        """
        sizes = {settings[clip.kind].size for row in self.rows for clip in row}
        if len(sizes) > 1:
            raise ValueError("images and videos of one batch need the same `size`")
        videos = []
        for row in self.rows:
            parts = [torch.zeros(0, 3, *next(iter(sizes)))]
            for clip in row:
                of_kind = settings[clip.kind]
                resized = np.stack([of_kind.resize(frame) for frame in clip.frames])
                parts.append(of_kind.normalise(torch.from_numpy(resized)))
            videos.append(torch.cat(parts))
        lengths = torch.tensor([len(video) for video in videos])
        return {
            "pixel_values_videos": torch.nn.utils.rnn.pad_sequence(videos, batch_first=True),
            "video_frame_mask": torch.arange(int(lengths.max())) < lengths[:, None],
        }

    def kinds_of_tokens(
        self, input_ids: Sequence[Any], video_token_id: int, places: Callable[[int], int]
    ) -> list[list[int]]:
        """(B, L), as transformers numbers them: 0 is text, 1 of an image, 2 of a video.

        places: of a clip of so many frames. Raises ValueError for a prompt that was truncated.
        """
        kinds_of_batch = []
        for ids, row in zip(input_ids, self.rows, strict=True):
            expected = [places(len(clip.frames)) for clip in row]
            is_placeholder = np.asarray(ids) == video_token_id
            if row and is_placeholder.sum() != sum(expected):
                raise ValueError(
                    f"the prompt was truncated to {len(ids)} tokens and its video takes "
                    f"{sum(expected)}: give a larger max_length, or fewer frames"
                )
            kinds = np.zeros(len(ids), dtype=int)
            if row:
                numbers = [1 if clip.kind == "image" else 2 for clip in row]
                kinds[is_placeholder] = np.repeat(numbers, expected)
            kinds_of_batch.append(kinds.tolist())
        return kinds_of_batch
