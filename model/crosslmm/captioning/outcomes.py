"""What an engine makes of videos: segments as they come, and an outcome when a video is whole."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from crosslmm.captioning.reading import Clip
from crosslmm.captioning.results import Segment, TimeBreakdown

Stopping = Callable[[], bool]


@dataclass(frozen=True)
class Outcome:
    """What became of one video: its segments in order, or the `error` for which there are none."""

    path: str
    duration: float | None = None
    segments: tuple[Segment, ...] = ()
    error: str | None = None


Outcomes = Generator[list[Outcome], None, None]


class Engine(Protocol):
    """Captions videos, in any order; `shares` says where the time went, once it is done."""

    model: str
    fingerprint: str
    settings: dict[str, str]
    default_frames: int
    versions: dict[str, str]

    def run(self, paths: Sequence[str], *, stopping: Stopping) -> Outcomes:
        """Outcomes as they come, several at a time.

        Once `stopping` is true no further video is begun; a closed generator stops at once.
        """
        ...

    def shares(self) -> TimeBreakdown | None: ...


@dataclass
class InProgress:
    """A video whose clips are under way; `count` is not known before the first or the end."""

    path: str
    duration: float | None = None
    count: int | None = None
    segments: dict[int, Segment] = field(default_factory=dict)
    error: str | None = None

    def add(self, clip: Clip, segment: Segment) -> None:
        self.duration, self.count = clip.duration, clip.count
        self.segments[clip.number] = segment

    @property
    def is_complete(self) -> bool:
        return self.error is not None or len(self.segments) == self.count

    def outcome(self) -> Outcome:
        """Whole or failed: segments in order; a failure where no segment has a caption."""
        if self.error is not None:
            return Outcome(self.path, self.duration, error=self.error)
        segments = tuple(self.segments[number] for number in sorted(self.segments))
        if all(segment.caption is None for segment in segments):
            reason = segments[0].problem or "it gave no frames"
            named = reason if reason.startswith(self.path) else f"{self.path}: {reason}"
            return Outcome(self.path, self.duration, error=named)
        return Outcome(self.path, self.duration, segments)
