"""Which frames of a probed file are read, and how: what a reader is given."""

from dataclasses import dataclass, replace

from crosslmm.errors import VideoError
from crosslmm.options import Sampling
from crosslmm.video.probe import VideoProbe
from crosslmm.video.sampling import Target, choose
from crosslmm.video.source import SourceInfo


@dataclass(frozen=True, eq=False)
class ReadPlan:
    """The frames to read of a probed file, ascending, and their `size` (height, width)."""

    probe: VideoProbe
    targets: tuple[Target, ...]
    size: tuple[int, int]
    resample: int
    warnings: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return self.probe.source.path

    @property
    def source(self) -> SourceInfo:
        return self.probe.source

    def after(self, number: int) -> "ReadPlan":
        """The part of the plan that lies after frame `number`."""
        return replace(self, targets=tuple(t for t in self.targets if t.index > number))


def plan_reading(
    probe: VideoProbe, sampling: Sampling, *, size: tuple[int, int] | None, resample: int
) -> ReadPlan:
    """Choose the frames that answer `sampling`. Raises `VideoError` for what is beyond the video."""
    targets: tuple[Target, ...] = (Target(0),)
    warnings: list[str] = []
    if probe.image is None:
        targets, warnings = choose(probe.index, sampling, path=probe.source.path)
    elif sampling.at is not None:
        _, warnings = choose(probe.index, sampling, path=probe.source.path)
    elif sampling.start:
        raise VideoError(
            f"{probe.source.path}: `start` ({sampling.start:g} s) is beyond the end: it is an image"
        )
    return ReadPlan(
        probe, targets, size or probe.source.size, resample, (*probe.warnings, *warnings)
    )
