"""Questions about several videos answered in one batch, greedily.

Frames stay uint8 until they are on the device and go through the encoder in chunks, whichever video
they belong to, so a batch costs no more memory to encode than one video does.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from crosslmm.errors import OutOfMemory
from crosslmm.inference.encoding import FrameEncoder, memory_errors
from crosslmm.inference.generation import GenerationOptions
from crosslmm.modeling_crosslmm import VisualTokens, as_dual_cache
from crosslmm.video import Frames
from crosslmm.vision import scatter_frames

if TYPE_CHECKING:
    from crosslmm.inference.assistant import Assistant


@dataclass(frozen=True)
class BatchAnswer:
    """One answer of a batch; `tokens` counts those generated, its end token included."""

    text: str
    tokens: int
    finish: Literal["end", "length"]


@dataclass(frozen=True)
class BatchAnswers:
    """The answers in the order of the questions, and the seconds that the whole batch took."""

    answers: tuple[BatchAnswer, ...]
    encode_seconds: float
    generate_seconds: float


def answer_batch(
    assistant: "Assistant",
    videos: Sequence[Frames],
    questions: Sequence[str],
    *,
    max_new_tokens: int,
) -> BatchAnswers:
    """One question about each video; both may differ in length.

    Raises OutOfMemory where the batch is too large.
    """
    try:
        with memory_errors():
            return _answer_batch(assistant, videos, questions, max_new_tokens)
    except MemoryError:
        count = sum(map(len, videos))
    raise OutOfMemory(
        f"out of memory on {assistant.device} with {count} frames of {len(videos)} videos"
    )


def _answer_batch(
    assistant: "Assistant", videos: Sequence[Frames], questions: Sequence[str], max_new_tokens: int
) -> BatchAnswers:
    processor, model = assistant.processor, assistant.model
    started = time.perf_counter()
    visual = _encode(assistant, videos)
    encoded = time.perf_counter()
    prompts = [
        processor.expand(
            processor.prompt(question, times=clip.times, duration=clip.source.duration), len(clip)
        )
        for clip, question in zip(videos, questions, strict=True)
    ]
    batch = processor.tokenizer(
        prompts,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        return_token_type_ids=False,
        add_special_tokens=processor.wants_special_tokens(prompts[0]),
    ).to(assistant.device)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    options = GenerationOptions(max_new_tokens, temperature=0.0, seed=None)
    with torch.inference_mode():
        # All but the last token is taken in here, because `generate` knows no encoded videos.
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
        )
    assert isinstance(out, torch.Tensor)
    generated = out[:, ids.shape[1] :].tolist()
    ends = model.generation_config.eos_token_id
    end_ids = frozenset(ends if isinstance(ends, list) else [ends])
    answers = tuple(_answer(assistant, row, end_ids) for row in generated)
    return BatchAnswers(answers, encoded - started, time.perf_counter() - encoded)


def _answer(assistant: "Assistant", ids: list[int], end_ids: frozenset[int]) -> BatchAnswer:
    length = next((place + 1 for place, token in enumerate(ids) if token in end_ids), None)
    text = assistant.processor.tokenizer.decode(
        ids[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return BatchAnswer(text.strip(), length or len(ids), "length" if length is None else "end")


def _encode(assistant: "Assistant", videos: Sequence[Frames]) -> VisualTokens:
    """All frames through the encoder, then laid out by video, shorter ones padded."""
    height, width = assistant.processor.frame_size
    frames: list[np.ndarray] = []
    for clip in videos:
        fits = clip.pixels.shape[1:3] == (height, width)
        frames.extend(clip.pixels if fits else map(assistant.processor.resize, clip.pixels))
    encoder = FrameEncoder(
        assistant.model,
        assistant.processor,
        frames=len(frames),
        tokens_per_frame=assistant.tokens_per_frame,
        on_notice=assistant.on_notice,
    )
    encoder.add(frames)
    visual = encoder.finish()
    longest = max(map(len, videos))
    kept = torch.tensor([[place < len(clip) for place in range(longest)] for clip in videos])
    return VisualTokens(
        embeds=scatter_frames(visual.embeds[0], kept),
        features=None if visual.features is None else scatter_frames(visual.features[0], kept),
        frame_mask=None if bool(kept.all()) else kept.to(assistant.device),
    )
