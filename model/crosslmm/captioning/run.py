"""A captioning run: what is to be done, doing it, and writing it down as it is done.

A video's line is in the manifest before anything else says that it is done, so a run that is killed
at any moment is taken up where it was.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from crosslmm.captioning.identity import content_identity, settings_hash
from crosslmm.captioning.lock import Lock
from crosslmm.captioning.manifest import Manifest, by_content
from crosslmm.captioning.options import CaptionOptions, RunOptions
from crosslmm.captioning.outcomes import Engine, Outcome
from crosslmm.captioning.outputs import Output
from crosslmm.captioning.results import CaptionResult, Record, Segment, Summary, join_captions
from crosslmm.captioning.sources import Source, looks_like_video

Notice = Callable[[str], None]

_HASHING_THREADS = 8


@dataclass(frozen=True)
class Item:
    """A video to caption and what identifies its content, None where that cannot be read."""

    source: Source
    content: str | None

    @property
    def path(self) -> str:
        return self.source.path


class Captioning:
    """Iterate it for the results of this run, as they come; `summary` says how it goes.

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
        on_notice: Notice | None = None,
    ) -> None:
        self.summary = Summary(total=len(sources))
        self._sources = sources
        self._engine = engine
        self._options = options
        self._run_options = run_options
        self._output = output
        self._notice = on_notice or (lambda text: None)
        self._stopping = threading.Event()
        settings: dict[str, Any] = {"model": engine.fingerprint, **engine.settings}
        settings |= options.as_dict()
        if options.frames is None and options.fps is None:
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
                    stack.enter_context(Lock(self._output.lock_path, output=self._output.name))
                    manifest = Manifest(self._output.manifest_path)
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
        plan = _Plan(self, manifest)
        for settled in plan.settled:
            yield from self._finish([settled], manifest)
        todo = {items[0].path: items for items in plan.todo}
        outcomes = self._engine.run(list(todo), stopping=self._stopping.is_set)
        try:
            for batch in outcomes:
                done = [
                    (item, result)
                    for outcome in batch
                    for item, result in self._results_of(outcome, todo.pop(outcome.path, []))
                ]
                yield from self._finish(done, manifest)
        finally:
            outcomes.close()

    def _results_of(
        self, outcome: Outcome, items: list[Item]
    ) -> Iterator[tuple[Item, CaptionResult]]:
        """The result of a video and of its copies."""
        for place, item in enumerate(items):
            error = outcome.error
            if error is not None:
                error = error.replace(outcome.path, item.path)
                if not item.source.named and not looks_like_video(item.path):
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
                    segments=outcome.segments,
                    same_as=outcome.path if place and error is None else None,
                ),
            )

    def _finish(
        self, done: list[tuple[Item, CaptionResult]], manifest: Manifest | None
    ) -> Iterator[CaptionResult]:
        """Write results down, then give them out."""
        good = [(item, result) for item, result in done if result.error is None]
        if manifest is not None and self._output is not None:
            records = {result.path: result.as_dict() for _, result in done}
            for item, _ in good:
                self._output.prepare(item.source)
            manifest.append(list(records.values()))
            for item, result in good:
                self._output.write(item.source, records[result.path])
        for _, result in done:
            if result.error is None:
                self.summary.captioned += 1
            else:
                self.summary.failed += 1
                self.summary.failures.append((result.path, result.error))
        for _, result in done:
            yield result

    def _result(self, item: Item, **what: Any) -> CaptionResult:
        segments: tuple[Segment, ...] = what.get("segments", ())
        problems = [
            f"{part.start:.4g}-{part.end:.4g} s: {part.problem}"
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


class _Plan:
    """What of a run is to be done: `todo`, videos with their copies; and `settled`, results that
    cost no model. What earlier runs did is counted, and its files are there when this is made."""

    def __init__(self, run: Captioning, manifest: Manifest | None) -> None:
        self.settled: list[tuple[Item, CaptionResult]] = []
        self.todo: list[list[Item]] = []
        self._run = run
        self._manifest = manifest
        sources = run._sources
        if run._output is not None:
            sources = [s for s in sources if s.named or not run._output.is_own(s)]
            run.summary.total = len(sources)
        with ThreadPoolExecutor(_HASHING_THREADS) as threads:
            contents = threads.map(content_identity, [source.path for source in sources])
            items = [Item(*pair) for pair in zip(sources, contents, strict=True)]
        if manifest is not None and run._output is not None:
            run._output.begin(sources, manifest)
            items = self._missing(items, manifest, run._output)
        self._group(items)

    def _missing(self, items: list[Item], manifest: Manifest, output: Output) -> list[Item]:
        """The items that are not done, with the manifest made ready for them."""
        run, summary = self._run, self._run.summary
        anew, known = run._run_options.overwrite, by_content(manifest.entries.items())
        missing: list[Item] = []
        for item in items:
            entry = manifest.entries.get(item.path)
            current = (
                not anew
                and entry is not None
                and (entry.content, entry.settings_hash) == (item.content, run.settings_hash)
            )
            if current and entry is not None and entry.failed:
                if not run._run_options.retry_failed:
                    summary.kept_failures += 1
                    continue
            elif current:
                output.restore(item.source, manifest)
                summary.kept += 1
                continue
            if not anew and (reason := output.conflict(item.source, manifest)) is not None:
                self.settled.append((item, run._result(item, error=reason)))
                continue
            twin = known.get((item.content or "", run.settings_hash))
            if not anew and twin is not None and run._options.same_for(twin, item.path):
                self.settled.append((item, _copied(run, item, manifest.read(twin))))
                summary.copies += 1
                continue
            missing.append(item)
        if output.keeps_superseded:
            again = {item.path for item in (*missing, *(item for item, _ in self.settled))}
            kept = manifest.drop(again, keep_in=output.superseded_path)
            if kept:
                run._notice(
                    f"{kept:,} captions of other settings or files moved to {output.superseded_path}"
                )
        return missing

    def _group(self, items: list[Item]) -> None:
        """Files of the same content together, unless the prompt tells them apart."""
        groups: dict[str, list[Item]] = {}
        for item in items:
            group = groups.get(item.content or "")
            if group and self._run._options.same_for(group[0].path, item.path):
                group.append(item)
                continue
            group = [item]
            self.todo.append(group)
            if item.content is not None:
                groups.setdefault(item.content, group)


def _copied(run: Captioning, item: Item, record: Record) -> CaptionResult:
    """The result of a file whose content was captioned under another name."""
    return run._result(
        item,
        duration=record["duration"],
        segments=tuple(map(Segment.from_dict, record["segments"])),
        same_as=record["path"],
        warnings=tuple(record["warnings"]),
    )
