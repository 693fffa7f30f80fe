"""`load` a checkpoint, then `ask`: the library's front door.

assistant = crosslmm.load("demo")
answer = assistant.ask("movie.mp4", "what happens?", frames=64)
"""

import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Unpack, overload

import torch

from crosslmm.checkpoints import catalog
from crosslmm.checkpoints.adapters import read_adapter_header
from crosslmm.checkpoints.headers import read_headers
from crosslmm.checkpoints.loading import load_config, load_model, load_processor
from crosslmm.checkpoints.quantization import resolve_quantization
from crosslmm.checkpoints.screening import check_tokens
from crosslmm.device import resolve_device, resolve_dtype
from crosslmm.errors import OutOfMemory, UsageError
from crosslmm.fingerprint import checkpoint_state
from crosslmm.inference import batch, opening
from crosslmm.inference.answer import Answer
from crosslmm.inference.encoding import memory_errors
from crosslmm.inference.feature_cache import FeatureCache
from crosslmm.inference.footage import UNFAMILIAR
from crosslmm.inference.generation import GenerationOptions
from crosslmm.inference.given import VideoLike, are_several
from crosslmm.inference.memory_check import check_memory, estimate_memory, frames_that_fit
from crosslmm.inference.opening import AskKeywords, OneVideoKeywords, VideosKeywords, ZoomKeywords
from crosslmm.inference.question import check_questions, check_texts
from crosslmm.inference.response import Response
from crosslmm.inference.runtime import Notice, Runtime, budget_for
from crosslmm.inference.session import VideoSession
from crosslmm.inference.zoom import ZoomedVideo
from crosslmm.merging import TokenBudget
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.options import (
    MAX_NEW_TOKENS,
    GenerationKeywords,
    Quantization,
    Sampling,
    SamplingOptions,
    check_feature_bits,
)
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.video import Frames


def load(
    name_or_path: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: Quantization = "auto",
    tokens_per_frame: int | None = None,
    merge: str | None = None,
    keep: str | int | None = None,
    frames: int | None = None,
    feature_bits: int | None = None,
    questions: Iterable[str] = (),
    cache: bool | FeatureCache = False,
    on_notice: Notice | None = None,
) -> "Assistant":
    """Load a checkpoint from disk: `demo`, a folder, or a Hub id that was pulled.

    A folder with a LoRA adapter in PEFT's format is loaded with its base, which has to be on disk too;
    the adapter is merged into the weights, or kept beside quantized ones.

    - None is the default model: `CROSSLMM_MODEL`, else the one chosen with `crosslmm models use`.
    - device: cuda, cuda:1, mps or cpu; None takes the best there is. dtype: None is bfloat16 where
      the device computes in it, else float32. Both are in `settings` of every answer.
    - tokens_per_frame: merged tokens of a frame, a perfect square; None is what the checkpoint was
      trained with.
    - merge, keep: as in `Assistant.open_video`, of all videos where nothing else is asked for.
    - frames: how many a video will have, for the estimate of the memory that is needed, made before
      anything is loaded.
    - feature_bits: 8 keeps the features that cross-attention reads in 8 bits each, with a scale for each
      patch: half the memory of bfloat16; answers may differ, and `settings` says so.
    - questions: that will be asked, to say before the weights are loaded where one is empty or does not
      fit into the model's context.
    - cache: keep on disk what is encoded of video files, and use what was kept of the same file, frames
      and model by whatever process: True in the user's folder of caches, or a `FeatureCache`.
    - on_notice: called with a line of text when something is done otherwise than asked.

    Raises CheckpointError, UsageError, OutOfMemory.
    """
    started = time.perf_counter()
    name = str(name_or_path) if name_or_path is not None else catalog.default_model().name
    resolved = catalog.resolve_model(name)
    folder = resolved.folder
    chosen_device = resolve_device(device)
    chosen_dtype = resolve_dtype(dtype, chosen_device)
    headers = read_headers(folder)
    parameters = sum(tensor.count for tensor in headers.values())
    chosen_quantization = resolve_quantization(quantization, chosen_device, parameters)
    config = load_config(folder)
    processor = load_processor(folder)
    check_tokens(folder, config, processor)
    usual = TokenBudget(processor.tokens_per_frame)
    budget = budget_for(config, usual, tokens_per_frame=tokens_per_frame, merge=merge, keep=keep)
    if budget.merge is None:
        processor.tokens_per_frame = budget.pooled
    check_texts(processor.tokenizer, questions, context=config.context)
    if resolved.adapter is not None:
        headers |= read_adapter_header(resolved.adapter)  # it may open gates
    needed = estimate_memory(
        config,
        headers,
        frames=frames or config.default_frames,
        budget=budget,
        dtype=chosen_dtype,
        quantization=chosen_quantization,
        feature_bits=check_feature_bits(feature_bits),
    )
    if needed is not None:
        check_memory(name, needed, chosen_device, on_notice)
    features = FeatureCache() if cache is True else cache or None
    # Before the weights are read: what replaces the files afterwards is another model.
    state = "" if features is None else checkpoint_state(folder, resolved.adapter)
    try:
        with memory_errors():
            model = load_model(
                folder,
                device=chosen_device,
                dtype=chosen_dtype,
                quantization=chosen_quantization,
                config=config,
                adapter=resolved.adapter,
            )
    except MemoryError as error:
        raise OutOfMemory(
            f"{name}: its weights do not fit in the memory of {chosen_device}; "
            "set `quantization` to 4bit, or use a smaller model"
        ) from error
    model.model.feature_bits = feature_bits
    assistant = Assistant(
        model,
        processor,
        name=name,
        folder=folder,
        adapter=resolved.adapter,
        quantization=chosen_quantization,
        load_seconds=time.perf_counter() - started,
        merging=budget if budget.merge else None,
        on_notice=on_notice,
    )
    assistant.runtime.cache, assistant.runtime.checkpoint_state = features, state
    return assistant


class Assistant:
    """A loaded model that answers questions about videos; its parts are in `runtime`."""

    def __init__(
        self,
        model: CrossLMMForConditionalGeneration,
        processor: CrossLMMProcessor,
        *,
        name: str = "",
        folder: Path | None = None,
        adapter: Path | None = None,
        quantization: str = "none",
        load_seconds: float = 0.0,
        merging: TokenBudget | None = None,
        on_notice: Notice | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.name = name
        self.folder = folder
        self.adapter = adapter
        self.quantization = quantization
        self.load_seconds = load_seconds
        self.runtime = Runtime(
            model,
            processor,
            name=name,
            folder=folder,
            adapter=adapter,
            quantization=quantization,
            load_seconds=load_seconds,
            merging=merging,
            on_notice=on_notice,
        )

    def __repr__(self) -> str:
        how = self.settings
        return (
            f"<Assistant {self.name or type(self.model).__name__} on {how['device']}, "
            f"{how['dtype']}, {self.runtime.budget}>"
        )

    @property
    def on_notice(self) -> Notice | None:
        return self.runtime.on_notice

    @on_notice.setter
    def on_notice(self, on_notice: Notice | None) -> None:
        self.runtime.on_notice = on_notice

    @property
    def device(self) -> torch.device:
        return self.runtime.device

    @property
    def tokens_per_frame(self) -> int:
        return self.runtime.tokens_per_frame

    @property
    def default_frames(self) -> int:
        """Frames taken of a video when nothing else is asked for."""
        return self.runtime.default_frames

    @property
    def settings(self) -> dict[str, str]:
        """How the model runs: device, dtype, quantization, attention."""
        return self.runtime.settings

    @property
    def versions(self) -> dict[str, str]:
        return self.runtime.versions

    @overload
    def ask(self, video: VideoLike, question: str, **options: Unpack[AskKeywords]) -> Answer: ...
    @overload
    def ask(
        self,
        video: VideoLike,
        question: list[str] | tuple[str, ...],
        **options: Unpack[AskKeywords],
    ) -> list[Answer]: ...

    def ask(
        self,
        video: VideoLike,
        question: str | list[str] | tuple[str, ...],
        **options: Unpack[AskKeywords],
    ) -> Answer | list[Answer]:
        """Answer a question about a video, or each of a list of questions, the video encoded once.

        A list of videos is asked about together, as by `open_videos`; one of images is one video. Other
        options as in `open_video` and `VideoSession.stream`; an unknown one raises TypeError. Footage
        that the built-in model does not know is also warned of by Python's `warnings`. For one
        question about each of several videos see `answer_batch`.
        """
        questions = [question] if isinstance(question, str) else question
        session, of_answers = self._open(video, questions, options)
        return session.ask(question, **of_answers)

    def stream(self, video: VideoLike, question: str, **options: Unpack[AskKeywords]) -> Response:
        """As `ask`, as an iterator of pieces of text, with the result in its `answer`."""
        session, of_answers = self._open(video, [question], options)
        return session.stream(question, **of_answers)

    def _open(
        self, video: VideoLike, questions: Sequence[str], options: Mapping[str, Any]
    ) -> tuple[VideoSession, dict[str, Any]]:
        """A session, and those of the options that are of its answers."""
        of_answers = _some(options, GenerationKeywords.__annotations__.keys())
        GenerationOptions(**of_answers)  # raises before any work
        of_video = _some(options, options.keys() - of_answers.keys())
        opens: Any = self.open_videos if are_several(video) else self.open_video
        session = opens(video, questions=questions, **of_video)
        if any(UNFAMILIAR in warning for warning in session.warnings):
            warnings.warn(f"{session.video}: {UNFAMILIAR}", stacklevel=3)
        return session, of_answers

    def open_video(
        self,
        video: VideoLike,
        sampling: Sampling | None = None,
        **options: Unpack[OneVideoKeywords],
    ) -> VideoSession:
        """Decode, encode and prefill a video once, for any number of questions.

        - video: a path, also of a folder of images; a binary file object, read to its end;
          `crosslmm.Frames`; an array or tensor (T, H, W, 3) or (T, 3, H, W) of uint8; a list of PIL
          images, arrays or paths of images. An image alone, (H, W, 3), is a video of one frame, also for
          checkpoints of LLaVA-OneVision, which transformers gives high-resolution tiles.
        - Sampling options are those of `crosslmm.sample`. Of frames in memory all are used unless
          `frames`, `max_frames`, `start` or `end` choose some. Several of them need `fps`, here the
          rate of these frames, or `times`, the seconds of each; `Frames` bring theirs.
        - merge: a method of `crosslmm.merging.MERGERS`, which makes fewer tokens of those of all frames,
          each frame's as the checkpoint was trained; keep: how many, as a share ("10%") or a number for
          the complete video; or `tokens_per_frame`, so many for each frame in all.
        - allow_network: True downloads a video at an https address; it is kept where `cache` was chosen.
        - system: a turn before the video, which says how to answer.
        - allow_unfamiliar: False raises UnfamiliarFootage where the built-in model would only warn.
        - on_progress: called with a stage, what is done of it and the total.
        - stream: one of the same video that was started earlier, so that it decodes while the model is
          being loaded; used where its frames are those that the model takes.
        - questions: that will be asked, to say before anything is encoded where they do not fit into
          the model's context with the frames.

        Raises VideoError, UsageError, OutOfMemory.
        """
        if are_several(video):
            raise UsageError("a list of videos is for `open_videos`, and for `ask`")
        sampling, rest = _split(sampling, options, OneVideoKeywords)
        return opening.open_video(self.runtime, video, sampling, **rest)

    def open_videos(
        self,
        videos: Sequence[VideoLike],
        sampling: Sampling | None = None,
        **options: Unpack[VideosKeywords],
    ) -> VideoSession:
        """Open several videos for questions about all of them: "which of them shows a dog?".

        They share `frames`, `max_frames` and `keep` evenly; `start`, `end` and `fps` hold for each. The
        prompt numbers and names them; the `frames` of an answer, and the moments of its evidence, name
        their video. The rest is as for `open_video`.
        """
        sampling, rest = _split(sampling, options, VideosKeywords)
        return opening.open_videos(self.runtime, videos, sampling, **rest)

    def open_zoomed(
        self,
        video: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        sampling: Sampling | None = None,
        *,
        tokens_per_frame: int | None = None,
        **options: Unpack[ZoomKeywords],
    ) -> ZoomedVideo:
        """Skim a video file, or several, with one token per frame, and look again, with more frames and
        tokens, at the moments that each question points to. See docs/needles.md for when that pays.

        `frames` and `tokens_per_frame` are those of one pass over all of it: skim and second look
        together have no more tokens. The rest is as for `open_video`; merging, `fps`, `at`, and any
        `sampler` but uniform and codec, raise UsageError.
        """
        sampling, rest = _split(sampling, options, ZoomKeywords)
        several: Any = video if isinstance(video, list | tuple) else [video]
        return opening.open_zoomed(
            self.runtime, several, sampling, tokens_per_frame=tokens_per_frame, **rest
        )

    def most_frames(
        self,
        memory: int | None = None,
        *,
        tokens_per_frame: int | None = None,
        merge: str | None = None,
        keep: str | int | None = None,
    ) -> int:
        """The most frames of a video that fit into the model's context and into `memory` bytes, its
        weights included; into what is free on the device where no memory is given. Tokens as in
        `open_video`.

        An estimate, of tensors alone; see `docs/cost.md`. Raises UsageError where not one fits.
        """
        budget = self.runtime.choose_budget(
            tokens_per_frame=tokens_per_frame, merge=merge, keep=keep
        )
        return frames_that_fit(self.runtime, memory, budget=budget)

    def check_questions(self, questions: Iterable[str]) -> None:
        """Raise UsageError for a question that is empty or does not fit into the model's context."""
        check_questions(self.runtime, questions)

    def answer_batch(
        self,
        videos: Sequence[Frames],
        questions: Sequence[str],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        merge: str | None = None,
        keep: str | int | None = None,
    ) -> list[str]:
        """One greedy answer for each of several videos (`crosslmm.Frames`), in one batch.

        Videos and questions may differ in length; each answer is the one it would have had alone.
        merge, keep: as in `open_video`, of each video. Raises OutOfMemory, ModelError, UsageError.
        """
        done = batch.answer_batch(
            self.runtime, videos, questions, max_new_tokens=max_new_tokens, merge=merge, keep=keep
        )
        if problem := next((answer.problem for answer in done.answers if answer.problem), None):
            raise problem
        if any(UNFAMILIAR in answer.warnings for answer in done.answers):
            warnings.warn(UNFAMILIAR, stacklevel=2)
        return [answer.text for answer in done.answers]


def _split(
    sampling: Sampling | None, options: Mapping[str, Any], kind: type
) -> tuple[Sampling, dict[str, Any]]:
    """Arguments of this `kind` of TypedDict: those of sampling, and the rest. Raises TypeError."""
    names = kind.__annotations__.keys() - SamplingOptions.__annotations__.keys()
    return Sampling.of(sampling, _some(options, options.keys() - names)), _some(options, names)


def _some(options: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}
