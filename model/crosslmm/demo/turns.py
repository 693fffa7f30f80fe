"""Many questions in one row: a prompt, then one turn after another that attend to it and not to each
other, each at the positions it would have if it were the only one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from crosslmm.demo.supervision import pointed_frames, pointed_things, tells_frames
from crosslmm.demo.targets import IGNORED
from crosslmm.synthetic.questions import Question

MARK = "\0"  # stands for the question in a prompt
ASKED_WEIGHT = 4.0


def packed_turns(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    questions: Sequence[Question],
    names: Sequence[Sequence[str]] = (),
) -> dict[str, Tensor]:
    """One row of a prompt and its turns, each a question and what training teaches to say to it.

    - `prompt`: as the processor makes it, with MARK for the question.
    - `names`: what answers may call each thing of the clip.

    All of the result are `(L,)`: token ids, labels, what each label weighs in the loss (what was asked
    for, and the list behind a number, weighs more than what leads to it and than notes), positions,
    each token's turn (0: the prompt), and the frame and the thing that it points at.
    """
    before, after = prompt.split(MARK)
    turns = []
    for question in questions:
        taught = question.taught
        lead = taught.removesuffix(question.answer).rstrip()
        if not question.answer:
            said = [(taught, 1.0)]
        elif not lead or question.type == "count":  # a number is as right as the list before it
            said = [(taught, ASKED_WEIGHT)]
        else:
            if lead == taught:  # which says it in other words: a frame's time, a thing's whole name
                lead = "".join(taught.rpartition(", so")[:2])
            said = [(lead, 1.0), (taught[len(lead) :], ASKED_WEIGHT)]
        turns.append([(question.text + after, 0.0), *said])
    return _row(tokenizer, before, turns, names)


def concluded_turns(
    tokenizer: PreTrainedTokenizerBase, prompt: str, answers: Sequence[tuple[str, str]]
) -> dict[str, Tensor]:
    """As `packed_turns`, one question with several answers: reasons, which are given, and what follows
    from them, which is to be learned."""
    return _row(tokenizer, prompt, [[(reason, 0.0), (end, 1.0)] for reason, end in answers])


def _row(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    turns: Sequence[Sequence[tuple[str, float]]],
    names: Sequence[Sequence[str]] = (),
) -> dict[str, Tensor]:
    """`turns`: texts with what their tokens weigh in the loss, nothing where they are given."""
    shared = tokenizer(prompt).input_ids
    ids, weights, numbers = [*shared], [0.0] * len(shared), [0] * len(shared)
    frames, things = [IGNORED] * len(shared), [IGNORED] * len(shared)
    positions = list(range(len(shared)))
    for number, texts in enumerate(turns, start=1):
        start, said, offsets = len(ids), "", []
        for text, weight in texts:
            encoded = tokenizer(text, return_offsets_mapping=True)
            tokens = encoded["input_ids"]
            ids += tokens
            weights += [weight] * len(tokens)
            if weight:
                offsets += [tuple(len(said) + at for at in o) for o in encoded["offset_mapping"]]
                said += text
        given = [IGNORED] * (len(ids) - start - len(offsets))
        ids.append(tokenizer.eos_token_id)
        weights.append(1.0)
        # What is said after the frames was read there.
        pointed = pointed_things(said, offsets, () if tells_frames(said) else names)
        things += [*given, *pointed, IGNORED]
        frames += [*given, *pointed_frames(said, offsets), IGNORED]
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


def padded(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
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
    seen = causal & ((key == 0) | (key == query))
    lowest = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=turns.device).masked_fill(~seen, lowest)[
        :, None
    ]
