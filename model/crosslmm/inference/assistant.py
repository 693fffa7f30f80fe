"""`load` a checkpoint, then `ask`: the library's front door.

    assistant = crosslmm.load("demo")
    answer = assistant.ask("movie.mp4", "what happens?", frames=64)

Frames flow from the file through the encoder in chunks; only what the language model needs is kept.
When memory runs out the chunk is halved, then the number of frames, and it is said.
"""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Unpack

import torch

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints import quantization as quantizing
from crosslmm.checkpoints.headers import TensorInfo, read_gates, read_headers
from crosslmm.checkpoints.loading import load_config, load_model, load_processor
from crosslmm.checkpoints.quantization import Quantization
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.cost import Memory, ModelShape, memory_needed
from crosslmm.device import free_memory, resolve_device, resolve_dtype
from crosslmm.errors import CheckpointError, OutOfMemory, UsageError
from crosslmm.files import gigabytes
from crosslmm.inference import batch as batching
from crosslmm.inference.encoding import (
    EncodedVideo,
    Notice,
    Progress,
    TooManyFrames,
    encode_video,
    memory_errors,
    release_memory,
)
from crosslmm.inference.generation import Answer
from crosslmm.inference.session import AnswerStream, VideoSession
from crosslmm.merging import check_tokens_per_frame
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.options import Sampling, SamplingOptions
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.versions import library_versions
from crosslmm.video import Frames


def load(
    name_or_path: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: Quantization = "auto",
    tokens_per_frame: int | None = None,
    frames: int | None = None,
    on_notice: Notice | None = None,
) -> "Assistant":
    """Load a checkpoint from disk: `demo`, a folder, or a Hub id that was pulled.

    - None is the default model: `CROSSLMM_MODEL`, else the one chosen with `crosslmm models use`.
    - device: cuda, cuda:1, mps or cpu; None takes the best there is. dtype: None is bfloat16 where
      the device computes in it, else float32. Both are in `settings` of every answer.
    - tokens_per_frame: merged tokens of a frame, a perfect square; None is what the checkpoint was
      trained with.
    - frames: how many will be watched at a time, for the estimate of the memory that is needed, made
      before anything is loaded.
    - on_notice: called with a line of text when something is done otherwise than asked.

    Raises CheckpointError, UsageError, OutOfMemory.
    """
    started = time.perf_counter()
    name = str(name_or_path) if name_or_path is not None else catalog.default_model().name
    folder = catalog.resolve(name)
    chosen_device = resolve_device(device)
    chosen_dtype = resolve_dtype(dtype, chosen_device)
    headers = read_headers(folder)
    parameters = sum(tensor.count for tensor in headers.values())
    kind = quantizing.resolve_quantization(quantization, chosen_device, parameters)
    config = load_config(folder)
    processor = load_processor(folder)
    if tokens_per_frame is not None:
        processor.tokens_per_frame = check_tokens_per_frame(
            tokens_per_frame, config.patches_per_frame, error=UsageError
        )
    needed = _needed_memory(
        config,
        headers,
        frames=frames or config.default_frames,
        tokens_per_frame=processor.tokens_per_frame,
        dtype=chosen_dtype,
        quantization=kind,
    )
    if needed is not None:
        _check_memory(name, needed, chosen_device, on_notice)
    try:
        with memory_errors():
            model = load_model(
                folder, device=chosen_device, dtype=chosen_dtype, quantization=kind, config=config
            )
    except MemoryError as error:
        raise OutOfMemory(
            f"{name}: its weights do not fit in the memory of {chosen_device}; "
            "try 4-bit quantization, or a smaller model"
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
        return library_versions()

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
        """Answer one question about a video; options as in `open_video` and `VideoSession.stream`."""
        return self.open_video(video, **sampling).ask(
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
        return self.open_video(video, **sampling).stream(
            question, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        )

    def open_video(
        self,
        video: str | os.PathLike[str],
        sampling: Sampling | None = None,
        *,
        tokens_per_frame: int | None = None,
        on_progress: Progress | None = None,
        **options: Unpack[SamplingOptions],
    ) -> VideoSession:
        """Decode, encode and prefill a video once, for any number of questions.

        Sampling options are those of `crosslmm.sample`. on_progress is called with a stage, what is
        done of it and the total. Raises VideoError, UsageError, OutOfMemory.
        """
        started = time.perf_counter()
        tokens = self.tokens_per_frame
        if tokens_per_frame is not None:
            tokens = check_tokens_per_frame(
                tokens_per_frame, self.model.config.patches_per_frame, error=UsageError
            )
        sampling = Sampling.of(sampling, options)
        if sampling.frames is None and sampling.fps is None:
            sampling = replace(sampling, frames=self.default_frames)
        tried = sampling
        encoded: EncodedVideo | None
        while True:
            try:
                encoded = encode_video(
                    self.model,
                    self.processor,
                    video,
                    tried,
                    tokens_per_frame=tokens,
                    on_progress=on_progress,
                    on_notice=self.on_notice,
                )
                if on_progress:
                    on_progress("prefill", 0, 0)
                return VideoSession(
                    self,
                    os.fsdecode(video),
                    encoded,
                    tokens_per_frame=tokens,
                    settings={
                        "frames": sampling.frames, "fps": sampling.fps,
                        "max_frames": sampling.max_frames, "start": sampling.start,
                        "end": sampling.end, "reader": encoded.source.reader, "seek": sampling.seek,
                    },
                    started=started,
                )  # fmt: skip
            except TooManyFrames as ran_out:
                used = ran_out.frames
            if used <= 1:
                raise OutOfMemory(
                    f"{os.fsdecode(video)}: out of memory on {self.device} even with one frame"
                )
            tried = replace(sampling, max_frames=used // 2)
            encoded = None  # the next try needs the memory
            release_memory()
            self._notice(f"out of memory with {used} frames; trying with {tried.max_frames}")

    @property
    def default_frames(self) -> int:
        """Frames taken of a video when nothing else is asked for."""
        return self.model.config.default_frames

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


def _needed_memory(
    config: CrossLMMConfig,
    headers: Mapping[str, TensorInfo],
    *,
    frames: int,
    tokens_per_frame: int,
    dtype: torch.dtype,
    quantization: Literal["4bit", "8bit", "none"],
) -> Memory | None:
    """What a run will take at its peak; None for a kind of model whose cost is not known."""
    try:
        return memory_needed(
            ModelShape.from_config(config.to_dict()).with_gates(read_gates(headers)),
            frames=frames,
            tokens_per_frame=tokens_per_frame,
            dtype=str(dtype).removeprefix("torch."),
            quantization=quantization,
        )
    except CheckpointError:
        return None


def _check_memory(
    name: str, needed: Memory, device: torch.device, on_notice: Notice | None
) -> None:
    """Raises OutOfMemory where the weights alone cannot fit; says so where the frames may not."""
    free = free_memory(device)
    if needed.weights > free:
        raise OutOfMemory(
            f"{name}: its weights need {gigabytes(needed.weights)} and {device} has "
            f"{gigabytes(free)} free; try 4-bit quantization, or a smaller model"
        )
    if needed.total > free and on_notice:
        on_notice(
            f"this may need {gigabytes(needed.total)} and {device} has {gigabytes(free)} free; "
            "fewer frames will be used if it runs out"
        )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
