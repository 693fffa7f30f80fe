"""An answer, while it is being written and when it is done.

Generation runs in a thread of its own so that pieces can be handed out as they come. Whatever goes
wrong in it travels to the consumer; a consumer that stops listening stops it at the next token.
"""

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from tokenizers.decoders import DecodeStream
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration


@dataclass(frozen=True)
class FrameUsed:
    """A frame that the answer rests on: its number in the source and its time in seconds."""

    index: int
    time: float


@dataclass(frozen=True)
class TokenCounts:
    """- original: un-pooled visual tokens; visual: placeholders that stand for them in the prompt;
    - prompt: all tokens of the prompt; generated: of the answer, its end token included.
    """

    original: int
    visual: int
    prompt: int
    generated: int


@dataclass(frozen=True)
class Timing:
    """Seconds per stage. What an earlier question on the same video has paid for is zero here.

    - load: of the model; decode: reading frames; encode: frames to visual tokens, waiting for
      decoding left out; prefill: up to the first token; generate: the rest.
    - first_token: from the request to the first token, loading left out.
    """

    load: float
    decode: float
    encode: float
    prefill: float
    generate: float
    first_token: float


@dataclass(frozen=True)
class Answer:
    """One question answered; `as_dict` is the JSON form, which reproduces it."""

    text: str
    question: str
    video: str
    model: str
    frames: tuple[FrameUsed, ...]
    tokens: TokenCounts
    timing: Timing
    finish: str  # "end": the model ended it; "length": max_new_tokens cut it
    prompt: str = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    versions: dict[str, str] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        record = asdict(self)
        record["answer"] = record.pop("text")
        first = ("video", "question", "answer", "model")
        rounded = {name: round(seconds, 4) for name, seconds in record["timing"].items()}
        return {name: record.pop(name) for name in first} | record | {"timing": rounded}


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is drawn: greedy at temperature 0, else sampled, the same for the same seed."""

    max_new_tokens: int
    temperature: float
    seed: int | None

    def config(self, model: CrossLMMForConditionalGeneration) -> GenerationConfig:
        """The checkpoint's own generation settings, with these put in."""
        settings = model.generation_config.to_dict()
        settings.update(max_new_tokens=self.max_new_tokens, max_length=None, num_beams=1)
        if self.temperature > 0:
            settings.update(do_sample=True, temperature=self.temperature)
        else:
            settings.update(do_sample=False, temperature=None, top_p=None, top_k=None)
        config = GenerationConfig.from_dict(settings)
        if config.pad_token_id is None:
            ends = config.eos_token_id
            config.pad_token_id = ends[0] if isinstance(ends, list) else ends
        return config


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
        **inputs: Any,
    ) -> None:
        self.text = ""
        self.token_ids: list[int] = []
        self.prefill_seconds = self.generate_seconds = 0.0
        self._model = model
        self._tokenizer = tokenizer
        self._options = options
        self._inputs = inputs
        self._pipe = _Pipe()

    def __iter__(self) -> Iterator[str]:
        started = time.perf_counter()
        worker = threading.Thread(target=self._generate, name="crosslmm-generate", daemon=True)
        worker.start()
        detokenizer = DecodeStream(skip_special_tokens=True)
        backend = self._tokenizer.backend_tokenizer
        streamed = ""
        try:
            for token_id in self._pipe:
                if not self.token_ids:
                    self.prefill_seconds = time.perf_counter() - started
                self.token_ids.append(token_id)
                if piece := detokenizer.step(backend, token_id):
                    streamed += piece
                    yield piece
            self.generate_seconds = time.perf_counter() - started - self.prefill_seconds
            self.text = self._tokenizer.decode(
                self.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            if self.text.startswith(streamed) and len(self.text) > len(streamed):
                yield self.text[len(streamed) :]
        except BaseException:
            # The caller may go on with the same cache, so the thread must have let go of it.
            self._pipe.cancelled.set()
            worker.join()
            raise
        finally:
            self._pipe.cancelled.set()

    @property
    def finish(self) -> str:
        return "length" if len(self.token_ids) >= self._options.max_new_tokens and (
            self.token_ids[-1] not in _ends(self._model)
        ) else "end"  # fmt: skip

    def _generate(self) -> None:
        try:
            with torch.inference_mode(), torch.random.fork_rng(enabled=self._samples):
                if self._samples and self._options.seed is not None:
                    torch.manual_seed(self._options.seed)
                self._model.generate(  # type: ignore[misc]
                    **self._inputs,
                    generation_config=self._options.config(self._model),
                    streamer=self._pipe,
                    stopping_criteria=StoppingCriteriaList([_Cancelled(self._pipe.cancelled)]),
                )
            self._pipe.close(None)
        except BaseException as error:
            self._pipe.close(error)

    @property
    def _samples(self) -> bool:
        return self._options.temperature > 0


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


def _ends(model: CrossLMMForConditionalGeneration) -> set[int]:
    ends = model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends} if ends is not None else set()
