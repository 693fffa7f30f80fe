"""Questions about several videos answered in one batch, greedily.

Frames stay uint8 until they are on the device and go through the encoder in chunks, whichever video
they belong to, so a batch costs no more memory to encode than one video does.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from crosslmm.cache import as_dual_cache
from crosslmm.errors import ModelError, OutOfMemory, UsageError
from crosslmm.inference.answer import Finish
from crosslmm.inference.encoding import FrameEncoder, memory_errors
from crosslmm.inference.finite import BrokenRows, not_finite
from crosslmm.inference.generation import GenerationOptions, decode_answer, stop_token_ids
from crosslmm.inference.question import check_context, check_questions
from crosslmm.inference.reasoning import split_reasoning
from crosslmm.inference.runtime import Runtime
from crosslmm.merging import TokenBudget, check_count
from crosslmm.modeling_crosslmm import VisualTokens
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.video import Frames
from crosslmm.vision import scatter_frames
from crosslmm.visual_encoding import merge_video


@dataclass(frozen=True)
class BatchAnswer:
    """One answer of a batch; `tokens` counts those generated, its end token included. `warnings` are
    about the footage, for this model; `visual_tokens` were read of the video, after merging. With a
    `problem` there is no text."""

    text: str
    tokens: int
    finish: Finish
    visual_tokens: int = 0
    warnings: tuple[str, ...] = ()
    problem: ModelError | None = None


@dataclass(frozen=True)
class BatchAnswers:
    """The answers in the order of the questions, and the seconds that the batch took."""

    answers: tuple[BatchAnswer, ...]
    encode_seconds: float
    generate_seconds: float


def answer_batch(
    runtime: Runtime,
    videos: Sequence[Frames],
    questions: Sequence[str],
    *,
    max_new_tokens: int,
    merge: str | None = None,
    keep: str | int | None = None,
) -> BatchAnswers:
    """One question about each video; both may differ in length.

    merge, keep: as in `merging.choose_budget`. Raises OutOfMemory where the batch is too large,
    UsageError for a question that is too long and a merging that is not possible.
    """
    if isinstance(questions, str):
        raise UsageError("`questions` is a list, with a question for each video")
    check_questions(runtime, questions)
    _check_pairs(videos, questions)
    budget = runtime.choose_budget(merge=merge, keep=keep)
    try:
        with memory_errors():
            return _answer_batch(runtime, videos, questions, budget, max_new_tokens)
    except MemoryError:
        count = sum(map(len, videos))
    raise OutOfMemory(
        f"out of memory on {runtime.device} with {count} frames of {len(videos)} videos"
    )


def _check_pairs(videos: Sequence[Frames], questions: Sequence[str]) -> None:
    if len(videos) != len(questions):
        raise UsageError(
            f"a question for each video: {len(videos)} videos and {len(questions)} questions"
        )
    if other := next((video for video in videos if not isinstance(video, Frames)), None):
        raise UsageError(
            f"`videos` are frames, as `crosslmm.sample` reads them, not {type(other).__name__}"
        )


def _answer_batch(
    runtime: Runtime,
    videos: Sequence[Frames],
    questions: Sequence[str],
    budget: TokenBudget,
    max_new_tokens: int,
) -> BatchAnswers:
    processor, model = runtime.processor, runtime.model
    options = GenerationOptions(max_new_tokens)
    prompts = [
        processor.prompt(question, times=clip.times, duration=clip.source.duration)
        for clip, question in zip(videos, questions, strict=True)
    ]
    frames = [len(clip) for clip in videos]
    counts = [budget.count(count) for count in frames]
    batch = processor.encode_prompts(prompts, frames, merged=counts)
    rows = batch["attention_mask"].sum(dim=1).tolist()
    for used, kept, row in zip(frames, counts, rows, strict=True):
        check_context(runtime, frames=used, budget=budget, prompt_tokens=row - kept)
        check_count(budget, used, error=UsageError)
    ids = batch["input_ids"].to(runtime.device)
    mask = batch["attention_mask"].to(runtime.device)
    started = time.perf_counter()
    visual = _encode(runtime, videos, budget)
    encoded = time.perf_counter()
    with torch.inference_mode():
        # All but the last token is prefilled here, because `generate` knows no encoded videos.
        cache = as_dual_cache(None, model.config)
        model.model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0)[:, :-1],
            visual_tokens=visual,
            past_key_values=cache,
            use_cache=True,
        )
        out = model.generate(  # type: ignore[misc]
            input_ids=ids,
            attention_mask=mask,
            video_frame_mask=visual.frame_mask,
            past_key_values=cache,
            generation_config=options.config(model),
            logits_processor=LogitsProcessorList([broken := BrokenRows()]),
            stopping_criteria=StoppingCriteriaList([broken.stop]),
        )
    assert isinstance(out, torch.Tensor)
    generated = out[:, ids.shape[1] :].tolist()
    stops = stop_token_ids(model.generation_config)
    answers = tuple(
        BatchAnswer("", 0, "end", problem=not_finite(model.dtype))
        if is_broken
        else replace(_answer(runtime, row, stops), warnings=warnings, visual_tokens=count)
        for row, is_broken, warnings, count in zip(
            generated, broken.rows(), _warnings(runtime, visual, videos), counts, strict=True
        )
    )
    return BatchAnswers(answers, encoded - started, time.perf_counter() - encoded)


def _answer(runtime: Runtime, ids: list[int], stops: Sequence[int]) -> BatchAnswer:
    length = next((index + 1 for index, token in enumerate(ids) if token in stops), None)
    text = decode_answer(runtime.processor.tokenizer, ids[:length])
    _, text = split_reasoning(runtime, text.strip())
    return BatchAnswer(text, length or len(ids), "length" if length is None else "end")


def _warnings(
    runtime: Runtime, visual: VisualTokens | RaggedTokens, videos: Sequence[Frames]
) -> list[tuple[str, ...]]:
    check, features = runtime.footage, visual.features
    if check is None or features is None:
        return [()] * len(videos)
    return [check.warning(row[: len(clip)]) for row, clip in zip(features, videos, strict=True)]


def _encode(
    runtime: Runtime, videos: Sequence[Frames], budget: TokenBudget
) -> VisualTokens | RaggedTokens:
    """All frames through the encoder, then laid out by video, shorter ones padded, and merged."""
    height, width = runtime.processor.frame_size
    encoder = FrameEncoder(runtime, frames=sum(map(len, videos)), budget=TokenBudget(budget.pooled))
    for clip in videos:
        fits = clip.pixels.shape[1:3] == (height, width)
        for frame in clip.pixels:
            encoder.add(frame if fits else runtime.processor.resize(frame))
    visual = encoder.finish()
    assert isinstance(visual, VisualTokens)  # merged below, each video by itself
    longest = max(map(len, videos))
    kept = torch.tensor([[index < len(clip) for index in range(longest)] for clip in videos])
    padded = VisualTokens(
        embeds=scatter_frames(visual.embeds[0], kept),
        features=None if visual.features is None else scatter_frames(visual.features[0], kept),
        frame_mask=None if bool(kept.all()) else kept.to(runtime.device),
    )
    if budget.merge is None:
        return padded
    with torch.inference_mode():
        return merge_video(padded, [budget.count(len(clip)) for clip in videos], budget.merge)
