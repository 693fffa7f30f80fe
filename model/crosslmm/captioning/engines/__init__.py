"""Where videos are captioned: in this process, or on a Ray cluster. An engine is a module here with a
function `start`, and a line in `ENGINES`.
"""

from collections.abc import Callable, Generator, Sequence
from importlib import import_module
from typing import Protocol

from crosslmm.captioning.options import EngineName, plain
from crosslmm.captioning.reading import Clip
from crosslmm.captioning.results import CaptionResult, Segment, TimeBreakdown
from crosslmm.errors import UsageError

ENGINES: dict[EngineName, str] = {
    "local": "crosslmm.captioning.engines.local",
    "ray": "crosslmm.captioning.engines.ray",
}

Results = Generator[list[CaptionResult], None, None]


class Engine(Protocol):
    """Captions videos, in any order."""

    model: str
    fingerprint: str
    settings: dict[str, str]
    default_frames: int
    versions: dict[str, str]

    def load(self) -> None:
        """Called once, before `run` and before any earlier result is touched, if there are videos to
        caption. Raises CrossLMMError where the model cannot be loaded."""
        ...

    def run(self, paths: Sequence[str], *, stopping: Callable[[], bool]) -> Results:
        """Results as they come, several at a time: what is known of the video and its captions.

        Once `stopping` gives true the model finishes the batch that it has begun, and nothing else; a
        closed generator stops at once.
        """
        ...

    def time_breakdown(self) -> TimeBreakdown | None:
        """Where the time went, once the run has ended; None where that is not measured."""
        ...


def engine_starter(name: EngineName) -> Callable[..., Engine]:
    """The function `start` of an engine. It takes what `crosslmm.caption` was given: an assistant or its
    name and `model_options` to load it with, and as keywords `options`, `run_options`, `workers` and
    `on_notice`. Raises UsageError for an unknown name."""
    if name not in ENGINES:
        raise UsageError(f"`engine` must be one of {', '.join(ENGINES)}, not {name!r}")
    starter: Callable[..., Engine] = import_module(ENGINES[name]).start
    return starter


class InProgress:
    """The videos whose segments are still coming, in any order."""

    def __init__(self) -> None:
        self._segments: dict[str, dict[int, Segment]] = {}
        self._durations: dict[str, float | None] = {}
        self._done: set[str] = set()

    def add(self, clip: Clip, segment: Segment) -> CaptionResult | None:
        """The result of the video when this clip completes it. A clip that comes again is ignored."""
        path = clip.path
        if path in self._done:
            return None
        segments = self._segments.setdefault(path, {})
        if clip.count:
            segments[clip.number] = segment
            self._durations[path] = clip.duration
            if len(segments) < clip.count:
                return None
        self._done.add(path)
        del self._segments[path]
        duration = self._durations.pop(path, None)
        if not clip.count:
            return CaptionResult(path=path, duration=duration, error=clip.problem)
        ordered = tuple(segments[number] for number in sorted(segments))
        if all(part.caption is None for part in ordered):
            reason = ordered[0].problem or "it gave no frames"
            error = reason if reason.startswith(path) else f"{path}: {reason}"
            return CaptionResult(path=path, duration=duration, error=error)
        return CaptionResult(
            path=path, duration=duration, segments=ordered, warnings=_warnings(ordered)
        )


def _warnings(segments: Sequence[Segment]) -> tuple[str, ...]:
    """What went wrong in the parts, each said once."""
    problems = [
        f"{plain(part.start)}-{plain(part.end)} s: {part.problem}"
        for part in segments
        if part.problem
    ]
    return (*dict.fromkeys(text for part in segments for text in part.warnings), *problems)
