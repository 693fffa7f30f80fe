"""From a video to a session: decoded, encoded and prefilled, with fewer frames where memory runs out."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace

from crosslmm.errors import OutOfMemory, UsageError
from crosslmm.inference.cached_video import CachedVideo
from crosslmm.inference.encoding import (
    EncodedVideo,
    TooManyFrames,
    check_footage,
    encode_video,
    release_memory,
    warn_of_frames,
)
from crosslmm.inference.given import GivenFrames, VideoLike, readable
from crosslmm.inference.question import check_context, check_questions
from crosslmm.inference.runtime import Progress, Runtime
from crosslmm.inference.session import VideoSession
from crosslmm.inference.zoom import ZoomBudget, ZoomedVideo
from crosslmm.merging import TokenBudget
from crosslmm.options import GenerationKeywords, Sampling, SamplingOptions, check_zoom
from crosslmm.video import FrameStream

STILL = ("image", "frames")  # containers of what may be a still image


class VideoKeywords(SamplingOptions, total=False):
    """What `Assistant.open_video` takes."""

    sampling: Sampling | None
    times: Sequence[float] | None
    tokens_per_frame: int | None
    merge: str | None
    keep: str | int | None
    allow_unfamiliar: bool
    on_progress: Progress | None


class ZoomKeywords(SamplingOptions, total=False):
    """What `Assistant.open_zoomed` takes besides."""

    questions: Sequence[str]
    allow_unfamiliar: bool
    on_progress: Progress | None


class AskKeywords(VideoKeywords, GenerationKeywords, total=False):
    """What `Assistant.ask` takes."""


def open_video(
    runtime: Runtime,
    video: VideoLike,
    sampling: Sampling,
    *,
    times: Sequence[float] | None = None,
    tokens_per_frame: int | None = None,
    merge: str | None = None,
    keep: str | int | None = None,
    allow_unfamiliar: bool = True,
    on_progress: Progress | None = None,
    stream: FrameStream | None = None,
    questions: Sequence[str] = (),
) -> VideoSession:
    """Decode, encode and prefill a video, with fewer frames where memory runs out.

    - times: of frames in memory, in seconds.
    - tokens_per_frame, merge, keep: as in `merging.choose_budget`.
    - allow_unfamiliar: False raises UnfamiliarFootage, before anything is prefilled.
    - on_progress: called with a stage, what is done of it and the total.
    - stream: as `started` of `encode_video`.
    - questions: that will be asked, to say before anything is encoded where they do not fit.

    Raises VideoError, UsageError, OutOfMemory.
    """
    started = time.perf_counter()
    question_tokens = check_questions(runtime, questions)
    budget = runtime.choose_budget(tokens_per_frame=tokens_per_frame, merge=merge, keep=keep)
    with readable(video, sampling, times) as (source, name):
        if not isinstance(source, GivenFrames):  # of these all are used, unless some are chosen
            sampling = sampling.or_frames(runtime.default_frames)
        return _open(
            runtime,
            source,
            sampling,
            name=name,
            budget=budget,
            allow_unfamiliar=allow_unfamiliar,
            on_progress=on_progress,
            stream=stream,
            started=started,
            question_tokens=question_tokens,
        )


def open_zoomed(
    runtime: Runtime,
    video: VideoLike,
    sampling: Sampling,
    *,
    tokens_per_frame: int | None = None,
    questions: Sequence[str] = (),
    allow_unfamiliar: bool = True,
    on_progress: Progress | None = None,
) -> ZoomedVideo:
    """Skim a video, to look again at what each question points to; `sampling` is of one uniform pass
    with the same number of tokens. The rest is as for `open_video`."""
    if not isinstance(video, str | os.PathLike):
        raise UsageError("looking again reads the video a second time: give the path of a file")
    check_zoom(sampling)
    budget = runtime.choose_budget(tokens_per_frame=tokens_per_frame)
    if budget.merge is not None:
        raise UsageError(
            f"`merge` and `zoom` exclude each other: a skim has one token per frame, and {budget.merge} "
            "would merge them"
        )
    frames = sampling.most_frames or runtime.default_frames
    parts = ZoomBudget.of(frames, budget.pooled)

    def open_part(part: Sampling, tokens: int) -> VideoSession:
        return open_video(
            runtime,
            video,
            part,
            tokens_per_frame=tokens,
            questions=questions,
            allow_unfamiliar=allow_unfamiliar,
            on_progress=on_progress,
        )

    def look(names: Sequence[str]) -> VideoSession:
        part = replace(
            sampling, frames=None, max_frames=None, start=None, end=None, at=names, seek="exact"
        )
        return open_part(part, parts.tokens)

    skim = open_part(replace(sampling, frames=parts.skim, max_frames=None), 1)
    of_answers = warn_of_frames(runtime, len(skim.frames))  # which a skim gives none of
    warnings = tuple(warning for warning in skim.warnings if warning not in of_answers)
    return ZoomedVideo(skim, parts, look, warnings=warnings)


def _open(
    runtime: Runtime,
    source: str | os.PathLike[str] | GivenFrames,
    sampling: Sampling,
    *,
    name: str,
    budget: TokenBudget,
    allow_unfamiliar: bool,
    on_progress: Progress | None,
    stream: FrameStream | None,
    started: float,
    question_tokens: int,
) -> VideoSession:
    def encode(tried: Sampling, kept: CachedVideo | None) -> EncodedVideo:
        found = None if kept is None else kept.read()
        if found is not None:
            if stream is not None:
                stream.close()
            count = len(found.frames)
            check_context(runtime, frames=count, budget=budget, prompt_tokens=question_tokens)
            return found
        return encode_video(
            runtime,
            source,
            tried,
            budget=budget,
            on_progress=on_progress,
            started=stream if tried is sampling else None,
            question_tokens=question_tokens,
        )

    def attempt(tried: Sampling) -> VideoSession:
        kept = None
        # A model that was made in memory has no files that tell it from others.
        is_known = bool(runtime.checkpoint_state)
        if runtime.cache is not None and is_known and not isinstance(source, GivenFrames):
            kept = CachedVideo(runtime, runtime.cache, source, tried, budget)
        made = encode(tried, kept)
        encoded = check_footage(runtime, made, allow_unfamiliar=allow_unfamiliar)
        if encoded.source.container in STILL and encoded.source.frame_count == 1:
            runtime.notice_image()
        if on_progress:
            on_progress("prefill", 0, 0)
        session = VideoSession(
            runtime,
            name,
            replace(encoded, source=replace(encoded.source, path=name)),
            sampling=sampling,
            budget=budget,
            started=started,
        )
        session.prefill(encoded.visual, encoded.prefix)
        if kept is not None and not made.from_cache:
            kept.write(made, session.prefix, session.timing.prefill)
            session.await_questions()
        return session

    tried = sampling
    while True:
        try:
            return attempt(tried)
        except TooManyFrames as error:
            used = error.frames
        if used <= 1:
            raise OutOfMemory(f"{name}: out of memory on {runtime.device} even with one frame")
        tried = replace(sampling, max_frames=used // 2)
        release_memory()
        runtime.notice(f"out of memory with {used} frames; trying with {tried.max_frames}")
