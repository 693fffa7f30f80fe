"""decord, for those whose installation is built on it; it runs in a worker process.

It counts the frames that an edit list hides, and starts late in some containers, without a word. So
its frame count and its timestamps must be those of the packet index that PyAV made; where they are
not, or where it is known to give other frames than its timestamps say, it is refused.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from crosslmm.video.readers.job import DecodeJob

if TYPE_CHECKING:
    import numpy as np

# Containers in which decord returned wrong frames under right timestamps.
_UNTRUSTED = frozenset({"mpegts", "mpeg", "asf", "avi"})


def read(job: DecodeJob) -> "Iterator[tuple[int, np.ndarray]]":
    """The wanted frames; `VideoError` where decord's own times differ from the packets'."""
    from decord import VideoReader, cpu

    misread = job.hidden or job.leading or job.sequential or job.mirrored
    if misread or job.container in _UNTRUSTED:
        raise job.refuse("decord", "returns wrong frames for files of this kind")
    reader = VideoReader(job.opened, ctx=cpu(0), num_threads=1)
    if len(reader) != job.count:
        raise job.refuse("decord", f"counts {len(reader)} frames where {job.count} are shown")
    zero = float(reader.get_frame_timestamp(0)[0])
    for number, time in zip(job.indices, job.times, strict=True):
        stamp = float(reader.get_frame_timestamp(number)[0]) - zero
        if abs(stamp - time) > 2e-3:
            raise job.refuse(
                "decord", f"puts frame {number} at {stamp:.3f} s, the file at {time:.3f} s"
            )
        yield number, reader[number].asnumpy()
