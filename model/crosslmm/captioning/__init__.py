"""Captions for many videos, in bulk: resumable, honest about failures, in the formats of others.

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
    Engine,
    Format,
    RunOptions,
)
from crosslmm.captioning.results import CaptionResult, Segment, Summary, TimeBreakdown
from crosslmm.captioning.worklist import Shard, find
from crosslmm.errors import UsageError
from crosslmm.options import Sampling, SamplingOptions

if TYPE_CHECKING:
    from crosslmm.captioning.run import Captioning
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
    sampling: Sampling | None = None,
    batch_size: int = 8,
    readers: int | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    engine: Engine = "local",
    workers: int | None = None,
    model_options: Mapping[str, Any] | None = None,
    on_notice: Callable[[str], None] | None = None,
    **sampling_options: Unpack[SamplingOptions],
) -> "Captioning":
    """Caption videos, lazily: iterate what is returned for a `CaptionResult` each, as they come.

    - paths: files, and folders to be searched; `include`, `exclude` are globs for files in folders.
    - assistant: a loaded one, or a name to load with `model_options`, as in `crosslmm.load`.
    - format, out: what is written, and where; with neither, nothing is. With them a later call does
      only what is missing, and only its results are given.
    - prompt to sampling (or its fields): see `CaptionOptions`; batch_size to overwrite: see
      `RunOptions`.
    - engine: "ray" spreads the work over a Ray cluster, with `workers` models.

    A video that cannot be captioned gives a result with an `error`. Raises UsageError at once, and
    while iterating CrossLMMError where the run itself cannot go on.
    """
    from crosslmm.captioning.outputs import make_output
    from crosslmm.captioning.run import Captioning
    from crosslmm.captioning.segments import require_scenedetect
    from crosslmm.video.readers import candidates

    options = CaptionOptions(
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        segments=segments,
        scenes=scenes,
        sampling=Sampling.of(sampling, sampling_options),
    )
    run_options = RunOptions(
        batch_size=batch_size,
        readers=readers,
        retry_failed=retry_failed,
        overwrite=overwrite,
    )
    candidates(options.sampling.reader)
    if scenes:
        require_scenedetect()
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    unreadable: list[OSError] = []
    found = list(find(paths, include=include, exclude=exclude, on_unreadable=unreadable.append))
    sources = [source for source in found if shard is None or shard.holds(source)]
    output = None
    if format is not None or out is not None:
        output = make_output(
            format or "jsonl", None if out is None else Path(out), sources=found, shard=shard
        )
    return Captioning(
        sources,
        _engine(engine, assistant, model_options or {}, options, run_options, workers, on_notice),
        options=options,
        run_options=run_options,
        output=output,
        unreadable=unreadable,
        on_notice=on_notice,
    )


def _engine(
    kind: Engine,
    assistant: "Assistant | str | os.PathLike[str] | None",
    model_options: Mapping[str, Any],
    options: CaptionOptions,
    run_options: RunOptions,
    workers: int | None,
    on_notice: Callable[[str], None] | None,
) -> Any:
    named = assistant is None or isinstance(assistant, str | os.PathLike)
    if kind == "ray":
        from crosslmm.captioning.engines.ray import RayEngine

        if not named:
            raise UsageError("Ray's workers load the model themselves: give its name")
        name = None if assistant is None else os.fspath(assistant)  # type: ignore[arg-type]
        return RayEngine(
            name, model_options, options=options, run_options=run_options, workers=workers
        )
    from crosslmm.captioning.engines.local import LocalEngine

    if named:
        from crosslmm.inference.assistant import load

        assistant = load(assistant, on_notice=on_notice, **model_options)  # type: ignore[arg-type]
    elif model_options:
        raise UsageError("model_options are for a model that is given by name")
    return LocalEngine(assistant, options=options, run_options=run_options)  # type: ignore[arg-type]
