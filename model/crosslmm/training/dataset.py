"""Samples as training examples: their frames, sampled as at inference, and their tokens.

A video that cannot be read is not replaced by another: it becomes `Skipped`, is counted and reported,
and ends the run beyond the recipe's limit.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from torch.utils.data import Dataset

from crosslmm.errors import VideoError
from crosslmm.options import Sampling
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.training.conversation import ConversationFormat, LabelledTokens
from crosslmm.training.recipe import Recipe
from crosslmm.training.records import Form, Sample
from crosslmm.video import Frames, sample


@dataclass(frozen=True, eq=False)
class Example:
    """LabelledTokens of one sample, and frames (T, S, S, 3) uint8 where there is something to see."""

    tokens: LabelledTokens
    frames: np.ndarray | None = None


@dataclass(frozen=True)
class Skipped:
    """A sample that cannot be trained on, and why. `origin` is its position in the data."""

    origin: str
    reason: str


class Samples(Protocol):
    """The samples of a run; one that cannot be trained on is known as such. `forms`: as of `Records`."""

    forms: set[Form]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample | Skipped: ...


class VideoDataset(Dataset[Example | Skipped]):
    """The examples of `samples` under a recipe, made when they are asked for."""

    def __init__(
        self,
        samples: Samples,
        *,
        recipe: Recipe,
        processor: CrossLMMProcessor,
        stop_token_ids: Sequence[int],
        context: int,
    ) -> None:
        """context: tokens that the model was made for, in all."""
        self.samples = samples
        self.context = context
        self.recipe = recipe
        self.processor = processor
        self._format = ConversationFormat(processor, stop_token_ids)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Example | Skipped:
        chosen = self.samples[index]
        if isinstance(chosen, Skipped):
            return chosen
        try:
            clips = self.sample_media(chosen)
        except VideoError as error:
            return Skipped(chosen.origin, str(error))
        pixels = np.concatenate([clip.pixels for clip in clips]) if clips else None
        timed = clips[0] if len(clips) == 1 else None  # several images have no times
        tokens = self._format.encode(
            chosen.turns,
            frames=0 if pixels is None else len(pixels),
            times=timed.times if timed else None,
            duration=timed.source.duration if timed else None,
            tokens_per_frame=self.recipe.tokens_per_frame,
        )
        length, limit = len(tokens.input_ids), self.recipe.max_length
        if limit is not None and length > limit:
            return Skipped(chosen.origin, f"{length:,} tokens are over max_length {limit:,}")
        if length > self.context:
            reason = f"{length:,} tokens are over the {self.context:,} of the model's context"
            return Skipped(chosen.origin, reason)
        return Example(tokens, pixels)

    def recheck(self, origins: Collection[str], share: slice) -> list[Skipped]:
        """Those of a share of the samples named by `origins` that still cannot be trained on."""
        named = (i for i in range(len(self)) if self.samples[i].origin in origins)
        examples = (self[index] for index in list(named)[share])
        return [example for example in examples if isinstance(example, Skipped)]

    def check_template(self) -> None:
        """Raises UsageError if the chat template does not fit, here rather than in a worker."""
        for form in sorted(self.samples.forms):
            self._format.check(form)

    def sample_media(self, chosen: Sample) -> list[Frames]:
        """The frames of its video or of each of its images. Raises VideoError."""
        recipe, size = self.recipe, self.processor.frame_size
        resample = int(self.processor.image_processor.resample)
        span = Sampling(start=chosen.start, end=chosen.end)
        sampling = replace(span, frames=recipe.frames, fps=recipe.fps, max_frames=recipe.max_frames)
        fewest = recipe.min_frames or 0
        clips = []
        for path in chosen.media:
            clip = sample(path, sampling, size=size, resample=resample)
            if len(clip) < min(fewest, clip.source.frame_count):
                clip = sample(path, replace(span, frames=fewest), size=size, resample=resample)
            clips.append(clip)
        return clips
