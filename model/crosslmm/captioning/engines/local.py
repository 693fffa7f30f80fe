"""Captioning on one machine: reading ahead, batches across videos, a result when a video is complete."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crosslmm.captioning.captioner import Captioner
from crosslmm.captioning.engines import InProgress, Results
from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.captioning.pool import InlineReading, ReaderPool, Reading
from crosslmm.captioning.reading import read_request
from crosslmm.captioning.results import TimeBreakdown
from crosslmm.errors import UsageError
from crosslmm.fingerprint import folder_fingerprint, weights_fingerprint

if TYPE_CHECKING:
    from crosslmm.inference.assistant import Assistant


class LocalEngine:
    """Reader processes and one model, which is `assistant`'s and runs in the caller's thread."""

    def __init__(
        self,
        assistant: "Assistant",
        *,
        options: CaptionOptions,
        run_options: RunOptions,
        fingerprint: str,
    ) -> None:
        self.assistant = assistant
        self.options = options
        self.run_options = run_options
        self.model = assistant.name
        self.fingerprint = fingerprint
        self.settings = {
            "dtype": str(assistant.settings["dtype"]),
            "quantization": assistant.quantization,
            "tokens_per_frame": str(assistant.tokens_per_frame),
        }
        self.default_frames = assistant.default_frames
        self.versions = assistant.versions
        self._captioner = Captioner(assistant, options, batch_size=run_options.batch_size)
        self._wall = self._idle = self._reading = 0.0

    def run(self, paths: Sequence[str], *, stopping: Callable[[], bool]) -> Results:
        began = time.perf_counter()
        videos = InProgress()
        reading = self._start_reading(path for path in paths if not stopping())
        try:
            while True:
                waiting = time.perf_counter()
                clips = reading.gather(self._captioner.batch_size)
                self._idle += time.perf_counter() - waiting
                if not clips:
                    break
                segments = self._captioner.caption(clips)
                results = map(videos.add, clips, segments)
                yield [result for result in results if result is not None]
                self._wall, self._reading = time.perf_counter() - began, reading.seconds
        finally:
            reading.close()
            self._wall, self._reading = time.perf_counter() - began, reading.seconds

    def time_breakdown(self) -> TimeBreakdown | None:
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

    def _start_reading(self, paths: Iterator[str]) -> Reading:
        processor = self.assistant.processor
        requests = (
            read_request(
                path,
                self.options,
                size=processor.frame_size,
                resample=int(processor.image_processor.resample),
                default_frames=self.default_frames,
            )
            for path in paths
        )
        readers = self.run_options.reader_count
        if not readers:
            return InlineReading(requests)
        pool = ReaderPool(
            requests,
            readers=readers,
            ahead=2 * self.run_options.batch_size,
            deadline=self.options.sampling.deadline,
        )
        pool.start()
        return pool


def start(
    assistant: "Assistant | str | os.PathLike[str] | None",
    model_options: Mapping[str, Any],
    *,
    options: CaptionOptions,
    run_options: RunOptions,
    workers: int | None,
    on_notice: Callable[[str], None] | None,
) -> LocalEngine:
    from crosslmm.inference.assistant import load

    if assistant is None or isinstance(assistant, str | os.PathLike):
        assistant = load(assistant, on_notice=on_notice, **model_options)
    elif model_options:
        raise UsageError("`model_options` are for a model that is given by name")
    if assistant.folder is not None:
        fingerprint = folder_fingerprint(assistant.folder)
    else:
        fingerprint = weights_fingerprint(assistant.model.state_dict())
    return LocalEngine(assistant, options=options, run_options=run_options, fingerprint=fingerprint)
