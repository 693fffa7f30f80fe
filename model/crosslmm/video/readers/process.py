"""Reading with a library that can hang or crash: in a worker process.

`Prefetch` keeps the deadline, which is one for frames and not for heartbeats, and has the process
killed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from crosslmm.errors import VideoError
from crosslmm.limits import READER_MEMORY
from crosslmm.video.frames import Frame
from crosslmm.video.readers.job import DecodeJob
from crosslmm.video.worker import JobFailed, WorkerDied, WorkerProcess

if TYPE_CHECKING:
    from crosslmm.video.plan import ReadPlan
    from crosslmm.video.prefetch import Heartbeat

_HANDLER = "crosslmm.video.readers.job:decode"


@contextmanager
def working(
    worker: WorkerProcess, heartbeat: "Heartbeat", describe_death: Callable[[WorkerDied], str]
) -> Iterator[None]:
    """A worker that reads a video, from its start to its end; its failures are `VideoError`s."""
    # Killed at once when the consumer leaves, even while this thread waits for its output.
    heartbeat.on_cancel = worker.kill
    try:
        heartbeat()
        worker.start()
        yield
    except JobFailed as error:
        raise VideoError(str(error)) from None
    except WorkerDied as error:
        heartbeat()  # where the consumer had it killed, that is no error
        raise VideoError(describe_death(error)) from None
    finally:
        worker.close()


class ProcessReader:
    """Reads the frames of a plan with a `function` ("module:function"); see `readers.job`."""

    def __init__(self, plan: "ReadPlan", function: str, *, heartbeat: "Heartbeat") -> None:
        self.plan, self.function = plan, function
        self.warnings: list[str] = []
        self.bad_packets = 0
        self._heartbeat = heartbeat

    def read(self) -> Iterator[Frame]:
        """The frames of the plan; `VideoError` when the process fails, is killed or refuses."""
        height, width = self.plan.size
        memory = READER_MEMORY + 2 * height * width * 3  # a frame as it was asked for, and its copy
        worker = WorkerProcess(_HANDLER, timeout=None, memory=memory)
        with working(worker, self._heartbeat, self._describe_death):
            for reply in worker.run(asdict(self._job())):
                self._heartbeat()
                pixels = reply.payload.reshape(reply.head["shape"])
                yield Frame(pixels, reply.head["index"], reply.head["time"])

    def _describe_death(self, error: WorkerDied) -> str:
        return f"{self.plan.path}: the decoding process died ({error.cause}); use `reader` pyav"

    def _job(self) -> DecodeJob:
        plan, index = self.plan, self.plan.probe.index
        indices = [target.index for target in plan.targets]
        return DecodeJob(
            path=plan.path,
            opened=plan.path,
            identity=plan.probe.identity,
            function=self.function,
            indices=indices,
            times=[float(index.times[number]) for number in indices],
            count=len(index),
            hidden=index.hidden,
            leading=index.leading,
            sequential=index.sequential,
            mirrored=plan.probe.mirrored,
            container=plan.source.container,
            display=plan.source.size,
            size=plan.size,
            resample=plan.resample,
        )
