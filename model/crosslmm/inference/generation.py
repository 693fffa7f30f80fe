"""Tokens of an answer, handed out as they are generated.

Generation runs in a thread of its own so that pieces can be handed out as they come. Whatever goes
wrong in it travels to the consumer; a consumer that stops listening stops it at the next token.
"""

import queue
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from crosslmm.inference.answer import Finish
from crosslmm.inference.finite import FiniteLogits
from crosslmm.inference.schema import Schema, grammar_of
from crosslmm.inference.schema_tokens import SchemaTokens
from crosslmm.inference.stop_texts import StopTexts
from crosslmm.inference.token_sampling import GREEDY_SETTINGS, SeededSampler
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.options import MAX_NEW_TOKENS, check_generation
from crosslmm.prompts.tokenization import AnswerText, tokenizer_errors


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is generated: greedily at temperature 0, else sampled, the same for the same
    seed, of the likeliest tokens that together have the probability `top_p` (the checkpoint's unless
    given); up to the first of the texts `stop`; as JSON that fits a `schema`. Raises UsageError for
    values that mean nothing."""

    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0
    top_p: float | None = None
    seed: int | None = None
    stop: str | Sequence[str] = ()
    schema: Schema | None = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        check_generation(self.max_new_tokens, self.temperature, self.seed, self.top_p, stop)
        if self.schema is not None:
            grammar_of(self.schema)
        if self.temperature > 0 and self.seed is None:
            # Chosen here, so that it can be reported with the answer.
            object.__setattr__(self, "seed", secrets.randbits(32))

    @property
    def settings(self) -> dict[str, Any]:
        """As JSON; of those that are rarely asked for, only what is."""
        schema = None if self.schema is None else dict(self.schema)
        rare = {"top_p": self.top_p, "stop": [*self.stop] or None, "schema": schema}
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            **{name: value for name, value in rare.items() if value is not None},
        }

    def config(self, model: CrossLMMForConditionalGeneration) -> GenerationConfig:
        """The generation settings of the checkpoint, but greedy and of this length."""
        settings = model.generation_config.to_dict()
        settings.update(max_new_tokens=self.max_new_tokens, max_length=None, num_beams=1)
        settings.update(do_sample=False, **GREEDY_SETTINGS)
        config = GenerationConfig.from_dict(settings)
        if config.pad_token_id is None:
            config.pad_token_id = next(iter(stop_token_ids(config)), None)
        return config

    def processors(
        self, model: CrossLMMForConditionalGeneration, tokens: SchemaTokens | None = None
    ) -> LogitsProcessorList:
        """The check of the logits, what keeps to the schema, by its `tokens`, and what draws tokens
        where decoding is not greedy."""
        chosen = LogitsProcessorList([FiniteLogits(model.dtype)])
        if self.schema is not None and tokens is not None:
            chosen.append(tokens.processor(grammar_of(self.schema)))
        if self.seed is None or self.temperature == 0:
            return chosen
        sampler = SeededSampler(
            model.generation_config,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            device=model.device,
        )
        return LogitsProcessorList([*chosen, sampler])


def stop_token_ids(config: GenerationConfig) -> tuple[int, ...]:
    """The ids of the tokens that end an answer; `config` may name none, one or several."""
    ids = config.eos_token_id
    if ids is None:
        return ()
    return tuple(int(token) for token in (ids if isinstance(ids, list) else [ids]))


def decode_answer(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of an answer, to the letter; special tokens are dropped. Raises CheckpointError."""
    with tokenizer_errors():
        text: str = tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
    return text


class TokenStream:
    """The text of one generation, piece by piece; iterate it once.

    Afterwards `text` and `token_ids` hold all of it, `prefill_seconds` and `generate_seconds` what
    it took. Errors of the generating thread are raised in the consumer's.
    """

    def __init__(
        self,
        model: CrossLMMForConditionalGeneration,
        tokenizer: Any,
        options: GenerationOptions,
        schema_tokens: SchemaTokens | None = None,
        **inputs: Any,
    ) -> None:
        """inputs: of `model.generate`; schema_tokens: where the options have a schema."""
        self.text = ""
        self.token_ids: list[int] = []
        self.prefill_seconds = self.generate_seconds = 0.0
        self._model = model
        self._tokenizer = tokenizer
        self._options = options
        self._inputs = inputs
        self._schema_tokens = schema_tokens
        self._stopped = False

    def __iter__(self) -> Iterator[str]:
        started = time.perf_counter()
        pipe = _Pipe()
        worker = threading.Thread(
            target=self._generate, args=(pipe,), name="crosslmm-generate", daemon=True
        )
        worker.start()
        detokenizer, stops = AnswerText(self._tokenizer), StopTexts(self._options.stop)
        streamed = ""
        try:
            for token_id in pipe:
                if not self.token_ids:
                    self.prefill_seconds = time.perf_counter() - started
                self.token_ids.append(token_id)
                if piece := stops.feed(detokenizer.step(token_id)):
                    streamed += piece
                    yield piece
                if stops.found:
                    pipe.cancelled.set()
                    worker.join()  # which uses the cache
                    break
            self.generate_seconds = time.perf_counter() - started - self.prefill_seconds
            self._stopped = stops.found
            if stops.found:
                self.text = streamed
                return
            self.text = decode_answer(self._tokenizer, self.token_ids)
            if self.text.startswith(streamed) and len(self.text) > len(streamed):
                yield self.text[len(streamed) :]
        except BaseException:
            # The caller may go on with the same cache, so the thread must have let go of it.
            pipe.cancelled.set()
            worker.join()
            raise
        finally:
            pipe.cancelled.set()

    @property
    def finish(self) -> Finish:
        if self._stopped or len(self.token_ids) < self._options.max_new_tokens:
            return "end"
        stopped = self.token_ids[-1] in stop_token_ids(self._model.generation_config)
        return "end" if stopped else "length"

    def _generate(self, pipe: "_Pipe") -> None:
        try:
            with torch.inference_mode():
                self._model.generate(  # type: ignore[misc]
                    **self._inputs,
                    generation_config=self._options.config(self._model),
                    logits_processor=self._options.processors(self._model, self._schema_tokens),
                    streamer=pipe,
                    stopping_criteria=StoppingCriteriaList([_Cancelled(pipe.cancelled)]),
                )
            pipe.close(None)
        except BaseException as error:
            pipe.close(error)


class _Pipe(BaseStreamer):
    """Token ids from the generating thread to the consuming one."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._ids: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:  # `generate` sends the prompt first
            self._prompt_seen = True
            return
        for token_id in value.flatten().tolist():
            self._ids.put(token_id)

    def end(self) -> None:
        """Called by `generate` when all went well; `close` follows."""

    def close(self, error: BaseException | None) -> None:
        self._ids.put(error)

    def __iter__(self) -> Iterator[int]:
        while isinstance(item := self._ids.get(), int):
            yield item
        if item is not None:
            raise item


class _Cancelled(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._event.is_set(), device=input_ids.device)
