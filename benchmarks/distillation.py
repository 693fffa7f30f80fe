"""Whether distillation without labels wins back what merging loses: the tables of docs/results.md.

    python -m benchmarks.distillation WORK --teacher TEACHER [--only NAME …] [--seeds 1 2]

WORK holds three folders of `crosslmm synth` (docs/results.md gives the commands): `train`, whose videos
are used without their labels by every arm but the supervised one, `dev`, on which learning rates were
chosen, and `test`, that is asked at the end. An arm is a student and how it is trained; each is trained
once per seed. What is finished is kept in WORK, so that the same command goes on where it was stopped.

`train distill` takes one question per row and runs its frozen teacher in every step. Here what encoder
and teacher make of a clip is kept, and a row holds several questions (`packed_clips.py`), so that a
small machine can do it. The loss and the weights that are trained are the same.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from benchmarks.distillation_arms import ARMS, KINDS, LIMITS, RATES, Arm
from benchmarks.distillation_tables import record, tables
from benchmarks.kept_clips import load_clips, prepare
from benchmarks.packed_clips import (
    COUNTS,
    POOLED,
    Clip,
    Turn,
    decode,
    pack,
    respond,
    states_of,
    visual_tokens,
)  # fmt: skip
from benchmarks.record import say, table
from benchmarks.students import build_student, load_student
from crosslmm.checkpoints import loading
from crosslmm.evaluation.scoring import is_right
from crosslmm.merging.merged import mean_of
from crosslmm.training.distillation_loss import Predictions, distillation_terms
from crosslmm.training.token_schedule import TokenDraw, TokenSchedule

UNTRAINED = ("folder", "salient", "area", "random", POOLED)
CLIPS_PER_STEP = 4
WARM_CLIPS = 40


class Bench:
    def __init__(self, work: Path, teacher: Path) -> None:
        self.work, self.teacher = work, teacher
        self.processor = loading.load_processor(teacher)
        self._clips: dict[str, list[Clip]] = {}

    def model(self) -> Any:
        return load_student(self.teacher)

    def clips(self, name: str, kinds: Sequence[str], count: int, limit: int) -> list[Clip]:
        """Of the folder `name`, with turns of these kinds, answered in up to `limit` tokens."""
        usual = (kinds, limit) == (KINDS[name], LIMITS[name])
        kept = name if usual else f"{name} {' '.join(kinds)} {limit}"
        if len(self._clips.get(kept, ())) < count:
            folder = self.work / "cache" / kept
            prepare(self.work / name, folder, self.model(), self.processor,
                    kinds=kinds, clips=count, limit=limit)  # fmt: skip
            self._clips[kept] = load_clips(folder, count)
        return self._clips[kept][:count]

    def student(self, arm: Arm, seed: int) -> Any:
        clips = self.clips("train", KINDS["train"], WARM_CLIPS, LIMITS["train"]) if arm.warm else ()
        return build_student(self.teacher, arm, seed, clips)

    def train(self, name: str, seed: int, arm: Arm | None = None) -> Any:
        """The trained student, from its file where there is one."""
        arm = arm or ARMS[name]
        model = self.student(arm, seed)
        path = self.work / "runs" / f"{name}-{seed}.safetensors"
        if path.exists():
            model.load_state_dict(load_file(path), strict=False)
            return model.requires_grad_(False)
        usual = set(arm.asked) <= set(KINDS["train"])
        kinds = KINDS["train"] if usual else arm.asked
        clips = self.clips("train", kinds, arm.clips, arm.answer_tokens)
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        groups = [
            {"params": [p for n, p in trained.items() if n.endswith(".gate") == gate],
             "lr": arm.gate_rate if gate else arm.rate} for gate in (False, True)
        ]  # fmt: skip
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.0)
        warmup = max(1, round(0.03 * arm.steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / arm.steps)),
        )
        chance = random.Random(seed)
        counts = TokenSchedule(arm.counts, steps=arm.steps, progressive=arm.progressive, seed=seed)
        queue: list[Clip] = []
        losses: list[float] = []
        started, used = time.perf_counter(), time.process_time()
        for step in range(arm.steps):
            while len(queue) < CLIPS_PER_STEP:
                queue += chance.sample(clips, len(clips))
            part, queue = queue[:CLIPS_PER_STEP], queue[CLIPS_PER_STEP:]
            with torch.autocast("cpu", torch.bfloat16, enabled=arm.bfloat16):
                drawn = TokenDraw(chance.choice(arm.counts), None)
                draw = counts.at(step) if arm.progressive else drawn
                loss = step_loss(model, arm, part, draw, chance)
            optimizer.zero_grad()
            loss.backward()
            if step < arm.t2v_from * arm.steps:
                for late in (p for n, p in trained.items() if ".t2v." in n):
                    late.grad = None
            nn.utils.clip_grad_norm_(list(trained.values()), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if (step + 1) % 20 == 0:
                print(f"{name}-{seed} {step + 1}: {fmean(losses[-20:]):.4f} "
                      f"{time.perf_counter() - started:.0f} s", flush=True)  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: p.detach().contiguous() for n, p in trained.items()}, path)
        gates = {
            n: round(math.tanh(p.item()), 4) for n, p in trained.items() if n.endswith(".gate")
        }
        note = {"arm": asdict(arm), "seed": seed, "losses": [round(x, 4) for x in losses],
                "seconds": round(time.perf_counter() - started, 1), "gates": gates,
                "processor_seconds": round(time.process_time() - used, 1),
                "trained": sum(p.numel() for p in trained.values())}  # fmt: skip
        path.with_suffix(".json").write_text(json.dumps(note, indent=1) + "\n")
        return model.requires_grad_(False)

    @torch.no_grad()
    def agreement(
        self, model: Any, merge: str, count: int, name: str = "dev"
    ) -> tuple[float, float]:
        """Nats of divergence per token of the teacher's answers, and the share of these answers that the
        student gives word for word."""
        clips = self.clips(name, KINDS[name], 30 if name == "dev" else 50, LIMITS[name])
        nats, same = [], []
        for first in range(0, len(clips), 8):
            part = clips[first : first + 8]
            own = [[turn for turn in clip.turns if turn.kind == "own"] for clip in part]
            rows = pack(part, own, count, model.config)
            states = states_of(model, rows, visual_tokens(model, part, count, merge))
            logits = model.lm_head(states[rows.predicts])
            turns = [turn for turns in own for turn in turns]
            target = model.lm_head(torch.cat([t.states for t in turns]).float())
            nats.append(_divergence(logits, target))
            hits = (logits.argmax(-1) == target.argmax(-1)).split([len(t.answer) for t in turns])
            same += [bool(hit.all()) for hit in hits]
        return float(torch.cat(nats).mean()), fmean(same)

    def test(self, name: str, model: Any, merge: str, count: int) -> dict[str, Any]:
        """Right answers to the questions of the test clips, kept in WORK."""
        path = self.work / "answers" / f"{name}-{merge}-{count}.json"
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text())
            return found
        clips = self.clips("test", KINDS["test"], 50, LIMITS["test"])
        rows = []
        for first in range(0, len(clips), 10):
            part = clips[first : first + 10]
            said = respond(model, part, count, merge, limit=128)
            for clip, answers in zip(part, said, strict=True):
                own = [turn for turn in clip.turns if turn.kind == "own"]
                for turn, tokens in zip(own, answers, strict=True):
                    text = decode(self.processor, tokens)
                    assert turn.row is not None
                    rows.append({"id": turn.row["id"], "type": turn.row["type"], "said": text,
                                 "right": is_right(turn.row, text)})  # fmt: skip
        found = {"right": fmean(row["right"] for row in rows), "rows": rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        return found

    def measure(self, name: str, seed: int) -> None:
        """Train an arm and ask it; count the teacher's answers that it gives, also with one branch's
        gates closed."""
        arm = ARMS[name]
        model = self.train(name, seed)
        label = f"{name}-{seed}"
        for count in arm.counts:
            found = self.test(label, model, arm.merge, count)
            print(f"{label} at {count}: {found['right']:.1%}", flush=True)
            self.count_same(label, model, arm.merge, count)
        gates = {n: p for n, p in model.named_parameters() if n.endswith(".gate")}
        separate = len(arm.branches) > 1 and not arm.joint
        for branch in arm.branches if separate else ():
            opened = {n: p.clone() for n, p in gates.items() if f".{branch}." in n}
            with torch.no_grad():
                for gate in opened:
                    gates[gate].zero_()
                for count in arm.counts:
                    self.count_same(f"{label} without {branch}", model, arm.merge, count)
                for gate, value in opened.items():
                    gates[gate].copy_(value)

    def count_same(self, label: str, model: Any, merge: str, count: int) -> tuple[float, float]:
        """`agreement` on the test clips, kept in WORK."""
        path = self.work / "agreement" / f"{label}-{merge}-{count}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.agreement(model, merge, count, "test")))
        nats, same = json.loads(path.read_text())
        return nats, same

    def rates(self) -> str:
        """Learning rates compared on dev, all with seed 0."""
        rows = []
        for name, arm in {"not trained": None, **RATES}.items():
            model = self.model() if arm is None else self.train(name, 0, arm)
            row = {"student": name}
            for count in (9, 4):
                nats, same = self.agreement(model, "folder", count)
                row |= {f"nats at {count}": f"{nats:.4f}", f"same at {count}": f"{same:.1%}"}
            rows.append(row)
        return table(rows)


def step_loss(
    model: Any, arm: Arm, clips: list[Clip], draw: TokenDraw, chance: random.Random
) -> Any:
    kinds = ("labels",) if arm.target == "labels" else arm.asked
    chosen: list[list[Turn]] = []
    for clip in clips:
        found = [turn for turn in clip.turns if turn.kind in kinds]
        chosen.append(chance.sample(found, min(3, len(found))))
    rows = pack(clips, chosen, draw.student, model.config)
    states = states_of(model, rows, visual_tokens(model, clips, draw.student, arm.merge))
    own = Predictions(model.lm_head, states[rows.predicts], states[rows.is_visual])
    if arm.target == "labels":
        return F.cross_entropy(model.lm_head(own.states), rows.answer)
    with torch.no_grad():
        target = taught(model, arm, clips, chosen, draw)
    terms = distillation_terms(own, target, rows.answer, 1.0)
    loss = terms["answer" if arm.target == "words" else "divergence"] / len(rows.answer)
    return loss + arm.hidden * terms["hidden"] if arm.target == "distribution" else loss


def taught(
    model: Any, arm: Arm, clips: list[Clip], chosen: list[list[Turn]], draw: TokenDraw
) -> Predictions:
    """The teacher's states, as they are kept, or the student's own at more tokens."""
    visual = [clip.visual.float() for clip in clips]
    said = [turn.states.float() for turns in chosen for turn in turns if turn.states is not None]
    if draw.teacher is not None:
        rows = pack(clips, chosen, draw.teacher, model.config)
        states = states_of(model, rows, visual_tokens(model, clips, draw.teacher, arm.merge))
        said = [states[rows.predicts]]
        visual = [
            own[shown][clip.member(draw.teacher, arm.merge)]
            for own, shown, clip in zip(states, rows.is_visual, clips, strict=True)
        ]
    means = []
    for clip, own in zip(clips, visual, strict=True):
        member = clip.member(draw.student, arm.merge)
        means.append(mean_of(own, member, torch.bincount(member)).float())
    return Predictions(model.lm_head, torch.cat(said), torch.cat(means))


def _divergence(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    logs = [F.log_softmax(each, dim=-1) for each in (logits, target)]
    return F.kl_div(*logs, reduction="none", log_target=True).sum(-1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rates", action="store_true", help="only compare learning rates, on dev")
    parser.add_argument("--tables", action="store_true", help="only of what is finished")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    bench = Bench(arguments.work, arguments.teacher)
    if arguments.rates:
        print(bench.rates())
        return
    if not arguments.tables:
        teacher = bench.model()
        bench.test("teacher", teacher, POOLED, teacher.config.tokens_per_frame)
        for merge in UNTRAINED:
            for count in COUNTS:
                bench.test("teacher", teacher, merge, count)
                bench.count_same("teacher", teacher, merge, count)
        for seed in arguments.seeds:
            for name in arguments.only or ARMS:
                bench.measure(name, seed)
    merges = {name: arm.merge for name, arm in ARMS.items()}
    print(tables(arguments.work, merges))
    path = record(arguments.work, merges, arguments.teacher.name).write(arguments.out)
    say(f"wrote {path}")


if __name__ == "__main__":
    main()
