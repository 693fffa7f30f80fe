"""Examples as a batch: padded on the right, frames still in bytes.

Two decisions. Labels cover only the end of the rows, from just before the first token with a label:
logits for thousands of visual tokens would be the largest tensor of the step. And a batch with
nothing to see gets one blank frame, in a separate row without labels, so that every
parameter takes part in every step on every device, as data-parallel training requires.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.training.conversation import IGNORED, LabelledTokens
from crosslmm.training.dataset import Example, Skipped


class Collator:
    """Makes what `CrossLMMTrainer` takes of a list of examples.

    The batch has input_ids and attention_mask (B, L), labels (B, K) for the last K positions and
    logits_to_keep K, frames (B, T, S, S, 3) uint8, video_frame_mask (B, T), 1 = a real frame, and
    skipped, the samples that gave no row.
    """

    def __init__(
        self, processor: CrossLMMProcessor, *, tokens_per_frame: int | None = None
    ) -> None:
        self.processor = processor
        self.tokens_per_frame = tokens_per_frame

    def __call__(self, items: Sequence[Example | Skipped]) -> dict[str, Any]:
        rows = [item for item in items if isinstance(item, Example)]
        if all(row.frames is None for row in rows):
            rows.append(self._blank())
        return {
            **self._text([row.tokens for row in rows]),
            **self._videos([row.frames for row in rows]),
            "skipped": [item for item in items if isinstance(item, Skipped)],
        }

    def _text(self, rows: list[LabelledTokens]) -> dict[str, Any]:
        longest = max(len(row.input_ids) for row in rows)
        padding = self.processor.tokenizer.pad_token_id
        input_ids = torch.full((len(rows), longest), int(padding))
        attention_mask = torch.zeros(len(rows), longest, dtype=torch.long)
        labels = torch.full((len(rows), longest), IGNORED)
        for index, row in enumerate(rows):
            length = len(row.input_ids)
            input_ids[index, :length] = torch.tensor(row.input_ids)
            attention_mask[index, :length] = 1
            labels[index, :length] = torch.tensor(row.labels)
        learned = (labels != IGNORED).any(dim=0).nonzero()
        # A token is predicted at the position before it.
        start = max(int(learned[0]) - 1, 0) if len(learned) else longest - 1
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": labels[:, start:],
            "logits_to_keep": longest - start,
        }

    def _videos(self, clips: list[np.ndarray | None]) -> dict[str, torch.Tensor]:
        lengths = [0 if clip is None else len(clip) for clip in clips]
        frames = torch.zeros(
            len(clips), max(lengths), *self.processor.frame_size, 3, dtype=torch.uint8
        )
        for index, clip in enumerate(clips):
            if clip is not None:
                frames[index, : len(clip)] = torch.from_numpy(clip)
        mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        return {"frames": frames, "video_frame_mask": mask.long()}

    def _blank(self) -> Example:
        processor = self.processor
        prompt = processor.expand(processor.video_token, 1, tokens_per_frame=self.tokens_per_frame)
        ids = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids.append(int(processor.tokenizer.pad_token_id))
        blank = np.zeros((1, *processor.frame_size, 3), dtype=np.uint8)
        return Example(LabelledTokens(ids, [IGNORED] * len(ids)), blank)
