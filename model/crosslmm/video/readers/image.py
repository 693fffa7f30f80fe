"""A still picture as a video of one frame, at time 0."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from crosslmm.video import image
from crosslmm.video.frames import Frame

if TYPE_CHECKING:
    from crosslmm.video.probe import Plan


class StillReader:
    """Gives the picture that was read while planning."""

    def __init__(self, plan: "Plan") -> None:
        self.plan = plan
        self.warnings: list[str] = []
        self.bad_packets = 0

    def read(self) -> Iterator[Frame]:
        """The one frame."""
        assert self.plan.still is not None
        for target in self.plan.targets:
            pixels = image.resize(self.plan.still, self.plan.size, self.plan.resample)
            yield Frame(pixels, target.index, 0.0)
