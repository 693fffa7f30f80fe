"""The students of `benchmarks.distillation`, and how each is trained."""

from dataclasses import dataclass, replace

from benchmarks.packed_clips import POOLED

BRANCHES = ("v2v", "t2v")
LIMITS = {"train": 64, "dev": 128, "test": 128}
KINDS = {"train": ("generic", "questions", "labels"), "dev": ("own",), "test": ("own",)}


@dataclass(frozen=True)
class Arm:
    """A student and how it is trained.

    - merge: a merging method, or `pooled` squares; counts: tokens per frame, one drawn for each step.
    - branches: of the cross-attention that are trained; lora: rank of adapters on q and v, 0 for none.
    - target: `distribution` (KL) or `words` (cross-entropy) of the teacher; `labels`: the truth.
    - asked: kinds of turns, see `kept_clips.prepare`; answer_tokens: the longest answer.
    - scope, kv: which features V2V reads, and whether layers share their keys and values; see
      `CrossLMMConfig`.
    - every: a dual cross-attention layer after every so many decoder layers.
    - joint: `gate`, one for both branches of a layer; `module`, one attention with its gate for both.
    - t2v_from: the share of the run before which T2V is not trained, its gates closed.
    - warm: where the gates begin, with the weights of `students.warm_start`; 0 for closed gates.
    - fresh: cross-attention starts from random weights, as it does on a LLaVA-OneVision checkpoint; else
      from those that the teacher's file still has of the built-in model.
    - progressive: the share of the run in which the counts go down; see `DistillOptions`.
    - bfloat16: of the products; weights stay in float32.
    """

    merge: str = "folder"
    branches: tuple[str, ...] = BRANCHES
    lora: int = 0
    target: str = "distribution"
    asked: tuple[str, ...] = ("generic", "questions")
    answer_tokens: int = LIMITS["train"]
    scope: str = "frame"
    kv: str = "per_layer"
    every: int = 2
    joint: str = ""
    t2v_from: float = 0.0
    warm: float = 0.0
    fresh: bool = True
    clips: int = 160
    steps: int = 120
    rate: float = 2e-3
    gate_rate: float = 2e-2
    hidden: float = 0.1
    counts: tuple[int, ...] = (9, 4)
    progressive: float = 0.0
    bfloat16: bool = False


LONG = Arm(asked=("own",), answer_tokens=128, clips=4000, steps=4000, bfloat16=True)
ARMS = {
    "cross-attention": Arm(),
    "adapters": Arm(branches=(), lora=16, rate=1e-3),
    "both": Arm(lora=16),
    "salient": Arm(merge="salient"),
    "salient, adapters": Arm(merge="salient", branches=(), lora=16, rate=1e-3),
    "salient, both": Arm(merge="salient", lora=16),
    "labels": Arm(target="labels"),
    "words": Arm(target="words"),
    "pooled": Arm(merge=POOLED),
    "pooled, adapters": Arm(merge=POOLED, branches=(), lora=16, rate=1e-3),
    "40 videos": Arm(clips=40),
    "built-in weights": Arm(fresh=False),
    "v2v": Arm(branches=("v2v",)),
    "t2v": Arm(branches=("t2v",)),
    "v2v over the video": Arm(branches=("v2v",), scope="video"),
    "v2v of the past": Arm(branches=("v2v",), scope="past"),
    "v2v of its members": Arm(branches=("v2v",), scope="member"),
    "4 times the steps": Arm(steps=480),
    "both, 4 times the steps": Arm(lora=16, steps=480),
    "adapters, 4 times the steps": Arm(branches=(), lora=16, rate=1e-3, steps=480),
    "shared keys and values": Arm(kv="shared"),
    "after every layer": Arm(every=1),
    "after every fourth layer": Arm(every=4),
    "one gate": Arm(joint="gate"),
    "one module": Arm(joint="module"),
    "t2v in the second half": Arm(t2v_from=0.5),
    "warm start": Arm(warm=0.1),
    "400 videos, 4 times the steps": Arm(clips=400, steps=480, bfloat16=True),
    "both, 400 videos, 4 times the steps": Arm(lora=16, clips=400, steps=480, bfloat16=True),
    "adapters, 400 videos, 4 times the steps": Arm(
        branches=(), lora=16, rate=1e-3, clips=400, steps=480, bfloat16=True
    ),
    "9 tokens alone": Arm(counts=(9,)),
    "4 tokens alone": Arm(counts=(4,)),
    "1 token alone": Arm(counts=(1,)),
    "9, 4 and 1 tokens": Arm(counts=(9, 4, 1)),
    "9, 4 and 1 tokens, progressive": Arm(counts=(9, 4, 1), progressive=0.67),
    "adapters, 1 token alone": Arm(branches=(), lora=16, rate=1e-3, counts=(1,)),
    "v2v, 1 token alone": Arm(branches=("v2v",), counts=(1,)),
    "t2v, 1 token alone": Arm(branches=("t2v",), counts=(1,)),
    "in bfloat16": Arm(bfloat16=True),
    "own questions, complete": Arm(asked=("own",), answer_tokens=128),
    "both, own questions, complete": Arm(lora=16, asked=("own",), answer_tokens=128),
    "4,000 videos": LONG,
    "adapters, 4,000 videos": replace(LONG, branches=(), lora=16, rate=1e-3),
    "both, 4,000 videos": replace(LONG, lora=16),
    "adapters, 160 videos for as long": replace(LONG, branches=(), lora=16, rate=1e-3, clips=160),
}
# Compared on dev, before any arm above was trained.
RATES = {
    "dev-lora1e-3": Arm(branches=(), lora=16, rate=1e-3, steps=60),
    "dev-xa1e-3": Arm(rate=1e-3, gate_rate=1e-3, steps=60),
    "dev-xa2e-3": Arm(rate=2e-3, gate_rate=2e-2, steps=60),
}
