"""torchcodec, where it is installed; it needs FFmpeg's own libraries and a torch that it fits.

It runs in a worker process, since a mismatched build fails while loading. Its frame count and its
presentation times must be those of the packet index.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from crosslmm.errors import VideoError
from crosslmm.video.readers.job import DecodeJob

if TYPE_CHECKING:
    import numpy as np


def read(job: DecodeJob) -> "Iterator[tuple[int, np.ndarray]]":
    """The wanted frames; `VideoError` where torchcodec's times differ from the packets'."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        raise VideoError(
            "torchcodec is installed but does not load here: it needs FFmpeg's shared libraries "
            "and a build that fits this torch; use `reader` pyav"
        ) from error

    if job.mirrored or job.sequential:
        raise job.refuse("torchcodec", "returns wrong frames for files of this kind")
    decoder = VideoDecoder(job.opened, seek_mode="exact", dimension_order="NHWC")
    count = len(decoder)
    if count != job.count:
        raise job.refuse("torchcodec", f"counts {count} frames where {job.count} are shown")
    zero = float(decoder.get_frame_at(0).pts_seconds)
    for number, time in zip(job.indices, job.times, strict=True):
        frame = decoder.get_frame_at(number)
        stamp = float(frame.pts_seconds) - zero
        if abs(stamp - time) > 2e-3:
            raise job.refuse(
                "torchcodec", f"puts frame {number} at {stamp:.3f} s, the file at {time:.3f} s"
            )
        yield number, frame.data.numpy()
