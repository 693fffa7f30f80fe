"""Texts that end an answer, watched for while it is streamed."""

from collections.abc import Sequence


class StopTexts:
    """Lets an answer through up to the first of the texts that is complete; `found` says whether one
    came.

    What may be the beginning of one is held back, so that no part of it is shown.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """What can be shown after one more piece of the answer."""
        said = self._held + piece
        ends = [(at + len(text), at) for text in self._texts if (at := said.find(text)) >= 0]
        if ends:
            self.found = True
            return said[: min(ends)[1]]
        begun = max((_overlap(said, text) for text in self._texts), default=0)
        shown = len(said) - begun
        self._held = said[shown:]
        return said[:shown]


def _overlap(said: str, text: str) -> int:
    """The most characters of the end of `said` that `text` begins with."""
    most = min(len(said), len(text) - 1)
    return next((count for count in range(most, 0, -1) if said.endswith(text[:count])), 0)
