"""Captions for many videos: resumable, with an error for each failure, in common formats.

    for result in crosslmm.caption(["clips/"], assistant=assistant):
        print(result.path, result.caption or result.error)

`crosslmm caption` is this, with a file to write to.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from crosslmm.captioning.options import (
    MAX_NEW_TOKENS,
    PROMPT,
    CaptionOptions,
    EngineName,
    Format,
    RunOptions,
)
from crosslmm.captioning.results import CaptionResult, Segment, Summary, TimeBreakdown
from crosslmm.captioning.sources import Shard, explain_linked, find
from crosslmm.errors import UsageError
from crosslmm.options import Sampling, SamplingOptions

if TYPE_CHECKING:
    from crosslmm.captioning.run import CaptionRun
    from crosslmm.inference.assistant import Assistant

__all__ = ["CaptionResult", "Segment", "Shard", "Summary", "TimeBreakdown", "caption"]


def caption(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    assistant: "Assistant | str | os.PathLike[str] | None" = None,
    format: Format | None = None,
    out: str | os.PathLike[str] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    shard: Shard | None = None,
    prompt: str = PROMPT,
    max_new_tokens: int = MAX_NEW_TOKENS,
    segments: float | None = None,
    scenes: bool = False,
    merge: str | None = None,
    keep: str | int | None = None,
    sampling: Sampling | None = None,
    batch_size: int = 8,
    readers: int | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    compact: bool = False,
    engine: EngineName = "local",
    workers: int | None = None,
    model_options: Mapping[str, Any] | None = None,
    on_notice: Callable[[str], None] | None = None,
    on_start: Callable[[], None] | None = None,
    **sampling_options: Unpack[SamplingOptions],
) -> "CaptionRun":
    """Caption videos, lazily: iterate the run for a `CaptionResult` each, as they come.

    - paths: files, and folders to search; `include`, `exclude` are globs for files in folders.
    - assistant: a loaded one, or a name to load with `model_options`, as in `crosslmm.load`.
    - format, out: what is written, and where; with neither, nothing is. With them a later call does
      only what is missing, and only its results are returned.
    - prompt to sampling (or its fields): see `CaptionOptions`; batch_size to compact: see
      `RunOptions`.
    - engine: "ray" spreads the work over a Ray cluster, with `workers` models.
    - on_start: called once the model is loaded, as the first batch begins.

    A video that cannot be captioned gives a result with an `error`. Raises UsageError at once, and
    while iterating CrossLMMError where the run itself cannot go on.
    """
    from crosslmm.captioning.engines import engine_starter
    from crosslmm.captioning.outputs import open_output
    from crosslmm.captioning.outputs.jsonl import JSONLinesOutput
    from crosslmm.captioning.run import CaptionRun
    from crosslmm.video.readers import candidates

    options = CaptionOptions(
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        segments=segments,
        scenes=scenes,
        merge=merge,
        keep=keep,
        sampling=Sampling.of(sampling, sampling_options),
    )
    run_options = RunOptions(
        batch_size=batch_size,
        readers=readers,
        retry_failed=retry_failed,
        overwrite=overwrite,
        compact=compact,
    )
    if keep is not None and (model_options or {}).get("tokens_per_frame") is not None:
        raise UsageError("`keep` and `tokens_per_frame` exclude each other: give one of them")
    candidates(options.sampling.reader)
    if compact and (format or ("jsonl" if out is not None else None)) != "jsonl":
        raise UsageError("`compact` is for JSON lines that are written to a file")
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    unreadable: list[OSError] = []
    linked: list[str] = []
    search = find(
        paths,
        include=include,
        exclude=exclude,
        on_unreadable=unreadable.append,
        on_linked=linked.append,
    )
    found = list(search)
    if linked and on_notice is not None:
        on_notice(explain_linked(linked))
    sources = [source for source in found if shard is None or shard.holds(source)]
    output = None
    if format is not None or out is not None:
        output = open_output(
            format or "jsonl", None if out is None else Path(out), sources=found, shard=shard
        )
        if isinstance(output, JSONLinesOutput):
            output.compact = compact
    if not found:
        output = None  # there is nothing to write, nor a folder of videos to write it to
    run = CaptionRun(
        sources,
        engine_starter(engine)(
            assistant,
            model_options or {},
            options=options,
            run_options=run_options,
            workers=workers,
            on_notice=on_notice,
        ),
        options=options,
        run_options=run_options,
        output=output,
        unreadable=unreadable,
        on_notice=on_notice,
        on_start=on_start,
    )
    run.summary.linked_folders = linked
    return run
