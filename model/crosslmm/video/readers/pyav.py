"""The default reader: PyAV, in this process.

One pass in ascending order. A packet that cannot be decoded is counted and skipped, and the nearest
good frame is given in place of a missing one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crosslmm.errors import VideoError
from crosslmm.options import Sampling
from crosslmm.video.converter import Converter
from crosslmm.video.decoder import Decoder
from crosslmm.video.fetcher import CountingFetcher, SeekingFetcher
from crosslmm.video.frames import Frame
from crosslmm.video.image import resize
from crosslmm.video.probe import open_again

if TYPE_CHECKING:
    from crosslmm.video.plan import ReadPlan
    from crosslmm.video.prefetch import Heartbeat


class PyAVReader:
    """Reads the frames of a plan; `warnings` and `bad_packets` are complete at the end.

    `decoder` is the open one of the same thread that the file was probed with; without it the file is
    opened. Either way it is closed at the end.
    """

    def __init__(
        self,
        plan: "ReadPlan",
        *,
        heartbeat: "Heartbeat",
        sampling: Sampling,
        decoder: Decoder | None = None,
    ) -> None:
        self.plan = plan
        self.warnings: list[str] = []
        self.bad_packets = 0
        self._decoder = decoder
        self._heartbeat, self._sampling = heartbeat, sampling

    def read(self) -> Iterator[Frame]:
        """The frames of the plan, ascending; `VideoError` when there is not one good one."""
        plan, index = self.plan, self.plan.probe.index
        decoder = self._decoder
        if decoder is None:
            decoder = Decoder(
                open_again(plan.probe, self._sampling, heartbeat=self._heartbeat),
                heartbeat=self._heartbeat,
                max_pixels=self._sampling.max_pixels,
            )
            decoder.open()
        decoder.reset_damage()
        fetcher: CountingFetcher | SeekingFetcher
        if index.sequential:
            fetcher = CountingFetcher(decoder)
        else:
            fetcher = SeekingFetcher(decoder, index, plan.targets)
        converter = Converter(plan.size, path=plan.path, max_pixels=self._sampling.max_pixels)
        last, damage = -1, _Damage()
        try:
            for target in plan.targets:
                number, frame = fetcher.fetch(target.index, target.key)
                if frame is not None and fetcher.is_suspect(frame):
                    number, frame = fetcher.find_better(number, frame, after=last)
                    damage.suspect += fetcher.is_suspect(frame)
                if frame is None or number <= last:
                    damage.lost += 1
                    continue
                pixels = _convert(converter, frame, decoder)
                if pixels is None:
                    damage.lost += 1
                    continue
                last = number
                damage.given += 1
                damage.replaced += number != target.index
                yield Frame(
                    resize(pixels, plan.size, plan.resample), number, float(index.times[number])
                )
        finally:
            bad_pts = decoder.bad_pts | index.bad_pts
            self.bad_packets = len(bad_pts) + max(index.bad_reads, decoder.bad_reads)
            self.warnings = damage.warnings(self.bad_packets)
            fetcher.release()
            decoder.close()
        if not damage.given:
            raise VideoError(f"{plan.path}: no frame of this video could be decoded")


def _convert(converter: Converter, frame: Any, decoder: Decoder) -> np.ndarray | None:
    """The frame's pixels; None where its format or colours are damaged."""
    import av

    try:
        return converter(frame, decoder.stream.sample_aspect_ratio)
    except av.error.FFmpegError:
        decoder.bad_pts.add(frame.pts)
        return None


@dataclass
class _Damage:
    """What became of the wanted frames."""

    given: int = 0
    replaced: int = 0
    lost: int = 0
    suspect: int = 0

    def warnings(self, bad_packets: int) -> list[str]:
        """What to warn of, most often nothing."""
        wanted = self.given + self.lost
        found = []
        if self.replaced:
            found.append(f"{self.replaced} of {wanted} frames replaced by the nearest good one")
        if self.lost:
            found.append(f"{self.lost} of {wanted} frames skipped, with no good frame near them")
        if self.suspect:
            found.append(f"{self.suspect} of {wanted} frames follow damaged data and may show it")
        if not bad_packets and not found:
            return []
        if bad_packets:
            found.insert(0, f"{bad_packets} packet{'s' * (bad_packets != 1)} could not be decoded")
        return ["damaged video: " + "; ".join(found)]
