"""Reading a video of very large frames: in a process of its own, whose memory is limited.

A decoder keeps as many frames as the file says, up to sixteen and more, and FFmpeg knows no limit for
that. So where one frame is large, PyAV reads in a worker process; the worker's side is `apart_job`.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import numpy as np

from crosslmm.limits import READER_MEMORY
from crosslmm.options import Sampling
from crosslmm.video.frames import Frame
from crosslmm.video.index import PacketIndex
from crosslmm.video.memory_limit import out_of_memory
from crosslmm.video.plan import ReadPlan
from crosslmm.video.prefetch import Heartbeat
from crosslmm.video.probe import VideoProbe
from crosslmm.video.readers.process import working
from crosslmm.video.sampling import Target
from crosslmm.video.source import SourceInfo
from crosslmm.video.worker import Reply, WorkerDied, WorkerProcess

_HANDLER = "crosslmm.video.apart_job:read"


class ApartReader:
    """Probes and reads a video in a worker process; `warnings` and `bad_packets` are complete at the
    end."""

    def __init__(
        self,
        path: str,
        sampling: Sampling,
        *,
        heartbeat: Heartbeat,
        size: tuple[int, int] | None,
        resample: int,
        reader: str,
    ) -> None:
        self.path, self.sampling, self.size, self.resample = path, sampling, size, resample
        self.reader, self.heartbeat = reader, heartbeat
        self.warnings: list[str] = []
        self.bad_packets = 0

    def read(self, *, first: int = 0) -> Iterator[ReadPlan | Frame]:
        """The plan, then its frames from the one of index `first` on. Raises `VideoError`."""
        # Frames of full size, where these are wanted, come on top: three bytes a pixel, and copies.
        wanted = 0 if self.size is not None else 12 * self.sampling.max_pixels
        worker = WorkerProcess(_HANDLER, timeout=None, memory=READER_MEMORY + wanted)
        sampling = replace(self.sampling, reader=self.reader)  # type: ignore[arg-type]
        job = {
            "path": self.path,
            "sampling": asdict(sampling),
            "size": self.size,
            "resample": self.resample,
        }

        def describe_death(error: WorkerDied) -> str:
            return f"{self.path}: {out_of_memory(worker.memory)} ({error.cause})"

        with working(worker, self.heartbeat, describe_death):
            for reply in worker.run(job):
                self.heartbeat()
                head = reply.head
                if "source" in head:
                    yield self._plan(reply)
                elif "index" not in head:
                    self.warnings, self.bad_packets = head["warnings"], head["bad_packets"]
                elif head["index"] >= first:
                    yield Frame(reply.payload.reshape(head["shape"]), head["index"], head["time"])

    def _plan(self, reply: Reply) -> ReadPlan:
        head: dict[str, Any] = reply.head
        numbers = reply.payload.view(np.int64)
        pts, keys, targets, lone = np.split(numbers, np.cumsum(head["lengths"])[:-1])
        index = PacketIndex(
            pts=pts,
            keys=keys,
            time_base=Fraction(*head["time_base"]),
            bad_pts=frozenset(head["bad_pts"]),
            **head["index_fields"],
        )
        source = SourceInfo(**head["source"] | {"size": tuple(head["source"]["size"])})
        probe = VideoProbe(
            source,
            index,
            warnings=tuple(head["probe_warnings"]),
            mirrored=head["mirrored"],
            identity=tuple(head["identity"]),
        )
        return ReadPlan(
            probe,
            tuple(Target(int(n), bool(key)) for n, key in zip(targets, lone, strict=True)),
            self.size or source.size,
            self.resample,
            tuple(head["plan_warnings"]),
        )
