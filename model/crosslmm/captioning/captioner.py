"""The model's side: clips to captions in batches, whatever videos they are of.

When memory runs out the batch is halved, for good; with one clip, its frames. What goes wrong with a
batch is tried again clip by clip, so that one odd clip fails alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crosslmm.captioning.reading import Clip
from crosslmm.captioning.results import Segment
from crosslmm.errors import CrossLMMError, OutOfMemory
from crosslmm.inference.answer import FrameUsed
from crosslmm.inference.batch import BatchAnswers, answer_batch
from crosslmm.inference.encoding import release_memory
from crosslmm.video import Frames

if TYPE_CHECKING:
    from crosslmm.inference.assistant import Assistant

# Videos that fail in a row after which the model, not the videos, is at fault.
_MOST_FAILURES = 8


@dataclass(frozen=True, eq=False)
class Task:
    """A clip and what is asked about it."""

    clip: Clip
    prompt: str


class Captioner:
    """Captions clips with one model. `encode_seconds` and `generate_seconds` add up as it goes."""

    def __init__(self, assistant: "Assistant", *, batch_size: int, max_new_tokens: int) -> None:
        self.assistant = assistant
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.encode_seconds = self.generate_seconds = 0.0
        self._failing: set[str] = set()
        self._notice = assistant.on_notice or (lambda text: None)

    def caption(self, tasks: Sequence[Task]) -> list[Segment]:
        """A segment per task, with its caption or its problem.

        Raises CrossLMMError when the model fails at everything.
        """
        done = [
            None if task.clip.frames is not None else _failed(task.clip, task.clip.problem)
            for task in tasks
        ]
        left = [place for place, segment in enumerate(done) if segment is None]
        while left:
            places, left = left[: self.batch_size], left[self.batch_size :]
            segments = self._caption([tasks[place] for place in places])
            for place, segment in zip(places, segments, strict=True):
                done[place] = segment
        return [segment for segment in done if segment is not None]

    def _caption(self, tasks: list[Task]) -> list[Segment]:
        frames = [task.clip.frames for task in tasks]
        try:
            segments = self._answer(tasks, [clip for clip in frames if clip is not None])
        except OutOfMemory as error:
            release_memory()
            if len(tasks) == 1:
                return [self._thinned(tasks[0], error)]
            self.batch_size = max(1, len(tasks) // 2)
            self._notice(
                f"out of memory with {len(tasks)} videos at once; {self.batch_size} from here on"
            )
            return self.caption(tasks)
        except Exception as error:
            if len(tasks) > 1:
                return [self._caption([task])[0] for task in tasks]
            self._failing.update(clip.source.path for clip in frames if clip is not None)
            reason = f"the model failed: {type(error).__name__}: {error}"
            if len(self._failing) >= _MOST_FAILURES:
                raise CrossLMMError(
                    f"{reason}\nso did the {len(self._failing) - 1} videos before it"
                ) from error
            return [_failed(tasks[0].clip, reason)]
        self._failing.clear()
        return segments

    def _thinned(self, task: Task, error: OutOfMemory) -> Segment:
        """One clip with every other frame, where all of them do not fit."""
        frames = task.clip.frames
        if frames is None or len(frames) == 1:
            return _failed(task.clip, str(error))
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
        return self._caption([replace(task, clip=replace(task.clip, frames=fewer))])[0]

    def _answer(self, tasks: list[Task], frames: list[Frames]) -> list[Segment]:
        batch = answer_batch(
            self.assistant.runtime,
            frames,
            [task.prompt for task in tasks],
            max_new_tokens=self.max_new_tokens,
        )
        self.encode_seconds += batch.encode_seconds
        self.generate_seconds += batch.generate_seconds
        return [
            _captioned(task.clip, clip, batch, place)
            for place, (task, clip) in enumerate(zip(tasks, frames, strict=True))
        ]


def _captioned(clip: Clip, frames: Frames, batch: BatchAnswers, place: int) -> Segment:
    answer = batch.answers[place]
    share = 1 / len(batch.answers)
    return Segment(
        start=clip.start,
        end=clip.end,
        caption=answer.text,
        frames=tuple(map(FrameUsed, frames.indices, frames.times)),
        tokens=answer.tokens,
        finish=answer.finish,
        warnings=frames.warnings,
        decode_seconds=clip.seconds,
        encode_seconds=batch.encode_seconds * share,
        generate_seconds=batch.generate_seconds * share,
    )


def _failed(clip: Clip, problem: str | None) -> Segment:
    return Segment(start=clip.start, end=clip.end, problem=problem, decode_seconds=clip.seconds)
