"""Clips as a frozen teacher sees them, kept on disk.

Encoder, projector and teacher are the same in every run of `benchmarks.distillation`, so all that they
make of a clip is computed once: features, tokens, the teacher's answers and its states at them.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.packed_clips import (
    COUNTS,
    FRAMES,
    POOLED,
    Clip,
    Turn,
    answer,
    pack,
    states_of,
    visual_tokens,
)
from crosslmm.demo.packing import MARK
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.options import Sampling
from crosslmm.processing_crosslmm import CrossLMMProcessor
from crosslmm.synthetic.asker import ask_about
from crosslmm.synthetic.clips import plan_clip
from crosslmm.synthetic.questions import QUESTION_TYPES
from crosslmm.training.generic_prompts import GENERIC_PROMPTS
from crosslmm.video import sample
from crosslmm.vision import encode_frames

PER_CLIP = 3  # turns of each kind
_HELD_OUT_SHARE = 1 / 3  # as in `crosslmm synth`


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
