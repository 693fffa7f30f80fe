"""Clips as a frozen teacher sees them, and many questions about one clip in one row."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from crosslmm.cache import as_dual_cache
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.demo.packing import turn_mask
from crosslmm.inference.generation import decode_answer, stop_token_ids
from crosslmm.merging import MergedTokens, merge_tokens
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.visual_tokens import VisualTokens

FRAMES = 8
COUNTS = (9, 4, 1)
POOLED = "pooled"  # each frame's patches pooled to fewer squares, without merging


@dataclass
class Turn:
    """A question with an answer, as tokens; `states` (A, H) are the teacher's that predict the answer's
    tokens, `row` the row of `questions.jsonl` that it is from."""

    kind: str
    given: list[int]
    answer: list[int]
    states: torch.Tensor | None = None
    row: dict[str, Any] | None = None


@dataclass
class Clip:
    """`before`, `between`: tokens around the placeholders; features (T, N, D); tokens by their number
    per frame, each (T, M, H), the full number among them; visual (T·M, H): the teacher's last states."""

    before: list[int]
    between: list[int]
    features: torch.Tensor
    tokens: dict[int, torch.Tensor]
    visual: torch.Tensor
    turns: list[Turn]
    merged: dict[tuple[str, int], MergedTokens] = field(default_factory=dict)

    @property
    def full(self) -> int:
        return max(self.tokens)

    def merge(self, method: str, count: int) -> MergedTokens:
        """All tokens merged by a method of `crosslmm.merging` to so many per frame."""
        if (method, count) not in self.merged:
            tokens = self.tokens[self.full].float()
            self.merged[method, count] = merge_tokens(tokens, count * FRAMES, method)
        return self.merged[method, count]

    def member(self, count: int, merge: str) -> torch.Tensor:
        """(T·M,): the merged token that each of the full number goes into."""
        return self.merge("area" if merge == POOLED else merge, count).member


def visual_tokens(
    model: CrossLMMForConditionalGeneration, clips: Sequence[Clip], count: int, merge: str
) -> VisualTokens | RaggedTokens:
    """What the language model reads: pooled squares (`POOLED`), or what a merging method makes."""
    features = None
    if model.model.reads_features:
        features = torch.stack([clip.features.float() for clip in clips])
        features = model.model.prepare_features(features)
    if merge == POOLED or count == clips[0].full:
        return VisualTokens(torch.stack([clip.tokens[count].float() for clip in clips]), features)
    return RaggedTokens.of(
        [clip.merge(merge, count) for clip in clips],
        frames=[FRAMES] * len(clips),
        pooled=clips[0].full,
        width=clips[0].visual.shape[-1],
        features=features,
    )


@dataclass
class Rows:
    """Clips with their turns, one row each: `predicts` (B, L) where the next token is of an answer, and
    these tokens `answer` (A,), in the order of rows and turns."""

    input_ids: torch.Tensor
    positions: torch.Tensor
    turns: torch.Tensor
    predicts: torch.Tensor
    is_visual: torch.Tensor
    answer: torch.Tensor
    lasts: list[list[int]]


def pack(
    clips: Sequence[Clip],
    chosen: Sequence[Sequence[Turn]],
    count: int,
    config: CrossLMMConfig,
    *,
    answers: bool = True,
) -> Rows:
    video, places = config.video_token_id, count * FRAMES
    columns: list[list[torch.Tensor]] = [[], [], [], []]
    answer: list[int] = []
    lasts = []
    for clip, turns in zip(clips, chosen, strict=True):
        ids = clip.before + [video] * (places + config.video_newline) + clip.between
        start, numbers, predicts = len(ids), [0] * len(ids), [False] * len(ids)
        positions, ends = list(range(len(ids))), []
        for number, turn in enumerate(turns, start=1):
            said = turn.answer if answers else []
            ids += turn.given + said
            size = len(turn.given) + len(said)
            numbers += [number] * size
            positions += range(start, start + size)
            predicts += [False] * (len(turn.given) - 1) + [True] * len(said) + [False]
            ends.append(len(ids) - 1)
            answer += said
        for column, values in zip(columns, (ids, positions, numbers, predicts), strict=True):
            column.append(torch.tensor(values))
        lasts.append(ends)
    ids, positions, numbers, predicted = (
        pad_sequence(column, True, fill)
        for column, fill in zip(columns, (0, 0, -1, False), strict=True)
    )
    is_visual = ids == video
    is_visual &= is_visual.cumsum(dim=1) <= places  # not the newline
    return Rows(ids, positions, numbers, predicted.bool(), is_visual, torch.tensor(answer), lasts)


def states_of(
    model: CrossLMMForConditionalGeneration, rows: Rows, visual: VisualTokens | RaggedTokens
) -> torch.Tensor:
    """The last hidden states (B, L, H)."""
    return model.model(
        input_ids=rows.input_ids,
        attention_mask=turn_mask(rows.turns, torch.float32),
        position_ids=rows.positions,
        visual_tokens=visual,
        use_cache=False,
    ).last_hidden_state


@torch.no_grad()
def answer(
    model: CrossLMMForConditionalGeneration,
    clips: Sequence[Clip],
    chosen: Sequence[Sequence[Turn]],
    count: int,
    merge: str,
    *,
    limit: int,
) -> list[list[list[int]]]:
    """Greedy answers to all turns of all clips at once, the end token included where there is one."""
    stops = set(stop_token_ids(model.generation_config))
    rows = pack(clips, chosen, count, model.config, answers=False)
    cache = as_dual_cache(None, model.config)
    states = model.model(
        input_ids=rows.input_ids,
        attention_mask=turn_mask(rows.turns, torch.float32),
        position_ids=rows.positions,
        visual_tokens=visual_tokens(model, clips, count, merge),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    most = max(len(turns) for turns in chosen)
    lasts = torch.tensor([ends + [ends[-1]] * (most - len(ends)) for ends in rows.lasts])
    number = torch.tensor(
        [[turn + 1 if turn < len(e) else -2 for turn in range(most)] for e in rows.lasts]
    )
    keys = rows.turns
    index = lasts[..., None].expand(-1, -1, states.shape[-1])
    hidden = states.gather(1, index)
    position = rows.positions.gather(1, lasts)
    said: list[list[list[int]]] = [[[] for _ in turns] for turns in chosen]
    done, slots = number < 0, torch.arange(most)
    for _ in range(limit):
        tokens = model.lm_head(hidden)
        tokens[..., model.config.video_token_id] = -torch.inf
        token = tokens.argmax(-1)
        for row, slot in (~done).nonzero().tolist():
            said[row][int(slots[slot])].append(int(token[row, slot]))
            done[row, slot] = int(token[row, slot]) in stops
        if bool(done.all()):
            break
        # A question that is answered in all clips is not decoded any further.
        going = (~done).any(dim=0).nonzero().flatten()
        slots = slots[going]
        token, done, number = token[:, going], done[:, going], number[:, going]
        position = position[:, going] + 1
        keys = torch.cat([keys, number], dim=1)
        visible = (keys[:, None] == 0) | (keys[:, None] == number[..., None])
        mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
        hidden = model.model(
            input_ids=token,
            attention_mask=mask[:, None],
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    return said


@torch.no_grad()
def respond(
    model: CrossLMMForConditionalGeneration,
    clips: Sequence[Clip],
    count: int,
    merge: str,
    *,
    limit: int,
) -> list[list[list[int]]]:
    """Greedy answers to the own questions of clips, as `answer` gives them.

    The teacher's answers are checked in one pass; decoding goes on where they are left, if they are.
    """
    own = [[turn for turn in clip.turns if turn.kind == "own"] for clip in clips]
    rows = pack(clips, own, count, model.config)
    states = states_of(model, rows, visual_tokens(model, clips, count, merge))
    best = model.lm_head(states[rows.predicts])
    best[:, model.config.video_token_id] = -torch.inf
    found = iter(best.argmax(-1).tolist())
    said, rest, where = [], [], []
    for index, turns in enumerate(own):
        said.append([])
        rest.append([])
        for number, turn in enumerate(turns):
            argmax = [next(found) for _ in turn.answer]
            wrong = [own != said for own, said in zip(argmax, turn.answer, strict=True)]
            first = wrong.index(True) if any(wrong) else None
            if first is None:
                said[-1].append(turn.answer[:limit])
                continue
            known = [*turn.answer[:first], argmax[first]][:limit]
            said[-1].append(known)
            if known[-1] not in stop_token_ids(model.generation_config) and len(known) < limit:
                rest[-1].append(Turn("own", [*turn.given, *known], []))
                where.append((index, number))
    left = [index for index, turns in enumerate(rest) if turns]
    if left:
        some, turns = [clips[index] for index in left], [rest[index] for index in left]
        ends = [
            end for each in answer(model, some, turns, count, merge, limit=limit) for end in each
        ]
        for (index, number), end in zip(where, ends, strict=True):
            said[index][number] = (said[index][number] + end)[:limit]
    return said


def decode(processor: CrossLMMProcessor, ids: list[int]) -> str:
    return decode_answer(processor.tokenizer, ids).strip()
