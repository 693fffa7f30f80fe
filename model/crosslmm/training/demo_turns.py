"""Many questions in one row: a prompt, then one turn after another that attend to it and not to each
other, each at the positions it would have if it were the only one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from crosslmm.synthetic.questions import Question
from crosslmm.training.demo_seen import IGNORED

MARK = "\0"  # stands for the question in a prompt
ASKED_WEIGHT = 4.0


def packed_turns(
    tokenizer: PreTrainedTokenizerBase, prompt: str, questions: Sequence[Question]
) -> dict[str, Tensor]:
    """One row: token ids, labels, what each label weighs in the loss (what was asked for more than what
    leads to it), positions, and the turn each token belongs to (0: the prompt).

    All `(L,)`. `prompt`: as the processor makes it, with MARK for the question.
    """
    before, after = prompt.split(MARK)
    shared = tokenizer(before).input_ids
    ids, labels = [torch.tensor(shared)], [torch.full((len(shared),), IGNORED)]
    weights = [torch.zeros(len(shared))]
    positions, turns = [torch.arange(len(shared))], [torch.zeros(len(shared), dtype=torch.long)]
    asked = tokenizer([question.text + after for question in questions]).input_ids
    answered = tokenizer([question.taught for question in questions]).input_ids
    leads = [question.taught.removesuffix(question.answer).rstrip() for question in questions]
    led = [len(lead) for lead in tokenizer(leads).input_ids]
    for turn, (question_ids, answer_ids) in enumerate(zip(asked, answered, strict=True), start=1):
        answer = [*answer_ids, tokenizer.eos_token_id]
        ids.append(torch.tensor(question_ids + answer))
        labels.append(torch.tensor([IGNORED] * len(question_ids) + answer))
        weight = torch.ones(len(ids[-1]))
        if led[turn - 1]:
            weight[len(question_ids) + led[turn - 1] : -1] = ASKED_WEIGHT
        weights.append(weight)
        positions.append(len(shared) + torch.arange(len(ids[-1])))
        turns.append(torch.full((len(ids[-1]),), turn))
    return {
        "input_ids": torch.cat(ids),
        "labels": torch.cat(labels),
        "label_weights": torch.cat(weights),
        "position_ids": torch.cat(positions),
        "turns": torch.cat(turns),
    }


def padded(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows as one batch `(B, L)`; padding forms a turn of its own (-1), which nothing attends to."""
    fill = {"input_ids": 0, "labels": IGNORED, "label_weights": 0.0, "position_ids": 0, "turns": -1}
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
