"""A stream and its result in one lazy object."""

from collections.abc import Callable, Generator, Iterator

from crosslmm.inference.answer import Answer


class Response:
    """An answer that is generated while it is read.

    Iterate it once for pieces of text as they come. `answer` and `text` run it to its end if that is
    not reached yet; pieces that were not handed out can still be iterated.
    """

    def __init__(
        self, run: Generator[str, None, Answer], is_reasoning: Callable[[str], bool] | None = None
    ) -> None:
        """run: yields pieces of text and returns the answer; is_reasoning: whether a text that begins so
        has not come to its answer yet."""
        self._run = run
        self._is_reasoning = is_reasoning
        self._pieces: list[str] = []
        self._handed_out = 0
        self._answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._handed_out == len(self._pieces) and not self._advance():
            raise StopIteration
        self._handed_out += 1
        return self._pieces[self._handed_out - 1]

    @property
    def reasons(self) -> bool:
        """Whether the pieces so far are known to be reasoning, and the answer is still to come."""
        said = "".join(self._pieces[: self._handed_out]).lstrip()
        return self._is_reasoning is not None and self._is_reasoning(said)

    @property
    def answer(self) -> Answer:
        """Raises RuntimeError where the response was closed, or failed, before its end."""
        while self._answer is None and self._advance():
            pass
        if self._answer is None:
            raise RuntimeError("the answer is not finished: its response was closed, or it failed")
        return self._answer

    @property
    def text(self) -> str:
        return self.answer.text

    def close(self) -> None:
        """Stop generating; the video can be asked again."""
        self._run.close()

    def _advance(self) -> bool:
        """Generate one more piece; False at the end."""
        try:
            self._pieces.append(next(self._run))
        except StopIteration as end:
            self._answer = self._answer or end.value
            return False
        return True
