"""Clips as a frozen teacher sees them, kept on disk, and many questions about one clip in one row.

Encoder, projector and teacher are the same in every run of `benchmarks.distillation`, so all that they
make of a clip is computed once: features, tokens, the teacher's answers and its states at them.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence

from crosslmm.cache import as_dual_cache
from crosslmm.configuration_crosslmm import CrossLMMConfig
from crosslmm.demo.packing import MARK, turn_mask
from crosslmm.inference.generation import decode_answer, stop_token_ids
from crosslmm.merging import MergedTokens, merge_tokens
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.options import Sampling
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.ragged_tokens import RaggedTokens
from crosslmm.synthetic.asker import ask_about
from crosslmm.synthetic.clips import plan_clip
from crosslmm.synthetic.questions import QUESTION_TYPES
from crosslmm.training.generic_prompts import GENERIC_PROMPTS
from crosslmm.video import sample
from crosslmm.vision import encode_frames
from crosslmm.visual_tokens import VisualTokens

FRAMES = 8
COUNTS = (9, 4, 1)
PER_CLIP = 3  # turns of each kind
POOLED = "pooled"  # each frame's patches pooled to fewer squares, without merging
_HELD_OUT_SHARE = 1 / 3  # as in `crosslmm synth`


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


@torch.no_grad()
def prepare(
    folder: Path, into: Path, model: CrossLMMForConditionalGeneration, processor: CrossLMMProcessor,
    *, kinds: Sequence[str], clips: int, limit: int, together: int = 8,
) -> None:  # fmt: skip
    """Encode the clips of a folder that `crosslmm synth` wrote, let the teacher answer, keep it all.

    kinds of turns: `generic` prompts, `questions` asked about other clips, `own` questions, and
    `labels`, own questions with the truth as training teaches to say it.
    """
    into.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "questions.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows.setdefault(row["video"], []).append(row)
    settings = json.loads((folder / "clips.json").read_text())
    names = sorted(rows)[:clips]
    todo = [name for name in names if not (into / f"{name}.json").exists()]
    for first in range(0, len(todo), together):
        part = todo[first : first + together]
        made = [_encode(folder / name, rows, model, processor, kinds, settings) for name in part]
        asked = [[turn for turn in clip.turns if turn.kind != "labels"] for clip in made]
        found = answer(model, made, asked, made[0].full, POOLED, limit=limit)
        for turns, said in zip(asked, found, strict=True):
            for turn, tokens in zip(turns, said, strict=True):
                turn.answer = tokens
        packed = pack(made, asked, made[0].full, model.config)
        states = states_of(model, packed, visual_tokens(model, made, made[0].full, POOLED))
        answers = list(states[packed.predicts].split([len(t.answer) for ts in asked for t in ts]))
        for index, (name, clip) in enumerate(zip(part, made, strict=True)):
            clip.visual = states[index][packed.is_visual[index]]
            for turn in asked[index]:
                turn.states = answers.pop(0)
            _keep(into / name, clip)
        print(f"{folder.name}: {first + len(part)} of {len(todo)} clips", flush=True)


def _encode(
    path: Path, rows: dict[str, list[dict[str, Any]]], model: Any, processor: Any,
    kinds: Sequence[str], settings: dict[str, Any],
) -> Clip:  # fmt: skip
    frames = sample(
        path, Sampling(frames=FRAMES), size=processor.frame_size,
        resample=int(processor.image_processor.resample),
    )  # fmt: skip
    assert len(frames) == FRAMES, path
    pixels = processor.normalise(torch.from_numpy(frames.pixels), dtype=torch.float32)
    config = model.config
    chunks = encode_frames(model.model.vision_tower, pixels, config.vision_layers, FRAMES)
    features = torch.cat(list(chunks))
    counts = (config.tokens_per_frame, *COUNTS)
    tokens = {count: model.model.merge_features(features, count) for count in counts}
    prompt = processor.prompt(MARK, times=frames.times, duration=frames.source.duration)
    start, after = prompt.split(MARK)
    before, between = start.split(processor.video_token)
    tokenizer = processor.tokenizer

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    def turn(kind: str, text: str, said: str = "", row: dict[str, Any] | None = None) -> Turn:
        answered = [*ids(said), tokenizer.eos_token_id] if said else []
        return Turn(kind, ids(text + after), answered, row=row)

    chance = random.Random(path.name)
    own = rows[path.name]
    turns = []
    if "generic" in kinds:
        turns += [turn("generic", text) for text in chance.sample(GENERIC_PROMPTS, PER_CLIP)]
    if "questions" in kinds:
        others = [name for name in sorted(rows) if name != path.name]
        for name in chance.sample(others, min(PER_CLIP, len(others))):
            turns.append(turn("questions", chance.choice(rows[name])["question"]))
    if "own" in kinds:
        turns += [turn("own", row["question"], row=row) for row in own]
    if "labels" in kinds:
        taught = _taught(own, settings, frames.times)
        for row in chance.sample(own, min(PER_CLIP, len(own))):
            turns.append(turn("labels", row["question"], taught[row["question"]]))
    return Clip(ids(before), ids(between), features, tokens, features[:0], turns)


def _taught(
    own: list[dict[str, Any]], settings: dict[str, Any], frame_times: Sequence[float]
) -> dict[str, str]:
    """What training teaches to say to each question, with the times that the frames have."""
    import numpy as np

    from crosslmm.synthetic.seeds import derive_seed

    seed, index, _ = map(int, own[0]["id"].split("-"))
    domain, (width, height) = settings["domain"], settings["size"]
    low, high = settings["seconds"]
    clip = plan_clip(domain, seed, index, seconds=(low, high), aspect=width / height)
    rng = np.random.default_rng(derive_seed(domain, "questions", seed, index))
    asked = ask_about(
        clip, rng, count=len(own), frame_times=[*frame_times], frame_period=1 / settings["fps"],
        types=QUESTION_TYPES, held_out_share=_HELD_OUT_SHARE,
    )  # fmt: skip
    assert [question.text for question in asked] == [row["question"] for row in own]
    return {question.text: question.taught for question in asked}


def _keep(path: Path, clip: Clip) -> None:
    tensors = {"features": clip.features, "visual": clip.visual}
    tensors |= {f"tokens.{count}": tokens for count, tokens in clip.tokens.items()}
    for index, turn in enumerate(clip.turns):
        if turn.states is not None:
            tensors[f"states.{index}"] = turn.states
    halves = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    save_file(halves, path.with_name(f"{path.name}.safetensors"))
    turns = [[turn.kind, turn.given, turn.answer, turn.row] for turn in clip.turns]
    path.with_name(f"{path.name}.json").write_text(
        json.dumps({"before": clip.before, "between": clip.between, "turns": turns})
    )


def load_clips(folder: Path, count: int | None = None) -> list[Clip]:
    clips = []
    for path in sorted(folder.glob("*.json"))[:count]:
        kept = json.loads(path.read_text())
        tensors = load_file(path.with_suffix(".safetensors"))
        turns = [
            Turn(kind, given, said, tensors.get(f"states.{index}"), row)
            for index, (kind, given, said, row) in enumerate(kept["turns"])
        ]
        tokens = {
            int(name.partition(".")[2]): tensor
            for name, tensor in tensors.items()
            if name.startswith("tokens.")
        }
        clips.append(
            Clip(
                kept["before"],
                kept["between"],
                tensors["features"],
                tokens,
                tensors["visual"],
                turns,
            )
        )
    return clips


def decode(processor: CrossLMMProcessor, ids: list[int]) -> str:
    return decode_answer(processor.tokenizer, ids).strip()
