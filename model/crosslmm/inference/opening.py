"""From videos to a session: decoded, encoded and prefilled, with fewer frames where memory runs out."""

import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from crosslmm.errors import OutOfMemory, UnfamiliarFootage, UsageError, VideoError
from crosslmm.fingerprint import file_state
from crosslmm.inference.cached_video import CachedVideo
from crosslmm.inference.downloads import download, is_address
from crosslmm.inference.encoding import (
    EncodedVideo,
    TooManyFrames,
    VideoPart,
    encode_video,
    open_frames,
    release_memory,
    unfamiliar_footage,
    warn_of_frames,
)
from crosslmm.inference.given import GivenFrames, VideoLike, readable
from crosslmm.inference.joined_videos import VideoJoiner, share_budget
from crosslmm.inference.named_file import NamedFile
from crosslmm.inference.question import check_context, check_questions, check_system
from crosslmm.inference.runtime import Progress, Runtime
from crosslmm.inference.session import VideoSession
from crosslmm.inference.zoom import ZoomBudget, ZoomedVideo
from crosslmm.merging import TokenBudget
from crosslmm.options import GenerationKeywords, Sampling, SamplingOptions, check_zoom
from crosslmm.video import FrameStream, SourceInfo

STILL = ("image", "frames")  # containers of what may be a still image


class OpeningKeywords(SamplingOptions, total=False):
    """What opens a video; `times` of one video only."""

    times: Sequence[float] | None
    tokens_per_frame: int | None
    merge: str | None
    keep: str | int | None
    allow_network: bool
    allow_unfamiliar: bool
    system: str | None
    on_progress: Progress | None


class VideosKeywords(OpeningKeywords, total=False):
    """What `Assistant.open_videos` takes besides."""

    questions: Sequence[str]
    streams: Sequence[FrameStream | None]


class OneVideoKeywords(OpeningKeywords, total=False):
    """What `Assistant.open_video` takes besides."""

    questions: Sequence[str]
    stream: FrameStream | None


class ZoomKeywords(SamplingOptions, total=False):
    """What `Assistant.open_zoomed` takes besides."""

    questions: Sequence[str]
    allow_unfamiliar: bool
    system: str | None
    on_progress: Progress | None


class VideoKeywords(OpeningKeywords, total=False):
    """What `Assistant.ask` takes about a video."""

    sampling: Sampling | None


class AskKeywords(VideoKeywords, GenerationKeywords, total=False):
    """What `Assistant.ask` takes."""


def open_video(
    runtime: Runtime,
    video: VideoLike,
    sampling: Sampling,
    *,
    stream: FrameStream | None = None,
    **options: Any,
) -> VideoSession:
    """Decode, encode and prefill a video; stream: as `started` of `encode_video`. The rest is as for
    `open_videos`."""
    return open_videos(runtime, [video], sampling, streams=[stream], **options)


def open_videos(
    runtime: Runtime,
    videos: Sequence[VideoLike],
    sampling: Sampling,
    *,
    times: Sequence[float] | None = None,
    tokens_per_frame: int | None = None,
    merge: str | None = None,
    keep: str | int | None = None,
    allow_network: bool = False,
    allow_unfamiliar: bool = True,
    system: str | None = None,
    on_progress: Progress | None = None,
    streams: Sequence[FrameStream | None] = (),
    questions: Sequence[str] = (),
    named: Sequence[Sequence[str]] | None = None,
) -> VideoSession:
    """Decode, encode and prefill videos for questions about all of them, which share the frames and
    tokens of one; with fewer frames where memory runs out.

    - times: of frames in memory, in seconds, of one video.
    - tokens_per_frame, merge, keep: as in `merging.choose_budget`.
    - allow_network: whether an https address may be downloaded.
    - allow_unfamiliar: False raises UnfamiliarFootage, before anything is prefilled.
    - system: a turn before the video, which says how to answer.
    - on_progress: called with a stage, what is done of it and the total.
    - streams: as `stream` of `open_video`, for each.
    - questions: that will be asked, to say before anything is encoded where they do not fit.
    - named: the frames of each video, as `at` of `sampling` names those of one.

    Raises VideoError, UsageError, OutOfMemory.
    """
    started = time.perf_counter()
    if not videos:
        raise UsageError("no video was given")
    if times is not None and len(videos) > 1:
        raise UsageError("`times` are of one video, and these are several")
    question_tokens = check_questions(runtime, questions) + check_system(runtime, system)
    budget = runtime.choose_budget(tokens_per_frame=tokens_per_frame, merge=merge, keep=keep)
    sampling.shares(len(videos))  # raises before any work
    with ExitStack() as stack:
        sources = []
        given = zip(videos, streams or [None] * len(videos), strict=True)
        for number, (video, stream) in enumerate(given, start=1):
            if is_address(video):
                video = stack.enter_context(
                    download(
                        video,
                        sampling,
                        allow_network=allow_network,
                        cache=runtime.cache,
                        on_progress=on_progress,
                        on_notice=runtime.notice,
                    )
                )
            source, name = stack.enter_context(readable(video, sampling, times))
            if isinstance(video, NamedFile):
                label = video.label
            elif isinstance(video, str | os.PathLike) or not name.startswith("("):
                label = os.path.basename(os.path.normpath(name))
            else:
                label, name = "", f"video {number} {name}" if len(videos) > 1 else name
            sources.append(_Source(source, name, label, stream))
        return _open(
            runtime,
            sources,
            sampling,
            budget=budget,
            allow_unfamiliar=allow_unfamiliar,
            system=system,
            on_progress=on_progress,
            started=started,
            question_tokens=question_tokens,
            named=named,
        )


def open_zoomed(
    runtime: Runtime,
    videos: Sequence[str | os.PathLike[str]],
    sampling: Sampling,
    *,
    tokens_per_frame: int | None = None,
    questions: Sequence[str] = (),
    allow_unfamiliar: bool = True,
    system: str | None = None,
    on_progress: Progress | None = None,
) -> ZoomedVideo:
    """Skim videos, to look again at what each question points to; `sampling` is of one uniform pass over
    them with the same number of tokens. The rest is as for `open_videos`."""
    if not all(isinstance(each, str | os.PathLike) and not is_address(each) for each in videos):
        raise UsageError("looking again reads the video a second time: give the path of a file")
    check_zoom(sampling)
    sampling.shares(len(videos))  # raises where they do not divide
    budget = runtime.choose_budget(tokens_per_frame=tokens_per_frame)
    if budget.merge is not None:
        raise UsageError(
            f"`merge` and `zoom` exclude each other: a skim has one token per frame, and {budget.merge} "
            "would merge them"
        )
    frames = sampling.most_frames or runtime.default_frames
    parts = ZoomBudget.of(frames, budget.pooled, len(videos))

    def open_part(
        part: Sampling, tokens: int, named: Sequence[Sequence[str]] | None = None
    ) -> VideoSession:
        return open_videos(
            runtime,
            videos,
            part,
            tokens_per_frame=tokens,
            questions=questions,
            allow_unfamiliar=allow_unfamiliar,
            system=system,
            on_progress=on_progress,
            named=named,
        )

    def look(names: Sequence[Sequence[str]]) -> VideoSession:
        if [_file_state(each) for each in videos] != skimmed:
            raise VideoError(
                f"{', '.join(map(str, videos))}: changed since it was skimmed; open it again"
            )
        return open_part(sampling.naming(None), parts.tokens, names)

    skimmed = [_file_state(each) for each in videos]
    skim = open_part(replace(sampling, frames=parts.skim, max_frames=None), 1)
    of_answers = warn_of_frames(runtime, len(skim.frames))  # which a skim gives none of
    warnings = tuple(warning for warning in skim.warnings if warning not in of_answers)
    return ZoomedVideo(skim, parts, look, warnings=warnings)


def _file_state(path: str | os.PathLike[str]) -> str:
    """What changes with a file's content; nothing of one that cannot be read."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return file_state(found) or f"{found.st_size} {found.st_mtime_ns}"


@dataclass(frozen=True)
class _Source:
    """A video that can be read: its name, what a prompt about several calls it, and a stream of it that
    was started earlier."""

    video: str | os.PathLike[str] | GivenFrames
    name: str
    label: str
    stream: FrameStream | None

    def part(self, source: SourceInfo, made: EncodedVideo) -> VideoPart:
        path = os.fspath(self.video) if isinstance(self.video, NamedFile) else None
        return VideoPart(
            self.name, self.label, source, made.frames, made.visual.longest, path, made.from_cache
        )

    def prepare(
        self, runtime: Runtime, sampling: Sampling, budget: TokenBudget, opened: ExitStack
    ) -> "_Video":
        """Read from the cache, or its frames open until `opened` ends. Raises VideoError."""
        kept = None
        # A model that was made in memory has no files that tell it from others.
        is_known = bool(runtime.checkpoint_state)
        if runtime.cache is not None and is_known and not isinstance(self.video, GivenFrames):
            kept = CachedVideo(runtime, runtime.cache, self.video, sampling, budget)
            if (found := kept.read()) is not None:
                if self.stream is not None:
                    self.stream.close()
                return _Video(self, budget, None, found, len(found.frames))
        frames = opened.enter_context(
            open_frames(runtime, self.video, sampling, started=self.stream)
        )
        return _Video(self, budget, kept, frames, frames.count)


@dataclass(frozen=True, eq=False)
class _Video:
    """One that was read from the cache, or can be encoded; kept: where it is to be; count: of frames."""

    source: _Source
    budget: TokenBudget
    kept: CachedVideo | None
    frames: EncodedVideo | FrameStream | GivenFrames
    count: int

    def encode(self, runtime: Runtime, on_progress: Progress | None) -> EncodedVideo:
        """Raises VideoError, UsageError, TooManyFrames."""
        if isinstance(self.frames, EncodedVideo):
            return self.frames
        return encode_video(runtime, self.frames, budget=self.budget, on_progress=on_progress)


def _open(
    runtime: Runtime,
    sources: list[_Source],
    sampling: Sampling,
    *,
    budget: TokenBudget,
    allow_unfamiliar: bool,
    system: str | None,
    on_progress: Progress | None,
    started: float,
    question_tokens: int,
    named: Sequence[Sequence[str]] | None,
) -> VideoSession:
    count = len(sources)
    name, several = ", ".join(source.name for source in sources), count > 1
    budgets = share_budget(budget, count)
    if named is None and not all(isinstance(each.video, GivenFrames) for each in sources):
        sampling = sampling.or_frames(runtime.default_frames)

    def encode(video: _Video, done: int, total: int) -> tuple[EncodedVideo, tuple[str, ...]]:
        """With what there is to warn of in its footage."""
        try:
            made = video.encode(runtime, _of_several(on_progress, done, total))
        except TooManyFrames:
            raise TooManyFrames(total) from None
        if several and video.kept is not None:
            video.kept.write(made)
        footage = unfamiliar_footage(runtime, made)
        if footage and not allow_unfamiliar:
            raise UnfamiliarFootage(f"{video.source.name}: {footage[0]}")
        if made.source.container in STILL and made.source.frame_count == 1:
            runtime.notice_image()
        source = replace(made.source, path=video.source.name)
        part = video.source.part(source, made)
        return replace(made, source=source, parts=(part,)), footage

    def attempt(tried: Sampling) -> VideoSession:
        if on_progress:
            on_progress("decode", 0, 0)
        shares = tried.shares(count)
        if named is not None:
            shares = [replace(each, at=at) for each, at in zip(shares, named, strict=True)]
        with ExitStack() as opened:
            videos = deque(
                source.prepare(runtime, share, each, opened)
                for source, share, each in zip(sources, shares, budgets, strict=True)
            )
            total, done = sum(video.count for video in videos), 0
            check_context(runtime, frames=total, budget=budget, prompt_tokens=question_tokens)
            joiner, warnings = VideoJoiner(total), dict[str, None]()
            kept = None if several else videos[0].kept
            while videos:  # what is joined is let go
                video = videos.popleft()
                encoded, footage = encode(video, done, total)
                done += video.count
                warnings |= dict.fromkeys(footage)
                if several:
                    joiner.add(encoded)
                    del video, encoded
        if several:
            encoded = joiner.finish()
        if on_progress:
            on_progress("prefill", 0, 0)
        many = warn_of_frames(runtime, len(encoded.frames), count)
        session = VideoSession(
            runtime,
            name,
            replace(encoded, warnings=(*encoded.warnings, *warnings, *many)),
            sampling=sampling if named is None else replace(sampling, at=[*chain(*named)]),
            budget=budget,
            started=started,
            system=system,
        )
        session.prefill(encoded.visual, encoded.prefix)
        if kept is not None:
            kept.write(encoded, session.prefix, session.timing.prefill)
            session.await_questions()
        return session

    tried = sampling
    while True:
        try:
            return attempt(tried)
        except TooManyFrames as error:
            used = error.frames
        if used <= count:
            one = "one frame of each" if several else "one frame"
            raise OutOfMemory(f"{name}: out of memory on {runtime.device} even with {one}")
        sources = [replace(source, stream=None) for source in sources]
        tried = replace(sampling, max_frames=max(used // 2, count))
        release_memory()
        runtime.notice(f"out of memory with {used} frames; trying with {tried.max_frames}")


def _of_several(on_progress: Progress | None, done: int, total: int) -> Progress | None:
    """The progress of one of several videos: so many frames of `total` came before."""
    if on_progress is None:
        return None
    return lambda stage, so_far, _: on_progress(stage, done + so_far, total)
