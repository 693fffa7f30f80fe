"""What a reader in a process of its own is to decode, and the process's side of it.

Such a reader is a function that takes a `DecodeJob` and yields (index, (H, W, 3) uint8) pairs, upright.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from crosslmm.errors import VideoError
from crosslmm.video import image
from crosslmm.video.file import Identity, VideoFile, check_identity
from crosslmm.video.worker import Payload

# Containers that are told by their first bytes. A file of another one can begin as a playlist does:
# FFmpeg's newer versions go by the ending as well, older ones open the files that it names.
_TOLD_AT_ONCE = frozenset(
    {"mov", "matroska", "avi", "asf", "flv", "ogg", "ivf", "wtv", "gif", "apng"}
)


@dataclass(frozen=True, kw_only=True)
class DecodeJob:
    """What a worker is to decode: the frames `indices` of `path`, shown at `times` (seconds).

    `function` ("module:function") reads them. `count` is how many frames the packet index says there
    are; `display` the upright (height, width) with square pixels, `size` the one to give; the rest as
    in `PacketIndex`.

    `opened` is what the library opens: a name of the descriptor that was checked, where the platform
    has one; `identity` is that of the probed file.
    """

    path: str
    opened: str
    identity: Identity | None
    function: str
    indices: list[int]
    times: list[float]
    count: int
    hidden: int
    leading: bool
    sequential: bool
    mirrored: bool
    container: str
    display: tuple[int, int]
    size: tuple[int, int]
    resample: int

    def refuse(self, reader: str, why: str) -> VideoError:
        """The error for a file that this reader would get wrong."""
        return VideoError(f"{self.path}: {reader} {why}; use `reader` pyav")


def decode(fields: dict[str, Any]) -> Iterator[tuple[Any, Payload]]:
    """The handler of the worker: the frames of one `DecodeJob`, resized."""
    sizes = {name: tuple(fields[name]) for name in ("display", "size")}
    identity = None if fields["identity"] is None else tuple(fields["identity"])
    job = DecodeJob(**fields | sizes | {"identity": identity})
    if job.container not in _TOLD_AT_ONCE:
        reader = job.function.partition(":")[0].rpartition(".")[2]
        raise job.refuse(reader, "is not used for files of this kind")
    with VideoFile(job.path) as file:
        check_identity(file, job.identity)
        # These libraries open names, pipes and playlists alike; so they get what was checked.
        opened = f"/dev/fd/{file.fileno()}"
        yield from _decode(replace(job, opened=opened) if os.path.exists(opened) else job)


def _decode(job: DecodeJob) -> Iterator[tuple[Any, Payload]]:
    module, _, function = job.function.partition(":")
    time_of = dict(zip(job.indices, job.times, strict=True))
    try:
        for index, pixels in getattr(import_module(module), function)(job):
            square = image.resize(pixels, job.display, job.resample)
            shown = image.resize(square, job.size, job.resample)
            yield {"index": index, "time": time_of[index], "shape": shown.shape}, shown.data
    except VideoError:
        raise
    except ImportError as error:
        raise VideoError(f"{job.path}: the reader does not load here ({error})") from error
    except Exception as error:  # a library's own words are of no use to the user
        reader = module.rpartition(".")[2]
        raise job.refuse(reader, "could not decode this file") from error
