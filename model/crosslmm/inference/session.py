"""Videos that are decoded, encoded and prefilled once, then asked any number of questions."""

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Unpack, overload

import numpy as np
import torch

from crosslmm.errors import OutOfMemory, UsageError
from crosslmm.evidence import Evidence
from crosslmm.inference.answer import Answer, Timing, TokenCounts, TokenTrace
from crosslmm.inference.chat import Chat
from crosslmm.inference.encoding import EncodedVideo, TooManyFrames, VideoPart, memory_errors
from crosslmm.inference.evidence import TokenLayout, find_evidence
from crosslmm.inference.frame_scores import score_frames
from crosslmm.inference.generation import GenerationOptions, TokenStream
from crosslmm.inference.prefix import VideoPrefix, prefill_video, restore_prefix
from crosslmm.inference.question import check_context, check_questions
from crosslmm.inference.question_batch import answer_together
from crosslmm.inference.reasoning import is_reasoning, split_reasoning
from crosslmm.inference.response import Response
from crosslmm.inference.runtime import Runtime
from crosslmm.merging import TokenBudget
from crosslmm.modeling_crosslmm import VisualTokens
from crosslmm.options import MAX_NEW_TOKENS, GenerationKeywords, Sampling
from crosslmm.processing_crosslmm import Message
from crosslmm.prompts.inert_text import remove_marks
from crosslmm.prompts.several import PromptVideo
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.video import SourceInfo


class VideoSession:
    """One video, or several, ready for any number of questions, one after another; `open_video` and
    `open_videos` make it."""

    def __init__(
        self,
        runtime: Runtime,
        video: str,
        encoded: EncodedVideo,
        *,
        sampling: Sampling,
        budget: TokenBudget,
        started: float,
        system: str | None = None,
    ) -> None:
        """sampling: as asked for; started: the `time.perf_counter()` of the request; system: what every
        prompt begins with."""
        self.video = video
        self.frames = encoded.frames
        self.frames_encoded = encoded.encoded
        self.videos = encoded.parts or (
            VideoPart(
                video, "", encoded.source, encoded.frames, encoded.visual.longest,
                from_cache=encoded.from_cache,
            ),
        )  # fmt: skip
        self.warnings = encoded.warnings
        self.from_cache = encoded.from_cache
        self._runtime = runtime
        self._sampling = sampling
        self._budget = budget
        self._system = system
        # As merged: where fewer frames came than were expected, earlier windows kept what they had.
        self.visual_tokens = encoded.visual.longest
        self._layout = TokenLayout.of(encoded.visual, [part.tokens for part in self.videos])
        self._reader = f"{runtime.key} {budget}"
        self._started = started
        self._prefix: VideoPrefix | None = None
        # What the first answer pays for, besides its generation.
        self._spent = Timing(
            runtime.load_seconds, decode=encoded.decode_seconds, encode=encoded.encode_seconds
        )

    def prefill(
        self,
        visual: VisualTokens | RaggedTokens,
        kept: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Run the language model over the video, or take what it computed earlier: `kept`, of an encoded
        video's `prefix`. Raises TooManyFrames."""
        began = time.perf_counter()
        ids = self._prompt_ids(self._prompt([{"role": "user", "content": "?"}]))
        try:
            with memory_errors():
                model = self._runtime.model
                if kept is not None:
                    self._prefix = restore_prefix(model, ids, visual.features, kept)
                if self._prefix is None:
                    self._prefix = prefill_video(model, ids, visual)
        except MemoryError:
            raise TooManyFrames(len(self.frames)) from None
        self._spent = replace(self._spent, prefill=time.perf_counter() - began)
        self.await_questions()

    def await_questions(self) -> None:
        """Count all that was done since the request as the wait for the first token."""
        self._spent = replace(self._spent, first_token=time.perf_counter() - self._started)

    @property
    def prefix(self) -> VideoPrefix:
        """What every prompt begins with. Raises RuntimeError before `prefill`."""
        if self._prefix is None:
            raise RuntimeError("the video is not prefilled")
        return self._prefix

    def __repr__(self) -> str:
        return f"<VideoSession {self.video}: {self.summary}>"

    @property
    def source(self) -> SourceInfo:
        """Of the one video. Raises UsageError where there are several, each with its own in `videos`."""
        if len(self.videos) > 1:
            raise UsageError("`source` is of one video, and this session is about several")
        return self.videos[0].source

    @property
    def summary(self) -> str:
        """`64 of 5,340 frames, one per 2.8 s`, of each video."""
        return "; ".join(video.summary for video in self.videos)

    @property
    def reused(self) -> str:
        """`encoded 61 of 256 frames: the others show the same …`; nothing where all differ."""
        encoded, frames = self.frames_encoded, len(self.frames)
        if encoded == frames or any(part.from_cache for part in self.videos):
            return ""
        return (
            f"encoded {encoded:,} of {frames:,} frames: the others show the same as the one before"
        )

    @property
    def merged(self) -> str:
        """`folder: 32 of 288 tokens kept`; nothing where none are merged."""
        if self._budget.merge is None:
            return ""
        all_tokens = len(self.frames) * self._budget.pooled
        return f"{self._budget.merge}: {self.visual_tokens:,} of {all_tokens:,} tokens kept"

    @property
    def packed(self) -> str:
        """`features kept in 8 bits`; nothing where they are as computed, or nothing reads them."""
        model = self._runtime.model.model
        with torch.inference_mode():  # elsewhere a closed gate counts as open
            kept = model.reads_features and model.feature_bits is not None
        return f"features kept in {model.feature_bits} bits" if kept else ""

    @property
    def timing(self) -> Timing:
        """The seconds spent on the video so far, which its first answer is charged with."""
        return self._spent

    @overload
    def ask(self, question: str, **options: Unpack[GenerationKeywords]) -> Answer: ...
    @overload
    def ask(
        self, question: list[str] | tuple[str, ...], **options: Unpack[GenerationKeywords]
    ) -> list[Answer]: ...

    def ask(
        self, question: str | list[str] | tuple[str, ...], **options: Unpack[GenerationKeywords]
    ) -> Answer | list[Answer]:
        """The complete answer, or one for each of several unrelated questions, one after another;
        options as in `stream`. `ask_all` answers several in one batch, as text only."""
        if isinstance(question, str):
            return self.stream(question, **options).answer
        return [response.answer for response in [self.stream(each, **options) for each in question]]

    def stream(self, question: str, **options: Unpack[GenerationKeywords]) -> Response:
        """The answer as an iterator of pieces of text, with the result in its `answer`.

        temperature 0 is greedy; above, tokens are sampled, repeatably with the same seed (one is
        chosen and reported where none is given), of the likeliest that have the probability `top_p`
        together. stop: a text, or several, of which the first to come ends the answer and is no part
        of it. schema: a JSON Schema that the answer fits, unless `max_new_tokens` or `stop` cuts it.
        Raises UsageError.
        """
        chosen = GenerationOptions(**options)
        return self.respond([{"role": "user", "content": question.strip()}], chosen)

    def respond(self, messages: Sequence[Message], options: GenerationOptions) -> Response:
        """The next turn of a conversation about the video, whose last message is the question.

        Nothing runs before the response is read; from then on to its end, reading another one raises
        RuntimeError. Raises UsageError for a last message that asks nothing.
        """
        if not messages or messages[-1]["role"] != "user":
            raise UsageError("the last message of a conversation must be a question of the user")
        check_questions(self._runtime, [messages[-1]["content"]])
        if options.schema is not None:
            self._runtime.schema_tokens  # noqa: B018  raises before anything runs
        return Response(self._respond(messages, options), self.is_reasoning)

    def is_reasoning(self, said: str) -> bool:
        """Whether an answer that begins with `said` is known to be reasoning so far."""
        return is_reasoning(self._runtime, said)

    def chat(self, messages: Sequence[Message] = ()) -> Chat:
        """A dialogue about the video, of which only the new turn is prefilled each time. messages: of
        earlier turns, as `Chat.messages` has them."""
        runtime = self._runtime
        return Chat(
            self.respond,
            room=lambda messages: runtime.context - self._encode(self._prompt(messages)).shape[1],
            notice=runtime.notice,
            is_reasoning=self.is_reasoning,
            messages=messages,
        )

    def evidence(self, answer: Answer, *, part: tuple[int, int] | None = None) -> Evidence:
        """The moments and places that an answer about the videos was read from, by what its words
        attend to: one more pass over question and answer, not over the videos.

        part: the first of the answer's characters to look at, and the one after the last; None for
        all, or for the conclusion where the built-in model says what leads to it.

        Raises UsageError for an answer about another video, or that says nothing, OutOfMemory,
        RuntimeError while a response is being read.
        """
        if answer.trace is None or (answer.video, answer.frames) != (self.video, self.frames):
            raise UsageError("the answer is not one about this video")
        if answer.trace.reader != self._reader:
            raise UsageError(
                "the answer is by another model, or was read from other tokens of this video"
            )
        try:
            with memory_errors():
                return find_evidence(
                    self._runtime,
                    self.prefix,
                    self._layout,
                    answer,
                    self.videos,
                    self._sampling,
                    part,
                )
        except MemoryError:
            raise OutOfMemory(f"{self.video}: out of memory while looking for evidence") from None

    def score_frames(self, question: str) -> np.ndarray:
        """How much a question points to each frame, (T,), which sum to 1: one pass over its words.

        Raises UsageError, OutOfMemory, RuntimeError while a response is being read.
        """
        ids = self._prompt_ids(self._prompt([{"role": "user", "content": question.strip()}]))
        try:
            with memory_errors():
                return score_frames(self._runtime, self.prefix, self._layout, ids)
        except MemoryError:
            raise OutOfMemory(f"{self.video}: out of memory while scoring its frames") from None

    def ask_all(
        self, questions: Sequence[str], *, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> list[str]:
        """Greedy answers to unrelated questions, decoded together in one batch.

        Raises UsageError for an empty question, OutOfMemory where the batch is too large, ModelError
        where one has no answer, RuntimeError while a response is being read.
        """
        asked = [question.strip() for question in questions]
        if not all(asked):
            raise UsageError("a question is empty")
        if not asked:
            return []
        check_questions(self._runtime, asked)
        prompts = [self._prompt([{"role": "user", "content": text}]) for text in asked]
        ids = [self._prompt_ids(prompt)[0] for prompt in prompts]
        try:
            with memory_errors():
                return answer_together(
                    self._runtime, self.prefix, ids, GenerationOptions(max_new_tokens)
                )
        except MemoryError:
            raise OutOfMemory(
                f"{self.video}: out of memory with {len(asked)} questions at a time; ask fewer"
            ) from None

    def _respond(
        self, messages: Sequence[Message], options: GenerationOptions
    ) -> Generator[str, None, Answer]:
        runtime = self._runtime
        prompt = self._prompt(messages)
        ids = self._prompt_ids(prompt)
        dialogue = len(messages) > 1
        try:
            with memory_errors(), self.prefix.lend(ids if dialogue else None) as cache:
                tokens = TokenStream(
                    runtime.model,
                    runtime.processor.tokenizer,
                    options,
                    None if options.schema is None else runtime.schema_tokens,
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    past_key_values=cache,
                )
                yield from tokens
                answer_ids = torch.tensor([tokens.token_ids], device=ids.device, dtype=ids.dtype)
                self.prefix.keep(torch.cat([ids, answer_ids], dim=1))
        except MemoryError:
            raise OutOfMemory(
                f"{self.video}: out of memory while answering with {len(self.frames)} frames; "
                "use fewer `frames`"
            ) from None
        answer = self._answer(messages[-1]["content"], prompt, ids, options, tokens)
        self._spent = Timing(runtime.load_seconds)
        return answer

    def _answer(
        self,
        question: str,
        prompt: str,
        ids: torch.Tensor,
        options: GenerationOptions,
        tokens: TokenStream,
    ) -> Answer:
        runtime, sampling, spent = self._runtime, self._sampling, self._spent
        count = len(self.frames)
        said = tokens.text.strip()
        reasoning, text = split_reasoning(runtime, said)
        return Answer(
            text=text,
            question=question,
            video=self.video,
            model=runtime.name,
            frames=self.frames,
            frames_encoded=self.frames_encoded,
            tokens=TokenCounts(
                original=count * runtime.model.config.patches_per_frame,
                visual=self.visual_tokens,
                prompt=ids.shape[1],
                generated=len(tokens.token_ids),
            ),
            timing=replace(
                spent,
                prefill=spent.prefill + tokens.prefill_seconds,
                generate=tokens.generate_seconds,
                first_token=spent.first_token + tokens.prefill_seconds,
            ),
            finish=tokens.finish,
            prompt=remove_marks(prompt),
            settings={
                **runtime.settings,
                **sampling.settings,
                "reader": ", ".join(sorted({video.source.reader for video in self.videos})),
                **self._budget.settings,
                **options.settings,
                **({} if self._system is None else {"system": self._system}),
            },
            versions=runtime.versions,
            warnings=self.warnings,
            from_cache=self.from_cache,
            reasoning=reasoning,
            videos=tuple(video.name for video in self.videos) if len(self.videos) > 1 else (),
            trace=TokenTrace(
                tuple(ids[0, len(self.prefix) :].tolist()),
                tuple(tokens.token_ids),
                said,
                self._reader,
            ),
        )

    def _prompt(self, messages: Sequence[Message]) -> str:
        """The prompt as text, its placeholder not expanded."""
        if self._system is not None:
            messages = [{"role": "system", "content": self._system}, *messages]
        videos = [
            PromptVideo(video.label, [frame.time for frame in video.frames], video.source.duration)
            for video in self.videos
        ]
        if len(videos) > 1:
            return self._runtime.processor.prompt(messages, videos=videos)
        (only,) = videos
        return self._runtime.processor.prompt(messages, times=only.times, duration=only.duration)

    def _prompt_ids(self, prompt: str) -> torch.Tensor:
        """(1, L). Raises UsageError where it exceeds the model's context, RuntimeError where it does not
        begin with the prefilled part."""
        ids = self._encode(prompt)
        text = ids.shape[1] - self.visual_tokens
        check_context(
            self._runtime, frames=len(self.frames), budget=self._budget, prompt_tokens=text
        )
        ids = ids.to(self._runtime.device)
        prefix = self._prefix
        if prefix is not None and not torch.equal(ids[:, : len(prefix)], prefix.ids):
            raise RuntimeError("the chat template does not put the video before the question")
        return ids

    def _encode(self, prompt: str) -> torch.Tensor:
        """(1, L), placeholders expanded."""
        frames, tokens = len(self.frames), [video.tokens for video in self.videos]
        encoded = self._runtime.processor.encode_prompts([prompt], [frames], merged=[tokens])
        return encoded["input_ids"]
