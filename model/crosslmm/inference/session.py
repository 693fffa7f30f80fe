"""A video that has been watched: decoded, encoded and read by the language model, once.

Visual tokens stand before the question and attention is causal, so all that the model makes of them
is the same for every question. It is kept here, and each question starts from it.
"""

import copy
import secrets
import time
from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers.cache_utils import DynamicLayer, EncoderDecoderCache

from crosslmm.errors import OutOfMemory, UsageError
from crosslmm.inference.encoding import EncodedVideo, TooManyFrames, memory_errors
from crosslmm.inference.generation import (
    Answer,
    GenerationOptions,
    Timing,
    TokenCounts,
    TokenStream,
)
from crosslmm.limits import PREFILL_TOKENS
from crosslmm.modeling_crosslmm import VisualTokens, as_dual_cache
from crosslmm.video import summary

if TYPE_CHECKING:
    from crosslmm.inference.assistant import Assistant


class VideoSession:
    """One video, ready for any number of questions, one after another."""

    def __init__(
        self,
        assistant: "Assistant",
        video: str,
        encoded: EncodedVideo,
        *,
        tokens_per_frame: int,
        settings: dict[str, Any],
        started: float,
    ) -> None:
        self.video = video
        self.frames = encoded.frames
        self.source = encoded.source
        self.warnings = encoded.warnings
        self._assistant = assistant
        self._decode_seconds = encoded.decode_seconds
        self._encode_seconds = encoded.encode_seconds
        self._visual_count = encoded.visual.embeds.shape[1:3].numel()
        self._tokens_per_frame = tokens_per_frame
        self._settings = settings
        self._busy = False
        began = time.perf_counter()
        try:
            with memory_errors():
                self._prefix, self._cache = self._prefill(encoded.visual)
        except MemoryError:
            raise TooManyFrames(len(self.frames)) from None
        self._prefill_seconds = time.perf_counter() - began
        self._waited = time.perf_counter() - started
        self._fresh = True

    @cached_property
    def summary(self) -> str:
        """`64 of 5,340 frames, one per 2.8 s`"""
        return summary(tuple(frame.time for frame in self.frames), self.source)

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Answer:
        """The whole answer at once; options as in `stream`."""
        stream = self.stream(
            question, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        )
        for _ in stream:
            pass
        return stream.answer

    def stream(
        self,
        question: str,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> "AnswerStream":
        """The answer as an iterator of pieces of text, whose `.answer` is there at the end.

        temperature 0 is greedy; above, tokens are drawn, repeatably with the same seed (one is chosen
        and reported where none is given). Raises UsageError.
        """
        if not question.strip():
            raise UsageError("the question is empty")
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens={max_new_tokens} is not at least 1")
        if temperature < 0:
            raise UsageError(f"temperature={temperature} is below 0")
        if temperature > 0 and seed is None:
            seed = secrets.randbits(32)
        options = GenerationOptions(max_new_tokens, temperature, seed)
        return AnswerStream(self, question.strip(), options)

    def ask_all(self, questions: Sequence[str], *, max_new_tokens: int = 512) -> list[str]:
        """Greedy answers to unrelated questions, decoded together in one batch.

        Raises UsageError for an empty question, OutOfMemory where the batch is too large, RuntimeError
        while a stream is open.
        """
        if not all(question.strip() for question in questions):
            raise UsageError("a question is empty")
        if not questions:
            return []
        self._refuse_if_busy()
        try:
            with memory_errors():
                return self._answer_together(questions, max_new_tokens)
        except MemoryError:
            raise OutOfMemory(
                f"{self.video}: out of memory with {len(questions)} questions at a time; ask fewer"
            ) from None

    def _refuse_if_busy(self) -> None:
        if self._busy:
            raise RuntimeError("this video is answering another question; finish or close it first")

    def _answer_together(self, questions: Sequence[str], max_new_tokens: int) -> list[str]:
        model, processor = self._assistant.model, self._assistant.processor
        prompts = [self._prompt_ids(question.strip())[1][0] for question in questions]
        options = GenerationOptions(max_new_tokens, temperature=0.0, seed=None)
        config = options.config(model)
        # Shorter questions are padded behind the video, whose place in the cache is the same for all.
        start, length = self._prefix.shape[1], max(len(ids) for ids in prompts)
        ids = self._prefix.new_full((len(prompts), length), int(config.pad_token_id))
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, :start], ids[row, start + length - len(prompt) :] = (
                self._prefix[0],
                prompt[start:],
            )
            mask[row, :start] = mask[row, start + length - len(prompt) :] = 1
        cache = copy.deepcopy(self._cache)
        with torch.inference_mode():
            cache.batch_repeat_interleave(len(prompts))
            generated = model.generate(  # type: ignore[misc]
                input_ids=ids, attention_mask=mask, past_key_values=cache, generation_config=config
            )
        texts = processor.batch_decode(
            generated[:, length:], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [text.strip() for text in texts]

    def _prompt_ids(self, question: str) -> tuple[str, torch.Tensor]:
        """The prompt as text, its placeholder not expanded, and as ids (1, L)."""
        processor = self._assistant.processor
        prompt = processor.prompt(
            question,
            times=[frame.time for frame in self.frames],
            duration=self.source.duration,
        )
        expanded = processor.expand(
            prompt, len(self.frames), tokens_per_frame=self._tokens_per_frame
        )
        ids = processor.tokenizer(
            expanded,
            return_tensors="pt",
            add_special_tokens=processor.wants_special_tokens(expanded),
        )["input_ids"]
        return prompt, ids.to(self._assistant.device)

    def _prefill(self, visual: VisualTokens) -> tuple[torch.Tensor, EncoderDecoderCache]:
        """Run the language model up to the end of the visual tokens. → their ids (1, P), the cache"""
        model = self._assistant.model
        _, ids = self._prompt_ids("?")
        last = int((ids[0] == model.config.video_token_id).nonzero().max())
        prefix = ids[:, : last + 1]
        cache = as_dual_cache(None, model.config)
        with torch.inference_mode():
            for part, ids in _prompt_parts(prefix, visual, model.config.video_token_id):
                model.model(
                    input_ids=ids, visual_tokens=part, past_key_values=cache, use_cache=True
                )
        if self._assistant.device.type == "cuda":
            torch.cuda.synchronize(self._assistant.device)
        return prefix, cache

    def _borrow_cache(self) -> EncoderDecoderCache:
        if self._cache.is_croppable:
            return self._cache
        return copy.deepcopy(self._cache)

    def _return_cache(self, cache: EncoderDecoderCache) -> None:
        """Take the question and the answer off again."""
        if cache is self._cache:
            for layer in cast(list[DynamicLayer], cache.self_attention_cache.layers):
                # One by one: an answer that failed may have got through some of them only.
                layer.crop(-(layer.get_seq_length() - self._prefix.shape[1]))


def _prompt_parts(
    prefix: torch.Tensor, visual: VisualTokens, video_token_id: int
) -> Iterator[tuple[VisualTokens, torch.Tensor]]:
    """The prompt up to the end of the video in runs of whole frames, some PREFILL_TOKENS long.

    What each position computes is the same, but the feed-forward of all of them is never alive at
    once. prefix: (1, P). Yields the visual tokens of a part and its ids.
    """
    frames, tokens = visual.embeds.shape[1:3]
    lead = int((prefix[0] == video_token_id).nonzero().min())
    step = max(1, PREFILL_TOKENS // tokens)
    for first in range(0, frames, step):
        last = min(first + step, frames)
        start = 0 if first == 0 else lead + first * tokens
        end = prefix.shape[1] if last == frames else lead + last * tokens
        yield visual.part(first, last), prefix[:, start:end]


class AnswerStream:
    """Pieces of an answer as they come; iterate it once, then `answer` is whole."""

    def __init__(self, watched: VideoSession, question: str, options: GenerationOptions) -> None:
        self._watched = watched
        self._question = question
        self._options = options
        self._pieces = self._run()
        self._answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop writing; the video can be asked again."""
        self._pieces.close()

    @property
    def answer(self) -> Answer:
        if self._answer is None:
            raise RuntimeError("the answer is not finished: iterate its pieces first")
        return self._answer

    def _run(self) -> Generator[str]:
        watched = self._watched
        watched._refuse_if_busy()
        assistant = watched._assistant
        prompt, ids = watched._prompt_ids(self._question)
        length = watched._prefix.shape[1]
        if not torch.equal(ids[:, :length], watched._prefix):
            raise RuntimeError("the chat template does not put the video before the question")
        cache = None
        watched._busy = True
        try:
            with memory_errors():
                cache = watched._borrow_cache()
                tokens = TokenStream(
                    assistant.model,
                    assistant.processor.tokenizer,
                    self._options,
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    past_key_values=cache,
                )
                yield from tokens
        except MemoryError:
            raise OutOfMemory(
                f"{watched.video}: out of memory while answering with {len(watched.frames)} frames; "
                "ask for fewer"
            ) from None
        finally:
            if cache is not None:
                watched._return_cache(cache)
            watched._busy = False
        self._answer = self._finished(prompt, ids.shape[1], tokens)
        watched._fresh = False

    def _finished(self, prompt: str, prompt_tokens: int, tokens: TokenStream) -> Answer:
        watched, options = self._watched, self._options
        assistant = watched._assistant
        first = watched._fresh
        return Answer(
            text=tokens.text.strip(),
            question=self._question,
            video=watched.video,
            model=assistant.name,
            frames=watched.frames,
            tokens=TokenCounts(
                original=len(watched.frames) * assistant.model.config.patches_per_frame,
                visual=watched._visual_count,
                prompt=prompt_tokens,
                generated=len(tokens.token_ids),
            ),
            timing=Timing(
                load=assistant.load_seconds,
                decode=watched._decode_seconds if first else 0.0,
                encode=watched._encode_seconds if first else 0.0,
                prefill=tokens.prefill_seconds + (watched._prefill_seconds if first else 0.0),
                generate=tokens.generate_seconds,
                first_token=tokens.prefill_seconds + (watched._waited if first else 0.0),
            ),
            finish=tokens.finish,
            prompt=prompt,
            settings={
                **assistant.settings,
                **watched._settings,
                "tokens_per_frame": watched._tokens_per_frame,
                "max_new_tokens": options.max_new_tokens,
                "temperature": options.temperature,
                "seed": options.seed,
            },
            versions=assistant.versions,
            warnings=watched.warnings,
        )
