"""The model's side: clips to captions in batches, whichever videos they belong to.

When memory runs out the batch is halved, for the rest of the run; with one clip, its frames. A batch
that fails is tried again clip by clip, so that one odd clip fails alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from crosslmm.captioning.options import CaptionOptions
from crosslmm.captioning.reading import Clip
from crosslmm.captioning.results import Segment
from crosslmm.errors import CrossLMMError, OutOfMemory
from crosslmm.inference.answer import FrameUsed
from crosslmm.inference.batch import BatchAnswers, answer_batch
from crosslmm.inference.encoding import release_memory
from crosslmm.video import Frames

if TYPE_CHECKING:
    from crosslmm.inference.assistant import Assistant


class Captioner:
    """Captions clips with one model. `encode_seconds` and `generate_seconds` add up as it goes.

    max_failures: videos that fail in a row after which the model, not the videos, is at fault.
    """

    def __init__(
        self,
        assistant: "Assistant",
        options: CaptionOptions,
        *,
        batch_size: int,
        max_failures: int = 8,
    ) -> None:
        self.assistant = assistant
        self.options = options
        self.batch_size = batch_size
        self.max_failures = max_failures
        self.encode_seconds = self.generate_seconds = 0.0
        self._failing: set[str] = set()
        self._notice = assistant.on_notice or (lambda text: None)

    def caption(self, clips: Sequence[Clip]) -> list[Segment]:
        """A segment for each clip, with its caption or its problem.

        Raises CrossLMMError when the model fails at everything.
        """
        done = [None if clip.frames is not None else _failed(clip, clip.problem) for clip in clips]
        left = [index for index, segment in enumerate(done) if segment is None]
        while left:
            batch, left = left[: self.batch_size], left[self.batch_size :]
            segments = self._caption([clips[index] for index in batch])
            for index, segment in zip(batch, segments, strict=True):
                done[index] = segment
        return [segment for segment in done if segment is not None]

    def _caption(self, clips: list[Clip]) -> list[Segment]:
        try:
            frames = [clip.frames for clip in clips if clip.frames is not None]
            segments = self._answer(clips, frames)
        except OutOfMemory as error:
            release_memory()
            if len(clips) == 1:
                return [self._caption_fewer_frames(clips[0], error)]
            self.batch_size = max(1, len(clips) // 2)
            self._notice(
                f"out of memory with {len(clips)} videos at once; {self.batch_size} from here on"
            )
            return self.caption(clips)
        except Exception as error:
            if len(clips) > 1:
                return [self._caption([clip])[0] for clip in clips]
            reason = str(error)
            if not isinstance(error, CrossLMMError):
                reason = f"the model failed: {type(error).__name__}: {error}"
            self._note_failure(clips[0], reason)
            return [_failed(clips[0], reason)]
        broken = [each for each in zip(clips, segments, strict=True) if each[1].problem]
        if len(broken) < len(clips):
            self._failing.clear()
        for clip, segment in broken:
            self._note_failure(clip, str(segment.problem))
        return segments

    def _note_failure(self, clip: Clip, reason: str) -> None:
        """CrossLMMError where the model, not the clip, is at fault."""
        self._failing.add(clip.path)
        if len(self._failing) >= self.max_failures:
            others = len(self._failing) - 1
            raise CrossLMMError(f"{reason}\nso did the {others} videos before it")

    def _caption_fewer_frames(self, clip: Clip, error: OutOfMemory) -> Segment:
        """One clip with every other frame, where all of them do not fit."""
        frames = clip.frames
        if frames is None or len(frames) == 1:
            return _failed(clip, str(error))
        fewer = replace(
            frames,
            pixels=frames.pixels[::2],
            indices=frames.indices[::2],
            times=frames.times[::2],
            warnings=(
                *frames.warnings,
                f"out of memory with {len(frames)} frames: fewer were used",
            ),
        )
        return self._caption([replace(clip, frames=fewer)])[0]

    def _answer(self, clips: list[Clip], frames: list[Frames]) -> list[Segment]:
        batch = answer_batch(
            self.assistant.runtime,
            frames,
            [self._prompt_for(clip) for clip in clips],
            max_new_tokens=self.options.max_new_tokens,
            merge=self.options.merge,
            keep=self.options.keep,
        )
        self.encode_seconds += batch.encode_seconds
        self.generate_seconds += batch.generate_seconds
        return [
            _captioned(clip, used, batch, index, merged=self.options.merge is not None)
            for index, (clip, used) in enumerate(zip(clips, frames, strict=True))
        ]

    def _prompt_for(self, clip: Clip) -> str:
        return self.options.render(clip.path, start=clip.start, duration=clip.end - clip.start)


def _captioned(
    clip: Clip, frames: Frames, batch: BatchAnswers, index: int, *, merged: bool
) -> Segment:
    answer = batch.answers[index]
    if answer.problem is not None:
        return _failed(clip, str(answer.problem))
    share = 1 / len(batch.answers)
    return Segment(
        start=clip.start,
        end=clip.end,
        caption=answer.text,
        frames=tuple(map(FrameUsed, frames.indices, frames.times)),
        tokens=answer.tokens,
        visual_tokens=answer.visual_tokens if merged else None,
        finish=answer.finish,
        warnings=(*frames.warnings, *answer.warnings),
        decode_seconds=clip.seconds,
        encode_seconds=batch.encode_seconds * share,
        generate_seconds=batch.generate_seconds * share,
    )


def _failed(clip: Clip, problem: str | None) -> Segment:
    return Segment(start=clip.start, end=clip.end, problem=problem, decode_seconds=clip.seconds)
