"""`load` a checkpoint, then `ask`: the library's front door.

    assistant = crosslmm.load("demo")
    answer = assistant.ask("movie.mp4", "what happens?", frames=64)

Frames flow from the file through the encoder in chunks; only what the language model needs is kept.
When memory runs out the chunk is halved, then the number of frames, and it is said.
"""

import gc
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import crosslmm
from crosslmm import batch as batching
from crosslmm import quantization as quantizing
from crosslmm import store
from crosslmm.answer import Answer, FrameUsed
from crosslmm.checkpoint import load_config, load_model, load_processor
from crosslmm.configuration_crosslmm import grid_side
from crosslmm.device import resolve_device, resolve_dtype
from crosslmm.errors import OutOfMemory, UsageError, VideoError
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration, VisualTokens
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.quantization import Quantization
from crosslmm.video import Frames, FrameStream, ReaderName, Seek, open_stream
from crosslmm.watched import AnswerStream, EncodedVideo, Progress, Watched
from crosslmm.weights import read_headers

Notice = Callable[[str], None]

DEFAULT_FRAMES = 64


def load(
    name_or_path: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: Quantization = "auto",
    tokens_per_frame: int | None = None,
    on_notice: Notice | None = None,
) -> "Assistant":
    """Load a checkpoint from disk: `demo`, a folder, or a Hub id that was pulled.

    - None is the default model: `CROSSLMM_MODEL`, else the one chosen with `crosslmm models use`.
    - device: cuda, cuda:1, mps or cpu; None takes the best there is. dtype: None is bfloat16 where
      the device computes in it, else float32. Both are in `settings` of every answer.
    - tokens_per_frame: merged tokens of a frame, a perfect square; None is what the checkpoint was
      trained with.
    - on_notice: called with a line of text when something is done otherwise than asked.

    Raises CheckpointError, UsageError, OutOfMemory.
    """
    started = time.perf_counter()
    name = str(name_or_path) if name_or_path is not None else store.default_model().name
    folder = store.locate(name)
    chosen_device = resolve_device(device)
    chosen_dtype = resolve_dtype(dtype, chosen_device)
    parameters = sum(tensor.count for tensor in read_headers(folder).values())
    kind = quantizing.resolve_quantization(quantization, chosen_device, parameters)
    config = load_config(folder)
    processor = load_processor(folder)
    if tokens_per_frame is not None:
        processor.tokens_per_frame = _checked_tokens(tokens_per_frame, config.patch_grid)
    try:
        model = load_model(
            folder, device=chosen_device, dtype=chosen_dtype, quantization=kind, config=config
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(
            f"{name}: its weights do not fit in the memory of {chosen_device}; "
            "try --quantize 4bit, or --device cpu"
        ) from error
    return Assistant(
        model,
        processor,
        name=name,
        folder=folder,
        quantization=kind,
        load_seconds=time.perf_counter() - started,
        on_notice=on_notice,
    )


class Assistant:
    """A loaded model that answers questions about videos. `model` and `processor` are open to use."""

    def __init__(
        self,
        model: CrossLMMForConditionalGeneration,
        processor: CrossLMMProcessor,
        *,
        name: str = "",
        folder: Path | None = None,
        quantization: str = "none",
        load_seconds: float = 0.0,
        on_notice: Notice | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.name = name
        self.folder = folder
        self.quantization = quantization
        self.load_seconds = load_seconds
        self.on_notice = on_notice

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def tokens_per_frame(self) -> int:
        return self.processor.tokens_per_frame

    @cached_property
    def settings(self) -> dict[str, Any]:
        """How the model runs: device, dtype, quantization, attention."""
        return {
            "device": str(self.device),
            "device_name": _device_name(self.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "quantization": self.quantization,
            "attention": self.model.config.text._attn_implementation,
        }

    @cached_property
    def versions(self) -> dict[str, str]:
        import av
        import transformers

        return {
            "crosslmm": crosslmm.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "av": av.__version__,
        }

    def ask(
        self,
        video: str | os.PathLike[str],
        question: str,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        **sampling: Any,
    ) -> Answer:
        """Watch a video and answer one question; options as in `watch` and `Watched.stream`."""
        return self.watch(video, **sampling).ask(
            question, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        )

    def stream(
        self,
        video: str | os.PathLike[str],
        question: str,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        **sampling: Any,
    ) -> AnswerStream:
        """As `ask`, as an iterator of pieces of text, whose `.answer` is there at the end."""
        return self.watch(video, **sampling).stream(
            question, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        )

    def watch(
        self,
        video: str | os.PathLike[str],
        *,
        frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        start: float | None = None,
        end: float | None = None,
        reader: ReaderName = "auto",
        seek: Seek = "auto",
        tokens_per_frame: int | None = None,
        on_progress: Progress | None = None,
    ) -> Watched:
        """Decode, encode and prefill a video once, for any number of questions.

        Sampling options are those of `crosslmm.sample`. on_progress is called with a stage, what is
        done of it and the total. Raises VideoError, UsageError, OutOfMemory.
        """
        started = time.perf_counter()
        tokens = self.tokens_per_frame
        if tokens_per_frame is not None:
            tokens = _checked_tokens(tokens_per_frame, self.model.config.patch_grid)
        if frames is None and fps is None:
            frames = self.default_frames
        cap = max_frames
        while True:
            try:
                encoded = self.encode(
                    video,
                    frames=frames,
                    fps=fps,
                    max_frames=cap,
                    start=start,
                    end=end,
                    reader=reader,
                    seek=seek,
                    tokens_per_frame=tokens,
                    on_progress=on_progress,
                )
                if on_progress:
                    on_progress("prefill", 0, 0)
                return Watched(
                    self,
                    os.fsdecode(video),
                    encoded,
                    tokens_per_frame=tokens,
                    settings={
                        "frames": frames, "fps": fps, "max_frames": max_frames, "start": start,
                        "end": end, "reader": encoded.source.reader, "seek": seek,
                    },
                    started=started,
                )  # fmt: skip
            except OutOfFrames as ran_out:
                used = ran_out.frames
            except (torch.OutOfMemoryError, MemoryError):
                used = len(encoded.frames)
                del encoded
            if used <= 1:
                raise OutOfMemory(
                    f"{os.fsdecode(video)}: out of memory on {self.device} even with one frame"
                )
            cap = used // 2
            _release_memory()
            self._notice(f"out of memory with {used} frames; trying with {cap}")

    @property
    def default_frames(self) -> int:
        """Frames taken of a video when nothing else is asked for."""
        return int(getattr(self.model.config, "default_frames", None) or DEFAULT_FRAMES)

    def encode(
        self,
        video: str | os.PathLike[str],
        *,
        tokens_per_frame: int,
        on_progress: Progress | None = None,
        **sampling: Any,
    ) -> EncodedVideo:
        """Frames of a video through the encoder, in chunks, as they are decoded."""
        if on_progress:
            on_progress("decode", 0, 0)
        with open_stream(
            video,
            size=self.processor.frame_size,
            resample=int(self.processor.image_processor.resample),
            **sampling,
        ) as stream:
            encoder = ChunkEncoder(self, stream.count, tokens_per_frame)
            used = _encode_stream(stream, encoder, on_progress)
            if not used:
                raise VideoError(f"{os.fsdecode(video)}: gave no frames")
            return EncodedVideo(
                visual=encoder.finish(),
                frames=tuple(used),
                source=stream.source,
                warnings=tuple(stream.warnings),
                decode_seconds=stream.seconds,
                encode_seconds=encoder.seconds,
            )

    def answer_batch(
        self,
        videos: Sequence[Frames],
        questions: Sequence[str],
        *,
        max_new_tokens: int = 512,
    ) -> list[str]:
        """One greedy answer for each of several videos (`crosslmm.Frames`), in one batch.

        Videos and questions may differ in length; each answer is the one it would have had alone.
        Raises OutOfMemory.
        """
        batch = batching.answer_batch(self, videos, questions, max_new_tokens=max_new_tokens)
        return [answer.text for answer in batch.answers]

    def _notice(self, text: str) -> None:
        if self.on_notice:
            self.on_notice(text)


class OutOfFrames(Exception):
    """Memory ran out while encoding so many frames, one at a time."""

    def __init__(self, frames: int) -> None:
        super().__init__(frames)
        self.frames = frames


class ChunkEncoder:
    """Encodes chunks of frames into tensors that are laid out once for all of them."""

    def __init__(self, assistant: Assistant, frames: int, tokens_per_frame: int) -> None:
        self._assistant = assistant
        self._base = assistant.model.model
        self._frames = frames
        self._tokens_per_frame = tokens_per_frame
        self._embeds: torch.Tensor | None = None
        self._features: torch.Tensor | None = None
        self._done = 0
        self.chunk = self._base.frames_per_chunk
        self.seconds = 0.0

    def add(self, frames: Sequence[np.ndarray]) -> None:
        started = time.perf_counter()
        pending = list(frames)
        while pending:
            try:
                self._encode(pending[: self.chunk])
                del pending[: self.chunk]
            except (torch.OutOfMemoryError, MemoryError):
                if self.chunk == 1:
                    raise OutOfFrames(self._frames) from None
                self.chunk //= 2
                _release_memory()
                self._assistant._notice(
                    f"out of memory; encoding {self.chunk} frames at a time from here on"
                )
        self.seconds += time.perf_counter() - started

    def finish(self) -> VisualTokens:
        started = time.perf_counter()
        if self._assistant.device.type == "cuda":
            torch.cuda.synchronize(self._assistant.device)
        self.seconds += time.perf_counter() - started
        assert self._embeds is not None
        return VisualTokens(
            embeds=self._embeds[None, : self._done],
            features=None if self._features is None else self._features[None, : self._done],
        )

    @torch.inference_mode()
    def _encode(self, frames: Sequence[np.ndarray]) -> None:
        pixels = torch.from_numpy(np.stack(frames))
        if self._assistant.device.type == "cuda":
            pixels = pixels.pin_memory()
        pixels = pixels.to(self._assistant.device, non_blocking=True)
        pixels = self._assistant.processor.normalise(pixels, dtype=self._assistant.model.dtype)
        embeds, features = self._base.encode_frames(pixels, self._tokens_per_frame)
        if self._embeds is None:
            self._embeds = embeds.new_empty(self._frames, *embeds.shape[1:])
            if features is not None:
                self._features = features.new_empty(self._frames, *features.shape[1:])
        rows = slice(self._done, self._done + len(frames))
        self._embeds[rows] = embeds
        if features is not None and self._features is not None:
            self._features[rows] = features
        self._done += len(frames)


def _encode_stream(
    stream: FrameStream, encoder: ChunkEncoder, on_progress: Progress | None
) -> list[FrameUsed]:
    used: list[FrameUsed] = []
    pending: list[np.ndarray] = []
    for frame in stream:
        pending.append(frame.pixels)
        used.append(FrameUsed(frame.index, frame.time))
        if len(pending) >= encoder.chunk:
            encoder.add(pending)
            pending = []
        if on_progress:
            on_progress("encode", len(used) - len(pending), stream.count)
    if pending:
        encoder.add(pending)
    if on_progress:
        on_progress("encode", len(used), len(used))
    return used


def _checked_tokens(tokens_per_frame: int, grid: int) -> int:
    side = grid_side(tokens_per_frame)
    if side is None or side > grid:
        choices = [side * side for side in range(1, min(grid, 5) + 1)]
        raise UsageError(
            f"tokens_per_frame={tokens_per_frame} is not a perfect square from 1 to {grid * grid}, "
            f"such as {', '.join(str(choice) for choice in choices)}"
        )
    return tokens_per_frame


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
