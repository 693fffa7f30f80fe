"""A video's frames through the encoder, chunk by chunk, while the next ones are being decoded.

Only what the language model will read is kept. A frame equal to the one before it, as in slides, screen
recordings and held shots, is not encoded again. When memory runs out the chunk is halved, which costs
nothing but time; when even single frames do not fit, MemoryError tells the caller, who chose them.
"""

import gc
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from crosslmm.errors import UsageError, VideoError
from crosslmm.inference.answer import FrameUsed
from crosslmm.inference.footage import TRAINED_FRAMES
from crosslmm.inference.given import GivenFrames
from crosslmm.inference.runtime import Progress, Runtime
from crosslmm.merging import TokenBudget, check_count
from crosslmm.modeling_crosslmm import VisualTokens
from crosslmm.options import Sampling
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.video import FrameStream, SourceInfo, open_stream, summary
from crosslmm.vision import FrameBuffer
from crosslmm.window_merging import WindowMerger


@dataclass(frozen=True)
class VideoPart:
    """One of the videos of a session. label: what a prompt about several calls it; tokens: how many the
    language model reads of it; path: of its file, where that has another name; from_cache: whether it
    had been encoded earlier."""

    name: str
    label: str
    source: SourceInfo
    frames: tuple[FrameUsed, ...]
    tokens: int
    path: str | None = None
    from_cache: bool = False

    @property
    def summary(self) -> str:
        """`64 of 5,340 frames, one per 2.8 s`"""
        return summary(tuple(frame.time for frame in self.frames), self.source)


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """The frames that were used and what the encoder made of them, with the seconds it took.

    - parts: the videos of a session, several of which are one here.
    - encoded: the frames that it was run on, each of them once where several in a row are equal.
    - from_cache: whether it had been encoded earlier; `encode_seconds` are then those of reading it.
    - prefix: what the language model had computed of it, for `restore_prefix`, where that was kept.
    """

    visual: VisualTokens | RaggedTokens
    frames: tuple[FrameUsed, ...]
    encoded: int
    source: SourceInfo
    warnings: tuple[str, ...]
    decode_seconds: float
    encode_seconds: float
    from_cache: bool = False
    prefix: dict[str, torch.Tensor] | None = None
    parts: tuple[VideoPart, ...] = ()


_OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",  # page-locked memory of the host, too
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)


class TooManyFrames(MemoryError):
    """Memory ran out with this many frames, in the smallest chunks."""

    def __init__(self, frames: int) -> None:
        super().__init__(f"out of memory with {frames} frames")
        self.frames = frames


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turns every known way in which torch reports that memory ran out into MemoryError."""
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(
            words in message for words in _OUT_OF_MEMORY
        ):
            raise MemoryError(message.splitlines()[0]) from None
        raise


def release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


class FrameEncoder:
    """Encodes frames, in chunks, into tensors that are laid out once for all of them.

    `encoded` counts the frames that went through the encoder: those that differ from the one before.
    """

    def __init__(self, runtime: Runtime, *, frames: int, budget: TokenBudget | None = None) -> None:
        """frames: how many will be added, at most; budget: the runtime's unless given."""
        self._runtime = runtime
        self._frames = frames
        self._added = 0
        # Frames that differ from the one before, and how often each of them came.
        self._waiting: list[np.ndarray] = []
        self._copies: list[int] = []
        self.encoded = 0
        self._budget = budget = budget or runtime.budget
        self._embeds = FrameBuffer(frames)
        self._merger: WindowMerger | None = None
        if budget.merge is not None:
            self._merger = WindowMerger(budget.merge, frames=frames, budget=budget.count(frames))
        self._features: FrameBuffer | None = None
        self.chunk = runtime.model.model.frames_per_chunk
        self.seconds = 0.0

    def add(self, frame: np.ndarray) -> None:
        """frame: (H, W, 3) uint8, of the processor's size. Raises MemoryError."""
        if self._waiting and np.array_equal(frame, self._waiting[-1]):
            self._copies[-1] += 1
            return
        if len(self._waiting) >= self.chunk:
            self._encode_waiting()
        self._waiting.append(frame)
        self._copies.append(1)

    def _encode_waiting(self) -> None:
        started = time.perf_counter()
        while self._waiting:
            frames, copies = self._waiting[: self.chunk], self._copies[: self.chunk]
            try:
                with memory_errors():
                    encoded = self._encode(frames)
            except MemoryError:
                if self.chunk == 1:
                    raise
                self.chunk //= 2
                release_memory()
                self._runtime.notice(
                    f"out of memory; encoding {self.chunk} frames at a time from here on"
                )
                continue
            with memory_errors():  # of merging a window, which smaller chunks would not help
                self._keep(*encoded, copies)
            del self._waiting[: len(frames)], self._copies[: len(frames)]
        self.seconds += time.perf_counter() - started

    def finish(self) -> VisualTokens | RaggedTokens:
        """Everything added, as one video: (1, T, …). Raises MemoryError."""
        self._encode_waiting()
        started = time.perf_counter()
        if self._runtime.device.type == "cuda":
            torch.cuda.synchronize(self._runtime.device)
        features = None if self._features is None else self._features.joined()[None]
        visual: VisualTokens | RaggedTokens
        if self._merger is None:
            visual = VisualTokens(embeds=self._embeds.joined()[None], features=features)
        else:
            with torch.inference_mode(), memory_errors():
                # Of fewer frames than expected as many of each as of the others, so that a method that
                # needs a square number still has one.
                planned = self._budget.count(self._frames)
                merged = self._merger.finish(planned * self._added // self._frames)
            visual = RaggedTokens.of(
                [merged],
                frames=[self._added],
                pooled=self._budget.pooled,
                width=merged.tokens.shape[-1],
                features=features,
            )
        self.seconds += time.perf_counter() - started
        return visual

    @torch.inference_mode()
    def _encode(self, frames: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The tokens of the frames and their features, with room made for both."""
        model, device = self._runtime.model, self._runtime.device
        pixels = torch.from_numpy(np.stack(frames))
        if device.type == "cuda":
            pixels = pixels.pin_memory()
        pixels = pixels.to(device, non_blocking=True)
        pixels = self._runtime.processor.normalise(pixels, dtype=model.dtype)
        embeds, features = model.model.encode_frames(pixels, self._budget.pooled)
        (self._merger or self._embeds).allocate(embeds)
        if features is not None:
            self._features = self._features or FrameBuffer(self._frames)
            self._features.allocate(features)
        return embeds, features

    @torch.inference_mode()
    def _keep(
        self, embeds: torch.Tensor, features: torch.Tensor | None, copies: Sequence[int]
    ) -> None:
        if features is not None and self._features is not None:
            for part in _repeated(features, copies):
                self._features.add(part)
        target = self._merger or self._embeds
        for part in _repeated(embeds, copies):
            target.add(part)
        self._added += sum(copies)
        self.encoded += len(copies)


def _repeated(rows: torch.Tensor, copies: Sequence[int]) -> Iterator[torch.Tensor]:
    """`rows` (F, …), each as often as `copies` says, in parts that copy nothing."""
    if max(copies) == 1:
        yield rows
        return
    for row, count in zip(rows, copies, strict=True):
        yield row.expand(count, *row.shape)


@contextmanager
def open_frames(
    runtime: Runtime,
    video: str | os.PathLike[str] | GivenFrames,
    sampling: Sampling,
    *,
    started: FrameStream | None = None,
) -> Iterator[FrameStream | GivenFrames]:
    """The frames of a video as the model takes them, their number known.

    started: a stream of the video that may already be decoding; it is closed here, and used where its
    frames are those that the model takes. Raises VideoError, UsageError.
    """
    size = runtime.processor.frame_size
    resample = int(runtime.processor.image_processor.resample)
    if started is not None and not started.gives(video, sampling, size=size, resample=resample):
        started.close()
        started = None
    opened: AbstractContextManager[FrameStream | GivenFrames]
    if isinstance(video, GivenFrames):
        opened = nullcontext(video.chosen(sampling, runtime.processor.resize))
    else:
        opened = started or open_stream(video, sampling, size=size, resample=resample)
    with opened as stream:
        if isinstance(stream, FrameStream):
            stream.open()
        yield stream


def encode_video(
    runtime: Runtime,
    stream: FrameStream | GivenFrames,
    *,
    budget: TokenBudget,
    on_progress: Progress | None = None,
) -> EncodedVideo:
    """Encode what `open_frames` gave, while it decodes. budget: how many tokens the language model will
    read of it.

    Raises VideoError, UsageError, TooManyFrames.
    """
    check_count(budget, stream.count, error=UsageError)
    encoder = FrameEncoder(runtime, frames=stream.count, budget=budget)
    try:
        used = _encode_stream(stream, encoder, on_progress)
    except MemoryError:
        raise TooManyFrames(stream.count) from None
    if not used:
        raise VideoError(f"{stream.source.path}: no frames were decoded")
    try:
        visual = encoder.finish()
    except MemoryError:
        raise TooManyFrames(stream.count) from None
    if on_progress:
        on_progress("encode", len(used), len(used))
    return EncodedVideo(
        visual=visual,
        frames=tuple(used),
        encoded=encoder.encoded,
        source=stream.source,
        warnings=tuple(stream.warnings),
        decode_seconds=stream.seconds,
        encode_seconds=encoder.seconds,
    )


def unfamiliar_footage(runtime: Runtime, encoded: EncodedVideo) -> tuple[str, ...]:
    """What to warn of where the built-in model does not know such footage."""
    check, features = runtime.footage, encoded.visual.features
    return () if check is None or features is None else check.warning(features[0])


def warn_of_frames(runtime: Runtime, count: int, videos: int = 1) -> tuple[str, ...]:
    """What to warn of where the built-in model answers from so many frames of so many videos."""
    if runtime.footage is None:
        return ()
    warnings: tuple[str, ...] = ()
    if count > TRAINED_FRAMES:
        warnings += (
            f"the built-in model was trained on up to {TRAINED_FRAMES} frames of a video; with "
            f"{count} its answers get worse",
        )
    if videos > 1:
        warnings += (
            "the built-in model was trained on one video at a time; its answers about several are "
            "guesses",
        )
    return warnings


def _encode_stream(
    stream: FrameStream | GivenFrames, encoder: FrameEncoder, on_progress: Progress | None
) -> list[FrameUsed]:
    used: list[FrameUsed] = []
    for frame in stream:
        encoder.add(frame.pixels)
        used.append(FrameUsed(frame.index, frame.time))
        if on_progress and len(used) % encoder.chunk == 0:
            on_progress("encode", len(used), stream.count)
    return used
