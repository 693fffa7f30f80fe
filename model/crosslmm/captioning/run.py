"""A captioning run: what has to be done, doing it, and recording it as it is done.

The line of a video is in the manifest before anything else says that it is done, so that a run that is
killed at any moment can be resumed.
"""

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from crosslmm.captioning.engines import Engine
from crosslmm.captioning.lock import Lock
from crosslmm.captioning.manifest import Manifest
from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.captioning.outputs import CaptionOutput
from crosslmm.captioning.results import CaptionResult, Record, Segment, Summary
from crosslmm.captioning.sources import Source, identify, is_plain_text, looks_like_video
from crosslmm.captioning.worklist import Worklist, explain_unwritten, make_worklist
from crosslmm.errors import CrossLMMError
from crosslmm.fingerprint import settings_hash


class CaptionRun:
    """Iterate it for the results of this run, as they come; `summary` says how it goes. Folders in
    `unreadable` are failures that are reported, but not recorded.

    `stop` lets it finish what has begun; `close`, or leaving a `with` block, stops at once.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        engine: Engine,
        *,
        options: CaptionOptions,
        run_options: RunOptions,
        output: CaptionOutput | None,
        unreadable: Sequence[OSError] = (),
        on_notice: Callable[[str], None] | None = None,
        on_start: Callable[[], None] | None = None,
    ) -> None:
        self.summary = Summary(total=len(sources) + len(unreadable))
        self._sources = sources
        self._engine = engine
        self._options = options
        self._run_options = run_options
        self._output = output
        self._unreadable = unreadable
        self._notice = on_notice or (lambda text: None)
        self._on_start = on_start or (lambda: None)
        self._stopping = threading.Event()
        self._lock: Lock | None = None
        self._manifest: Manifest | None = None
        self._began = 0.0
        self._captioning = False
        self._captioned: set[str] = set()
        self._todo: dict[str, list[Source]] = {}
        settings: dict[str, Any] = {"model": engine.fingerprint, **engine.settings}
        settings |= options.as_dict()
        if options.sampling.frames is None and options.sampling.fps is None:
            settings["frames"] = engine.default_frames
        self.settings = settings
        self.settings_hash = settings_hash(settings)
        self._results = self._run()

    def __iter__(self) -> Iterator[CaptionResult]:
        return self

    def __next__(self) -> CaptionResult:
        return next(self._results)

    def __enter__(self) -> "CaptionRun":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def name(self) -> str | None:
        """Where the captions are written, None where they are only returned."""
        return None if self._output is None else self._output.name

    @property
    def captioning(self) -> bool:
        """Whether the model is loaded and at work, so that `stop` may have a batch to finish."""
        return self._captioning

    def stop(self) -> None:
        """Finish the batch that the model has begun; the iteration then ends. Videos that are left are
        not recorded."""
        self._stopping.set()

    def close(self) -> None:
        """Stop at once; what has begun is lost, what is written stays."""
        self._results.close()

    def unlock(self) -> None:
        """Remove the lock, and a manifest without a line; for a process that ends at once, without
        `close`."""
        if self._manifest is not None:
            self._manifest.discard_empty()
        if self._lock is not None:
            self._lock.release()

    def _run(self) -> Generator[CaptionResult, None, None]:
        self._began = time.perf_counter()
        output = self._output
        try:
            with ExitStack() as stack:
                manifest = None
                if output is not None:
                    root = stack.enter_context(output.held())
                    self._lock = Lock(output.lock_path, output=output.name, root=root)
                    stack.enter_context(self._lock)
                    own = not output.is_manifest
                    self._manifest = manifest = stack.enter_context(
                        Manifest.open(output.manifest_path, own=own, root=root)
                    )
                    if manifest.repaired:
                        self._notice(f"{manifest.path}: an incomplete last line was removed")
                for result in self._work(manifest):
                    self.summary.seconds = time.perf_counter() - self._began
                    yield result
                if manifest is not None and output is not None:
                    manifest.compact()
                    output.finish(manifest)
                    yield from self._take_lost(output)
        finally:
            self.summary.seconds = time.perf_counter() - self._began
            self.summary.stopped = self._stopping.is_set() and bool(self._todo)
            self.summary.shares = self._engine.time_breakdown()

    def _work(self, manifest: Manifest | None) -> Iterator[CaptionResult]:
        work = self._plan(manifest)
        self._todo = todo = {group[0].path: group for group in work.todo}
        yield from self._count([*map(self._unsearched, self._unreadable)])
        yield from self._count([self._failed(*pair) for pair in work.unwritten])
        for source, reason in work.conflicts:
            yield from self._finish([self._failed(source, reason)], manifest)
        for source, record in work.copies:
            self.summary.copies += 1
            yield from self._finish([self._copied(source, record)], manifest)
        if not todo:
            return
        self._captioning = True
        self._on_start()
        results = self._engine.run(list(todo), stopping=self._stopping.is_set)
        try:
            for batch in results:
                done = [
                    finished
                    for result in batch
                    for finished in self._complete(result, todo.pop(result.path, []))
                ]
                yield from self._finish(done, manifest)
        finally:
            results.close()

    def _plan(self, manifest: Manifest | None) -> Worklist:
        sources, output = self._sources, self._output
        if manifest is not None and output is not None:
            sources = [
                source
                for source in sources
                if not (output.writes if source.named else output.recognizes)(source.path)
            ]
            output.begin(sources, manifest, overwrite=self._run_options.overwrite)
            sources = [source for source in sources if not output.wrote(source.path)]
        # Notes beside the videos, which no run records, must not make each later one load the model.
        texts = {s.path for s in sources if not s.named and is_plain_text(s.path)}
        self.summary.no_videos += len(texts)
        work = make_worklist(
            identify([source for source in sources if source.path not in texts]),
            manifest,
            output,
            options=self._options,
            run_options=self._run_options,
            settings_hash=self.settings_hash,
        )
        self.summary.total = len(sources) + len(self._unreadable)
        self.summary.kept, self.summary.kept_failures = work.kept, work.kept_failures
        if work.todo:
            loading = time.perf_counter()
            self._engine.load()
            self._began += time.perf_counter() - loading  # a rate is that of captioning
        if manifest is not None and output is not None and output.superseded_path is not None:
            try:
                moved = manifest.drop(work.replaced, keep_in=output.superseded_path)
            except OSError as error:
                raise CrossLMMError(
                    f"{output.superseded_path}: captions cannot be moved there ({error.strerror})"
                ) from error
            if moved:
                what = "1 caption" if moved == 1 else f"{moved:,} captions"
                self._notice(f"{what} of other settings or files moved to {output.superseded_path}")
        return work

    def _complete(self, result: CaptionResult, sources: list[Source]) -> Iterator[CaptionResult]:
        """The result of a video, and of its copies."""
        for number, source in enumerate(sources):
            own = self._described(result, source)
            if result.error is not None:
                is_unread = result.duration is None
                if is_unread and not source.named and not looks_like_video(source.path):
                    self.summary.no_videos += 1
                    continue
                own = replace(own, error=result.error.replace(result.path, source.path))
            elif number:
                self.summary.copies += 1
                segments = tuple(map(_without_cost, result.segments))
                own = replace(own, segments=segments, same_as=result.path)
            yield own

    def _copied(self, source: Source, record: Record) -> CaptionResult:
        """The result of a file whose content was captioned under another name."""
        result = CaptionResult(
            path=record["path"],
            duration=record["duration"],
            segments=tuple(map(Segment.from_dict, record["segments"])),
            warnings=tuple(record["warnings"]),
            same_as=record["path"],
        )
        return self._described(result, source)

    def _unsearched(self, error: OSError) -> CaptionResult:
        """The result of a folder that could not be searched."""
        folder = os.fsdecode(error.filename)
        reason = f"{folder}: this folder cannot be searched: {error.strerror}"
        return self._failed(Source(folder, folder, named=True), reason)

    def _failed(self, source: Source, reason: str) -> CaptionResult:
        return self._described(CaptionResult(path=source.path, error=reason), source)

    def _described(self, result: CaptionResult, source: Source) -> CaptionResult:
        """The result as one of this file and of this run."""
        return replace(
            result,
            path=source.path,
            content=source.content,
            model=self._engine.model,
            prompt=self._options.prompt,
            settings_hash=self.settings_hash,
            settings=self.settings,
            versions=self._engine.versions,
        )

    def _finish(
        self, done: list[CaptionResult], manifest: Manifest | None
    ) -> Iterator[CaptionResult]:
        """Write results, then give them out."""
        if manifest is not None and self._output is not None:
            done = self._write(done, manifest, self._output)
        yield from self._count(done)
        if self._output is not None:
            yield from self._take_lost(self._output)

    def _take_lost(self, output: CaptionOutput) -> list[CaptionResult]:
        """A second result, a failure, for each video that was captioned and did not get written."""
        lost = output.take_lost()
        for record in lost:
            if record["path"] in self._captioned:
                self.summary.captioned -= 1
            else:
                self.summary.kept -= 1
        sources = [
            Source(record["path"], record["path"], named=True, content=record["content"])
            for record in lost
        ]
        return self._count(
            [
                self._failed(source, record["error"])
                for source, record in zip(sources, lost, strict=True)
            ]
        )

    def _count(self, done: list[CaptionResult]) -> list[CaptionResult]:
        for result in done:
            if result.error is None:
                self.summary.captioned += 1
                self._captioned.add(result.path)
            else:
                self.summary.failed += 1
                self.summary.failures.append((result.path, result.error))
        return done

    def _write(
        self, done: list[CaptionResult], manifest: Manifest, output: CaptionOutput
    ) -> list[CaptionResult]:
        """The results as they are once written. What cannot be written is an error of this run, which
        the manifest does not keep, since it is not the fault of the video."""
        done = [self._checked(result, output) for result in done]
        records: dict[str, Record] = {}
        errors: dict[str, OSError] = {}
        for result in done:
            try:
                if result.error is None:
                    output.prepare(result.path)
                record = output.note(result.as_dict(), manifest)
                manifest.check(record)
                records[result.path] = record
            except OSError as error:
                errors[result.path] = error
        manifest.append(list(records.values()))
        for path, record in records.items():
            try:
                if record["error"] is None:
                    output.write(record)
            except OSError as error:
                errors[path] = error
        return [
            _with_error(result, explain_unwritten(result.path, errors[result.path]))
            if result.path in errors
            else result
            for result in done
        ]

    def _checked(self, result: CaptionResult, output: CaptionOutput) -> CaptionResult:
        """The result, or a failure where somebody has written its file since the run began."""
        if result.error is not None:
            return result
        reason = output.conflict(result.path, overwrite=self._run_options.overwrite)
        return result if reason is None else _with_error(result, reason)


def _with_error(result: CaptionResult, reason: str) -> CaptionResult:
    return replace(result, error=reason, duration=None, segments=(), warnings=(), same_as=None)


def _without_cost(part: Segment) -> Segment:
    """A segment whose caption was taken from another's."""
    return replace(part, decode_seconds=0.0, encode_seconds=0.0, generate_seconds=0.0)
