"""The work on one machine: reading ahead, batches across videos, a video's outcome when it is whole."""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from crosslmm.captioning.captioner import Captioner, Task
from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.captioning.outcomes import InProgress, Outcome, Outcomes, Stopping
from crosslmm.captioning.pool import EndOfVideo, InlineReading, Read, ReaderPool, Reading
from crosslmm.captioning.reading import ReadRequest, read_request
from crosslmm.captioning.results import TimeBreakdown

if TYPE_CHECKING:
    from crosslmm.inference.assistant import Assistant


class LocalEngine:
    """Reader processes and one model, which is `assistant`'s and runs in the caller's thread."""

    def __init__(
        self, assistant: "Assistant", *, options: CaptionOptions, run_options: RunOptions
    ) -> None:
        from crosslmm.fingerprint import model_fingerprint

        self.assistant = assistant
        self.options = options
        self.run_options = run_options
        self.model = assistant.name
        self.fingerprint = model_fingerprint(assistant)
        self.settings = {
            "dtype": str(assistant.settings["dtype"]),
            "quantization": assistant.quantization,
            "tokens_per_frame": str(assistant.tokens_per_frame),
        }
        self.default_frames = assistant.default_frames
        self.versions = assistant.versions
        self._captioner = Captioner(
            assistant,
            batch_size=run_options.batch_size,
            max_new_tokens=options.max_new_tokens,
        )
        self._wall = self._idle = self._reading = 0.0

    def run(self, paths: Sequence[str], *, stopping: Stopping) -> Outcomes:
        began = time.perf_counter()
        reading = self._start_reading(path for path in paths if not stopping())
        try:
            while True:
                waiting = time.perf_counter()
                events = reading.gather(self._captioner.batch_size)
                self._idle += time.perf_counter() - waiting
                if not events:
                    break
                yield self._process(events)
                self._wall, self._reading = time.perf_counter() - began, reading.seconds
        finally:
            reading.close()
            self._wall, self._reading = time.perf_counter() - began, reading.seconds

    def shares(self) -> TimeBreakdown | None:
        if not self._wall:
            return None
        encode = self._captioner.encode_seconds / self._wall
        generate = self._captioner.generate_seconds / self._wall
        idle = self._idle / self._wall
        return TimeBreakdown(
            encode=encode,
            generate=generate,
            idle=idle,
            other=max(0.0, 1 - encode - generate - idle),
            decode=self._reading / self._wall,
        )

    def _start_reading(self, paths: Iterable[str]) -> Reading[InProgress]:
        orders = ((InProgress(path), self._order(path)) for path in paths)
        readers = self.run_options.reader_count
        if not readers:
            return InlineReading(orders)
        return ReaderPool(
            orders,
            readers=readers,
            ahead=2 * self.run_options.batch_size,
            deadline=self.options.sampling.deadline,
        )

    def _order(self, path: str) -> ReadRequest:
        processor = self.assistant.processor
        return read_request(
            path,
            self.options,
            size=processor.frame_size,
            resample=int(processor.image_processor.resample),
            default_frames=self.default_frames,
        )

    def _process(self, events: list[Read[InProgress] | EndOfVideo[InProgress]]) -> list[Outcome]:
        reads = [event for event in events if isinstance(event, Read)]
        tasks = [Task(read.clip, prompt_for(self.options, read)) for read in reads]
        touched: dict[int, InProgress] = {}
        for read, segment in zip(reads, self._captioner.caption(tasks), strict=True):
            read.item.add(read.clip, segment)
            touched[id(read.item)] = read.item
        for event in events:
            if isinstance(event, EndOfVideo) and event.error is not None:
                event.item.error = event.error
                touched[id(event.item)] = event.item
        return [video.outcome() for video in touched.values() if video.is_complete]


def prompt_for(options: CaptionOptions, read: Read[InProgress]) -> str:
    """The prompt about one clip."""
    clip = read.clip
    return options.render(read.item.path, start=clip.start, duration=clip.end - clip.start)
