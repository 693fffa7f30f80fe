"""A dialogue about one video: each turn sees those before, and only what is new is prefilled."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Unpack

from crosslmm.errors import UsageError
from crosslmm.inference.answer import Answer
from crosslmm.inference.generation import GenerationOptions
from crosslmm.inference.response import Response
from crosslmm.options import GenerationKeywords
from crosslmm.processing_crosslmm import Message

Respond = Callable[[Sequence[Message], GenerationOptions], Response]


class Chat:
    """The turns of a dialogue so far; `VideoSession.chat` makes one.

    Where a new turn does not fit into the model's context, the oldest ones are dropped, with a notice.
    An answer that was stopped, or failed, leaves the dialogue as it was before its question.
    """

    def __init__(
        self,
        respond: Respond,
        *,
        room: Callable[[Sequence[Message]], int],
        notice: Callable[[str], None],
        is_reasoning: Callable[[str], bool],
        messages: Sequence[Message] = (),
    ) -> None:
        """respond: `VideoSession.respond`; room: tokens of the context that a conversation leaves;
        is_reasoning: see `Response`; messages: of earlier turns."""
        self._respond = respond
        self._room = room
        self._notice = notice
        self._is_reasoning = is_reasoning
        self.messages: list[Message] = [*messages]

    def __repr__(self) -> str:
        return f"<Chat, turns: {len(self.messages) // 2}>"

    def ask(self, question: str, **options: Unpack[GenerationKeywords]) -> Answer:
        """The complete answer; options as in `stream`."""
        return self.stream(question, **options).answer

    def stream(self, question: str, **options: Unpack[GenerationKeywords]) -> Response:
        """The next turn, as in `VideoSession.stream`; one at a time. Raises UsageError."""
        if not question.strip():
            raise UsageError("the question is empty")
        chosen = GenerationOptions(**options)
        message: Message = {"role": "user", "content": question.strip()}
        return Response(self._run(message, chosen), self._is_reasoning)

    def undo(self) -> str | None:
        """Drop the last turn; returns its question, None where there is none."""
        if not self.messages:
            return None
        question = self.messages[-2]["content"]
        del self.messages[-2:]
        return question

    def as_dict(self) -> dict[str, Any]:
        return {"messages": [dict(message) for message in self.messages]}

    def _run(self, question: Message, options: GenerationOptions) -> Generator[str, None, Answer]:
        dropped = 0
        turns = self.messages
        while turns and self._room([*turns, question]) < options.max_new_tokens:
            turns = turns[2:]
            dropped += 1
        response = self._respond([*turns, question], options)
        if dropped:
            what = "oldest turn was" if dropped == 1 else f"{dropped} oldest turns were"
            self._notice(f"the dialogue is longer than the model's context: its {what} dropped")
        yield from response
        answer = response.answer
        self.messages = [*turns, question, {"role": "assistant", "content": answer.text}]
        return answer
