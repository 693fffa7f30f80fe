"""Many questions in one row: a prompt, then one turn after another that attend to it and not to each
other, each at the positions it would have if it were the only one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from crosslmm.demo.targets import IGNORED
from crosslmm.synthetic.questions import Question
from crosslmm.synthetic.spans import Phrase, SpanKind

MARK = "\0"  # stands for the question in a prompt
ASKED_WEIGHT = 4.0


def pack_turns(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    questions: Sequence[Question],
    *,
    shown: bool = True,
) -> dict[str, Tensor]:
    """One row of a prompt and its turns, each a question and what training teaches to say to it.

    - `prompt`: as the processor makes it, with MARK for the question.
    - `shown`: the prompt shows the clip, so that words about a thing can point at it.

    All of the result are `(L,)`: token ids, labels, what each label weighs in the loss (what was asked
    for, and the list behind a number, weighs more than what leads to it and than notes; what is given
    nothing), positions,
    each token's turn (0: the prompt), and the frame and the thing that it points at.
    """
    before, after = prompt.split(MARK)
    taught = [q.phrase if shown else q.phrase.drop("thing") for q in questions]
    turns = [(q.text + after, phrase) for q, phrase in zip(questions, taught, strict=True)]
    return _pack(tokenizer, before, turns)


def pack_conclusions(
    tokenizer: PreTrainedTokenizerBase, prompt: str, answers: Sequence[tuple[str, str]]
) -> dict[str, Tensor]:
    """As `pack_turns`, one question with several answers: reasons, which are given, and what follows
    from them, which is to be learned."""
    return _pack(tokenizer, prompt, [(reason, Phrase(end)) for reason, end in answers])


def _pack(
    tokenizer: PreTrainedTokenizerBase, prompt: str, turns: Sequence[tuple[str, Phrase]]
) -> dict[str, Tensor]:
    """`turns`: what is given, and what is to be learned."""
    shared = tokenizer(prompt).input_ids
    ids, weights, numbers = [*shared], [0.0] * len(shared), [0] * len(shared)
    frames, things = [IGNORED] * len(shared), [IGNORED] * len(shared)
    positions = list(range(len(shared)))
    for number, (given, taught) in enumerate(turns, start=1):
        start = len(ids)
        ids += tokenizer(given).input_ids
        ignored = [IGNORED] * (len(ids) - start)
        encoded = tokenizer(taught.text, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        asked, kept = find_spans(taught, "asked", offsets), find_spans(taught, "given", offsets)
        ids += [*encoded["input_ids"], tokenizer.eos_token_id]
        weights += [0.0] * len(ignored)
        for is_asked, is_given in zip(asked, kept, strict=True):
            weight = 1.0 if is_asked == IGNORED else ASKED_WEIGHT
            weights.append(weight if is_given == IGNORED else 0.0)
        weights.append(1.0)
        frames += [*ignored, *find_spans(taught, "frame", offsets), IGNORED]
        things += [*ignored, *find_spans(taught, "thing", offsets), IGNORED]
        numbers += [number] * (len(ids) - start)
        positions += range(len(shared), len(shared) + len(ids) - start)
    row, weighed = torch.tensor(ids), torch.tensor(weights)
    return {
        "input_ids": row,
        "labels": row.masked_fill(weighed == 0, IGNORED),
        "label_weights": weighed,
        "position_ids": torch.tensor(positions),
        "turns": torch.tensor(numbers),
        "frames": torch.tensor(frames),
        "things": torch.tensor(things),
    }


def find_spans(phrase: Phrase, kind: SpanKind, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """For each token the index of the span of this kind that it is in, IGNORED for none. `offsets`:
    where in the text each token begins and ends."""
    spans = [span for span in phrase.spans if span.kind == kind]
    return [
        next((span.index for span in spans if first < span.end and last > span.start), IGNORED)
        for first, last in offsets
    ]


def pad_rows(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows as one batch `(B, L)`; padding forms a turn of its own (-1), which nothing attends to."""
    fill = {"input_ids": 0, "labels": IGNORED, "label_weights": 0.0, "position_ids": 0, "turns": -1,
            "frames": IGNORED, "things": IGNORED}  # fmt: skip
    return {
        name: nn.utils.rnn.pad_sequence([row[name] for row in rows], True, value)
        for name, value in fill.items()
    }


def turn_mask(turns: Tensor, dtype: torch.dtype) -> Tensor:
    """`(B, 1, L, L)`, 0 where a token attends and the lowest number where not: to the prompt and its
    own turn, never ahead."""
    query, key = turns[:, :, None], turns[:, None, :]
    length = turns.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=turns.device).tril()
    visible = causal & ((key == 0) | (key == query))
    mask = torch.zeros(visible.shape, dtype=dtype, device=turns.device)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None]
