"""Captioning on one machine: reading ahead, batches across videos, a result when a video is complete."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crosslmm.captioning.engines import InProgress, Results
from crosslmm.captioning.identity import ModelIdentity, read_identity
from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.captioning.pool import InlineReading, ReaderPool, Reading
from crosslmm.captioning.reading import read_request
from crosslmm.captioning.results import TimeBreakdown
from crosslmm.checkpoints import catalog
from crosslmm.errors import UsageError
from crosslmm.fingerprint import checkpoint_fingerprint, weights_fingerprint
from crosslmm.versions import library_versions

if TYPE_CHECKING:
    from crosslmm.captioning.captioner import Captioner
    from crosslmm.inference.assistant import Assistant


class LocalEngine:
    """Reader processes and one model, which runs in the caller's thread and is loaded when the first
    video is to be captioned.

    make_assistant: loads the model, or gives one that is loaded; identity: how it runs.
    """

    def __init__(
        self,
        name: str,
        make_assistant: "Callable[[], Assistant]",
        *,
        options: CaptionOptions,
        run_options: RunOptions,
        fingerprint: str,
        identity: ModelIdentity,
    ) -> None:
        self.options = options
        self.run_options = run_options
        self.model = name
        self.fingerprint = fingerprint
        self.settings = identity.as_settings()
        self.default_frames = identity.default_frames
        self.versions = library_versions()
        self._make_assistant = make_assistant
        self._captioner: Captioner | None = None
        self._wall = self._idle = self._reading = 0.0

    def load(self) -> None:
        if self._captioner is None:
            from crosslmm.captioning.captioner import Captioner

            self._captioner = Captioner(
                self._make_assistant(), self.options, batch_size=self.run_options.batch_size
            )

    def run(self, paths: Sequence[str], *, stopping: Callable[[], bool]) -> Results:
        captioner = self._captioner
        assert captioner is not None
        began = time.perf_counter()
        videos = InProgress()
        reading = self._start_reading(
            captioner.assistant, (path for path in paths if not stopping())
        )
        try:
            while not stopping():
                waiting = time.perf_counter()
                clips = reading.gather(captioner.batch_size, stopping=stopping)
                self._idle += time.perf_counter() - waiting
                if not clips or stopping():  # what has only been read is left for the next run
                    break
                segments = captioner.caption(clips)
                results = map(videos.add, clips, segments)
                yield [result for result in results if result is not None]
                self._wall, self._reading = time.perf_counter() - began, reading.seconds
        finally:
            reading.close()
            self._wall, self._reading = time.perf_counter() - began, reading.seconds

    def time_breakdown(self) -> TimeBreakdown | None:
        if not self._wall or self._captioner is None:
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

    def _start_reading(self, assistant: "Assistant", paths: Iterator[str]) -> Reading:
        processor = assistant.processor
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
    if assistant is None or isinstance(assistant, str | os.PathLike):
        name = catalog.default_model().name if assistant is None else str(assistant)
        resolved = catalog.resolve_model(name)

        def load_assistant() -> "Assistant":
            from crosslmm.inference.assistant import load

            return load(name, on_notice=on_notice, **model_options)

        return LocalEngine(
            name,
            load_assistant,
            options=options,
            run_options=run_options,
            fingerprint=checkpoint_fingerprint(resolved.folder, resolved.adapter),
            identity=read_identity(resolved.folder, model_options),
        )
    if model_options:
        raise UsageError("`model_options` are for a model that is given by name")
    loaded = assistant
    if loaded.folder is not None:
        fingerprint = checkpoint_fingerprint(loaded.folder, loaded.adapter)
    else:
        fingerprint = weights_fingerprint(loaded.model.state_dict())
    return LocalEngine(
        loaded.name,
        lambda: loaded,
        options=options,
        run_options=run_options,
        fingerprint=fingerprint,
        identity=ModelIdentity(
            dtype=str(loaded.settings["dtype"]),
            quantization=loaded.quantization,
            tokens_per_frame=loaded.tokens_per_frame,
            default_frames=loaded.default_frames,
            feature_bits=loaded.model.model.feature_bits,
        ),
    )
