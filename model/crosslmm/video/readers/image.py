"""An image as a video of one frame, at time 0."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from crosslmm.video.frames import Frame
from crosslmm.video.image import resize

if TYPE_CHECKING:
    from crosslmm.video.plan import ReadPlan


class ImageReader:
    """Gives the image that was read while probing."""

    def __init__(self, plan: "ReadPlan") -> None:
        self.plan = plan
        self.warnings: list[str] = []
        self.bad_packets = 0

    def read(self) -> Iterator[Frame]:
        """The one frame."""
        pixels = self.plan.probe.image
        assert pixels is not None
        for target in self.plan.targets:
            yield Frame(resize(pixels, self.plan.size, self.plan.resample), target.index, 0.0)
