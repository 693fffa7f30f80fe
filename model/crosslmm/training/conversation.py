"""A conversation as tokens with labels: those of the assistant's turns, end of turn included where
they have come to it.

The chat template is rendered once around stand-in texts, which shows exactly what it writes around
each turn. In front of every answer comes what the template's *generation prompt* writes, not what
it writes before a past answer: some templates differ there, and only the former is seen at
inference. Answers are tokenized apart from what precedes them, as they are when generated.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from crosslmm.errors import CheckpointError, UsageError
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.prompts.inert_text import tokenize
from crosslmm.prompts.templates import chat_turn
from crosslmm.training.records import Form, Turn, form_of

IGNORED = -100  # the label of a token that is not learned


@dataclass(frozen=True)
class LabelledTokens:
    """`input_ids` and, of the same length, `labels`: the token itself, or `IGNORED`."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class _TurnFrame:
    """The template's text before a turn, and after it where it is an assistant's."""

    before: str
    end: str = ""


class ConversationFormat:
    """The chat template of a checkpoint, ready for training.

    stop_token_ids: the tokens that end an answer when generating; one of them must end each turn.
    """

    def __init__(self, processor: CrossLMMProcessor, stop_token_ids: Collection[int]) -> None:
        self.processor = processor
        tokenizer = processor.tokenizer
        self._stops = [tokenizer.convert_ids_to_tokens(token) for token in sorted(stop_token_ids)]
        self._frames: dict[Form, list[_TurnFrame]] = {}

    def encode(
        self,
        turns: Sequence[Turn],
        *,
        frames: int = 0,
        times: Sequence[float] | None = None,
        duration: float | None = None,
        tokens_per_frame: int | None = None,
    ) -> LabelledTokens:
        """All turns as one sequence.

        frames: how many are shown, for their placeholders; times and duration: in seconds, for the time
        line of models that are trained with one. Raises UsageError for an unfit template.
        """
        tokens = LabelledTokens([], [])
        unlearned = ""
        for turn, frame in zip(turns, self.check(form_of(turns)), strict=True):
            before = frame.before
            if self.processor.video_token in before:
                before = self.processor.expand(before, frames, tokens_per_frame=tokens_per_frame)
            text = self.processor.escape(turn.text)
            if turn.shows:
                text = self.processor.time_line_of(times, duration) + text
            if turn.role == "assistant":
                self._append(tokens, unlearned + before, learned=False)
                self._append(tokens, text if turn.cut else text + frame.end, learned=True)
                if turn.cut:
                    self._append(tokens, frame.end, learned=False)
                unlearned = ""
            else:
                unlearned += before + text
        return tokens

    def check(self, form: Form) -> list[_TurnFrame]:
        """What the template writes around the turns of conversations of this form. Raises UsageError
        where it does not fit."""
        if form not in self._frames:
            self._frames[form] = self._render(form)
        return self._frames[form]

    def _append(self, tokens: LabelledTokens, text: str, *, learned: bool) -> None:
        # A beginning-of-text token comes once, as at inference.
        special = not tokens.input_ids and self.processor.wants_special_tokens(text)
        encoded = tokenize(self.processor.tokenizer, [text], add_special_tokens=special)
        (ids,) = encoded["input_ids"]
        tokens.input_ids.extend(ids)
        tokens.labels.extend(ids if learned else [IGNORED] * len(ids))

    def _render(self, form: Form) -> list[_TurnFrame]:
        pieces = self._pieces(form, generate=False)
        frames = []
        for index, (role, _) in enumerate(form):
            before, end = pieces[index], ""
            if role == "assistant":
                before = self._pieces(form[:index], generate=True)[-1]
                end, _ = self._split_end(pieces[index + 1])
            elif index and form[index - 1][0] == "assistant":
                _, before = self._split_end(before)
            frames.append(_TurnFrame(before, end))
        shown = sum(shows for _, shows in form)
        written = sum(frame.before.count(self.processor.video_token) for frame in frames)
        if written != shown:
            raise UsageError(
                f"the checkpoint's chat template writes {written} {self.processor.video_token} for "
                f"{shown} video; training needs one for each"
            )
        return frames

    def _pieces(self, form: Form, *, generate: bool) -> list[str]:
        """The rendered template cut at the turns' texts: a piece before each, one after all."""
        messages: Any = [
            chat_turn(role, _stand_in(index), shows=shows)
            for index, (role, shows) in enumerate(form)
        ]
        try:
            rendered = self.processor.apply_chat_template(
                messages, add_generation_prompt=generate, tokenize=False
            )
        except CheckpointError as error:
            roles = ", ".join(role for role, _ in form)
            raise UsageError(
                f"the checkpoint's chat template refuses conversations of {roles}: {error}"
            ) from error
        pieces = []
        for index in range(len(form)):
            before, found, rendered = rendered.partition(_stand_in(index))
            if not found:
                raise UsageError(
                    f"the checkpoint's chat template leaves out the text of a {form[index][0]} "
                    "turn; it cannot be trained on conversations with one"
                )
            pieces.append(before)
        return [*pieces, rendered]

    def _split_end(self, piece: str) -> tuple[str, str]:
        """What follows an answer, cut behind the first token that ends a turn."""
        ends = [piece.find(stop) + len(stop) for stop in self._stops if stop in piece]
        if not ends:
            raise UsageError(
                f"the checkpoint's chat template ends an answer with {piece!r}, which has none of "
                f"the tokens that end generation ({', '.join(self._stops)}): it would never stop"
            )
        return piece[: min(ends)], piece[min(ends) :]


def _stand_in(index: int) -> str:
    return f"\ue000{index}\ue001"
