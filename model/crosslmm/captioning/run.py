"""A captioning run: what is to be done, doing it, and writing it down as it is done.

A video's line is in the manifest before anything else says that it is done, so a run that is killed
at any moment is taken up where it was.
"""

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

from crosslmm.captioning.lock import Lock
from crosslmm.captioning.manifest import Manifest
from crosslmm.captioning.options import CaptionOptions, RunOptions, plain
from crosslmm.captioning.outcomes import Engine, Outcome
from crosslmm.captioning.outputs import Output
from crosslmm.captioning.plan import Item, Plan, identify, make_plan, unwritten
from crosslmm.captioning.results import CaptionResult, Record, Segment, Summary, join_captions
from crosslmm.captioning.worklist import Source, looks_like_video
from crosslmm.fingerprint import settings_hash

Notice = Callable[[str], None]


class Captioning:
    """Iterate it for the results of this run, as they come; `summary` says how it goes. Folders in
    `unreadable` are failures that are given out, but not written down.

    `stop` lets it finish what is under way; `close`, or leaving a `with`, stops at once.
    """

    def __init__(
        self,
        sources: list[Source],
        engine: Engine,
        *,
        options: CaptionOptions,
        run_options: RunOptions,
        output: Output | None,
        unreadable: Sequence[OSError] = (),
        on_notice: Notice | None = None,
    ) -> None:
        self.summary = Summary(total=len(sources) + len(unreadable))
        self._sources = sources
        self._engine = engine
        self._options = options
        self._run_options = run_options
        self._output = output
        self._unreadable = unreadable
        self._notice = on_notice or (lambda text: None)
        self._stopping = threading.Event()
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

    def __enter__(self) -> "Captioning":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str | None:
        """Where the captions are written, None where they are only given out."""
        return None if self._output is None else self._output.name

    def stop(self) -> None:
        """Begin no further video. What has been begun is finished, and the iteration then ends."""
        self._stopping.set()

    def close(self) -> None:
        """Stop at once; what is under way is lost, what is written stays."""
        self._results.close()

    def _run(self) -> Generator[CaptionResult, None, None]:
        began = time.perf_counter()
        try:
            with ExitStack() as stack:
                manifest = None
                if self._output is not None:
                    for path in self._output.locks:
                        stack.enter_context(Lock(path, output=self._output.name))
                    manifest = Manifest(self._output.manifest_path, own=self._output.hides_manifest)
                    stack.callback(manifest.close)
                    if manifest.repaired:
                        self._notice(f"{manifest.path}: a half-written last line was taken off")
                for result in self._work(manifest):
                    self.summary.seconds = time.perf_counter() - began
                    yield result
                if manifest is not None and self._output is not None:
                    manifest.compact()
                    self._output.finish(manifest)
        finally:
            self.summary.seconds = time.perf_counter() - began
            self.summary.stopped = self._stopping.is_set()
            self.summary.shares = self._engine.shares()

    def _work(self, manifest: Manifest | None) -> Iterator[CaptionResult]:
        plan = self._plan(manifest)
        for item, reason in (*map(_unsearched, self._unreadable), *plan.unwritten):
            yield from self._finish([(item, self._result(item, error=reason))], None)
        for item, reason in plan.conflicts:
            yield from self._finish([(item, self._result(item, error=reason))], manifest)
        for item, record in plan.copies:
            self.summary.copies += 1
            yield from self._finish([(item, self._copied(item, record))], manifest)
        todo = {group[0].path: group for group in plan.todo}
        outcomes = self._engine.run(list(todo), stopping=self._stopping.is_set)
        try:
            for batch in outcomes:
                done = [
                    pair
                    for outcome in batch
                    for pair in self._results_of(outcome, todo.pop(outcome.path, []))
                ]
                yield from self._finish(done, manifest)
        finally:
            outcomes.close()

    def _plan(self, manifest: Manifest | None) -> Plan:
        sources, output = self._sources, self._output
        if manifest is not None and output is not None:
            sources = [
                s for s in sources if not (output.writes(s) if s.named else output.is_own(s))
            ]
            output.begin(sources, manifest, overwrite=self._run_options.overwrite)
        plan = make_plan(
            identify(sources),
            manifest,
            output,
            options=self._options,
            run_options=self._run_options,
            settings_hash=self.settings_hash,
        )
        self.summary.total = len(sources) + len(self._unreadable)
        self.summary.kept, self.summary.kept_failures = plan.kept, plan.kept_failures
        if manifest is not None and output is not None and output.keeps_superseded:
            moved = manifest.drop(plan.paths, keep_in=output.superseded_path)
            if moved:
                self._notice(
                    f"{moved:,} captions of other settings or files moved to "
                    f"{output.superseded_path}"
                )
        return plan

    def _results_of(
        self, outcome: Outcome, items: list[Item]
    ) -> Iterator[tuple[Item, CaptionResult]]:
        """The result of a video and of its copies."""
        segments = outcome.segments
        for place, item in enumerate(items):
            error = outcome.error
            if error is not None:
                error = error.replace(outcome.path, item.path)
                unread = outcome.duration is None
                if unread and not item.source.named and not looks_like_video(item.path):
                    self.summary.no_videos += 1
                    continue
            elif place:
                self.summary.copies += 1
            yield (
                item,
                self._result(
                    item,
                    error=error,
                    duration=outcome.duration,
                    segments=tuple(map(_free, segments)) if place else segments,
                    same_as=outcome.path if place and error is None else None,
                ),
            )

    def _copied(self, item: Item, record: Record) -> CaptionResult:
        """The result of a file whose content was captioned under another name."""
        return self._result(
            item,
            duration=record["duration"],
            segments=tuple(map(Segment.from_dict, record["segments"])),
            same_as=record["path"],
            warnings=tuple(record["warnings"]),
        )

    def _finish(
        self, done: list[tuple[Item, CaptionResult]], manifest: Manifest | None
    ) -> Iterator[CaptionResult]:
        """Write results down, then give them out."""
        if manifest is not None and self._output is not None:
            done = self._write(done, manifest, self._output)
        for _, result in done:
            if result.error is None:
                self.summary.captioned += 1
            else:
                self.summary.failed += 1
                self.summary.failures.append((result.path, result.error))
        for _, result in done:
            yield result

    def _write(
        self, done: list[tuple[Item, CaptionResult]], manifest: Manifest, output: Output
    ) -> list[tuple[Item, CaptionResult]]:
        """The results as they are once written down: what cannot be is an error of this run, which
        the manifest does not keep, since it is not the video's."""
        records: dict[str, Record] = {}
        errors: dict[str, str] = {}
        done = [(item, self._checked(item, result, output)) for item, result in done]
        for item, result in done:
            try:
                if result.error is None:
                    output.prepare(item.source)
                record = output.note(item.source, result.as_dict(), manifest)
                manifest.check(record)
                records[item.path] = record
            except OSError as error:
                errors[item.path] = unwritten(item, error)
        manifest.append(list(records.values()))
        for item, result in done:
            try:
                if result.error is None and item.path in records:
                    output.write(item.source, records[item.path])
            except OSError as error:
                errors[item.path] = unwritten(item, error)
        return [
            (item, self._result(item, error=errors[item.path]) if item.path in errors else result)
            for item, result in done
        ]

    def _checked(self, item: Item, result: CaptionResult, output: Output) -> CaptionResult:
        """The result, or a failure where somebody has written its file since the run began."""
        reason = None
        if result.error is None:
            reason = output.conflict(item.source, overwrite=self._run_options.overwrite)
        return result if reason is None else self._result(item, error=reason)

    def _result(self, item: Item, **what: Any) -> CaptionResult:
        segments: tuple[Segment, ...] = what.get("segments", ())
        problems = [
            f"{plain(part.start)}-{plain(part.end)} s: {part.problem}"
            for part in segments
            if part.problem
        ]
        warnings = dict.fromkeys(warning for part in segments for warning in part.warnings)
        return CaptionResult(
            **{"warnings": (*warnings, *problems)} | what,
            path=item.path,
            caption=join_captions(segments) if what.get("error") is None else None,
            model=self._engine.model,
            prompt=self._options.prompt,
            settings_hash=self.settings_hash,
            settings=self.settings,
            content=item.content,
            versions=self._engine.versions,
        )


def _unsearched(error: OSError) -> tuple[Item, str]:
    """A folder that could not be searched, and why."""
    folder = os.fsdecode(error.filename)
    reason = f"{folder}: this folder cannot be searched: {error.strerror}"
    return Item(Source(folder, folder, named=True), None), reason


def _free(part: Segment) -> Segment:
    """A segment that cost nothing, since another's was taken."""
    return replace(part, decode_seconds=0.0, encode_seconds=0.0, generate_seconds=0.0)
