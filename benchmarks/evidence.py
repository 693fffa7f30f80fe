"""How often evidence is right: on synthetic clips, where it is known what happens when and where.

    python -m benchmarks.evidence --clips 120 --seed 88001

Of `when` and `events` questions: whether the top moment holds the event, and its frame is the first to
show it. Of questions about one object: whether the middle of the top region lies on the object, in a
frame that shows it. Only of right answers: a wrong one was read from something else.
"""

import argparse
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import torch

from benchmarks.record import Record, say, table
from crosslmm.evaluation.mergers import wilson_interval
from crosslmm.evaluation.scoring import is_right
from crosslmm.evidence.maps import EvidenceMaps
from crosslmm.synthetic.clips import clip_questions, plan_clip, question_row, write_clips
from crosslmm.synthetic.questions import Question
from crosslmm.synthetic.scenes import SyntheticClip

SECONDS = (2.0, 60.0)
PER_CLIP = 8
EVENTS = ("when", "events")
ATTRIBUTES = ("colour", "shape", "size", "glyph", "motion")
CONCLUSION = ", so "


@dataclass(frozen=True, eq=False)
class Truth:
    """Of a question about events, when they are (seconds); else where its object is in each frame:
    boxes (T, 4), and in which it is visible (T,)."""

    times: tuple[float, ...] = ()
    boxes: np.ndarray | None = None
    visible: np.ndarray | None = None

    def shown(self, frames: tuple[float, ...]) -> set[int]:
        """The first frames that show the events."""
        return {int(np.searchsorted(frames, moment)) for moment in self.times}


@dataclass(frozen=True)
class Scored:
    """One method on one question; None where it does not apply."""

    method: str
    type: str
    moment: float | None = None  # the top moment holds the event
    length: float | None = None  # the top moment's share of the video
    frame: float | None = None  # its frame is the first to show it
    region: float | None = None  # the middle of the top region is on the object
    overlap: float | None = None  # intersection over union of region and object
    area: float | None = None  # under the ROC curve, of frames or of cells


def conclusion_of(said: str) -> tuple[int, int] | None:
    """The characters of it; None where a model says no more than the answer."""
    start = said.rfind(CONCLUSION)
    return (start + len(CONCLUSION), len(said)) if start >= 0 else None


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as scratch:
        folder = options.folder or Path(scratch)
        write_clips(
            folder,
            clips=options.clips,
            seed=options.seed,
            seconds=SECONDS,
            fps=options.fps,
            questions_per_clip=PER_CLIP,
        )
        scored, counts, seconds = _measure(folder, options)
    rows = list(summarize(scored))
    notes = [
        f"{counts['right']} of {counts['asked']} answers are right; the others are left out",
        f"evidence takes {median(seconds):.2f} s (median)",
    ]
    settings = {
        "model": options.model,
        "clips": options.clips,
        "seed": options.seed,
        "fps": options.fps,
    }
    record = Record(f"evidence_{Path(options.model).name}_{options.seed}", settings, rows, notes)
    path = record.write(options.out)
    print(table(rows))
    print("\n".join(notes))
    say(f"wrote {path}")


def _measure(
    folder: Path, options: argparse.Namespace
) -> tuple[list[Scored], dict[str, int], list[float]]:
    import crosslmm

    assistant = crosslmm.load(options.model, device="cpu", dtype="float32")
    scored: list[Scored] = []
    counts: dict[str, int] = defaultdict(int)
    seconds = []
    for index in range(options.clips):
        clip = plan_clip("eval", options.seed, index, seconds=SECONDS, aspect=1.0)
        session = assistant.open_video(folder / f"clip-{options.seed}-{index:05d}.mp4")
        frames = tuple(frame.time for frame in session.frames)
        asked = clip_questions(clip, "eval", options.seed, index, fps=options.fps, count=PER_CLIP)
        for question in asked:
            truth = find_truth(question, clip, frames)
            if truth is None:
                continue
            answer = session.ask(question.text)
            counts["asked"] += 1
            if not is_right(question_row(question, "", ""), answer.text):
                continue
            counts["right"] += 1
            evidence = session.evidence(answer, part=conclusion_of(answer.text))
            seconds.append(evidence.seconds)
            methods = {"evidence": evidence, **_plain(assistant.model, session, answer, evidence)}
            for name, maps in methods.items():
                scored.append(score(name, question.type, maps, truth))
            scored += by_chance(question.type, evidence, truth)
        say(f"{index + 1} of {options.clips} clips")
    return scored, counts, seconds


def find_truth(question: Question, clip: SyntheticClip, frames: tuple[float, ...]) -> Truth | None:
    """None where the question is about neither, or no frame shows what it is about."""
    if question.type == "when":
        moments = [float(question.answer.split()[1])]
    elif question.type == "events":
        moments = [event.time * clip.duration for event in clip.events]
    else:
        things = {span.index for span in question.spans if span.kind == "thing"}
        if question.type not in ATTRIBUTES or len(things) != 1:
            return None
        thing, at = things.pop(), np.asarray(frames) / clip.duration
        centres = clip.centres(at)[:, thing]
        reach = clip.radii(at)[:, thing, None] * np.asarray(clip.squeeze)
        boxes = np.concatenate([centres - reach, centres + reach], axis=1)
        return Truth(boxes=boxes, visible=clip.visible(at)[:, thing])
    shown = tuple(each for each in moments if 0 < np.searchsorted(frames, each) < len(frames))
    return Truth(times=shown) if shown else None


def score(method: str, kind: str, maps: EvidenceMaps, truth: Truth) -> Scored:
    moment = maps.moments[0]
    if truth.times:
        holds = any(moment.start <= each <= moment.end for each in truth.times)
        first = truth.shown(maps.times)
        area = area_under_curve(
            np.asarray(maps.scores), np.asarray([n in first for n in range(len(maps.times))])
        )
        length = (moment.end - moment.start) / maps.videos[0].duration
        found = float(moment.frame in first)
        return Scored(method, kind, float(holds), length, found, area=area)
    assert truth.boxes is not None
    assert truth.visible is not None
    box, seen = truth.boxes[moment.frame], bool(truth.visible[moment.frame])
    region = moment.regions[0].box
    on = seen and _holds(box, (region[0] + region[2]) / 2, (region[1] + region[3]) / 2)
    side = maps.heat.shape[1]
    middles = (np.arange(side) + 0.5) / side
    inside = np.stack(
        [
            [[bool(seen) and _holds(box, x, y) for x in middles] for y in middles]
            for box, seen in zip(truth.boxes, truth.visible, strict=True)
        ]
    )
    overlap = _overlap(tuple(box), region) if seen else 0.0
    area = area_under_curve(maps.heat.ravel(), inside.ravel())
    return Scored(method, kind, region=float(on), overlap=overlap, area=area)


def by_chance(kind: str, maps: EvidenceMaps, truth: Truth) -> list[Scored]:
    """What a random frame and place would give, and the middle of the video and of the frame."""
    count = len(maps.times)
    if truth.times:
        first = truth.shown(maps.times)
        alone = [one_frame(maps, number) for number in range(count)]
        held = [score("", kind, each, truth) for each in alone]
        moment = fmean(each.moment or 0.0 for each in held)
        length = fmean(each.length or 0.0 for each in held)
        return [
            Scored("chance", kind, moment, length, len(first) / count, area=0.5),
            replace(held[count // 2], method="middle", area=None),
        ]
    assert truth.boxes is not None
    assert truth.visible is not None
    clipped = truth.boxes.clip(0, 1)
    shares = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    on = [
        float(seen and _holds(box, 0.5, 0.5))
        for box, seen in zip(truth.boxes, truth.visible, strict=True)
    ]
    return [
        Scored("chance", kind, region=float((shares * truth.visible).mean()), area=0.5),
        Scored("middle", kind, region=on[count // 2]),
    ]


def one_frame(maps: EvidenceMaps, number: int) -> EvidenceMaps:
    heat = np.zeros_like(maps.heat)
    heat[number] = 1
    return _maps(maps, heat)


def _plain(
    model: Any, session: Any, answer: Any, evidence: EvidenceMaps
) -> dict[str, EvidenceMaps]:
    """The mean attention of the answer's tokens over all heads and layers: of the language model to
    the merged tokens, and of T2V to the patches."""
    from crosslmm.inference.attention import observe_self_attention, observe_text_to_visual

    ids = torch.tensor([[*answer.trace.prompt, *answer.trace.answer]])
    before, frames = len(answer.trace.prompt), len(session.frames)
    lead = int((session.prefix.ids[0] == model.config.video_token_id).nonzero().min())
    sums: dict[str, Any] = {}

    def see(name: str, columns: slice) -> Callable[[int, int, torch.Tensor], None]:
        def add(layer: int, first: int, weights: torch.Tensor) -> None:
            own = weights[:, max(0, before - first) :, columns].mean(dim=0).sum(dim=0)
            sums[name] = sums.get(name, 0) + own.numpy()

        return add

    video = slice(lead, lead + session.visual_tokens)
    with (
        torch.inference_mode(),
        session.prefix.lend() as cache,
        observe_self_attention(model, see("self-attention", video)),
        observe_text_to_visual(model, see("T2V attention", slice(None))),
    ):
        model.model(input_ids=ids, past_key_values=cache, use_cache=True)
    maps = {}
    for name, heat in sums.items():
        side = math.isqrt(len(heat) // frames)
        maps[name] = _maps(evidence, heat.reshape(frames, side, side))
    return maps


def _maps(like: EvidenceMaps, heat: np.ndarray) -> EvidenceMaps:
    fields = {name: getattr(like, name) for name in EvidenceMaps.__dataclass_fields__}
    return EvidenceMaps(**fields | {"heat": heat / heat.sum()})


def area_under_curve(scores: np.ndarray, true: np.ndarray) -> float | None:
    """Of the ROC; None where all or none are true."""
    hits = int(true.sum())
    if hits in (0, len(true)):
        return None
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[group]
    return float((ranks[true].sum() - hits * (hits + 1) / 2) / (hits * (len(true) - hits)))


def summarize(scored: list[Scored]) -> Iterator[dict[str, Any]]:
    """A row for each method and kind of question."""
    groups: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    for each in scored:
        about = "events" if each.type in EVENTS else "objects"
        groups[about, each.method].append(each)
        if each.method == "evidence":
            groups[f"{each.type} alone", each.method].append(each)
    for (about, method), rows in sorted(groups.items(), key=lambda group: _order(*group[0])):
        yield {
            "questions": about,
            "method": method,
            "count": len(rows),
            **{name: _share(rows, name) for name in ("moment", "frame", "region")},
            **{name: _mean(rows, name) for name in ("length", "overlap", "area")},
        }


def _order(about: str, method: str) -> tuple[bool, str, str]:
    return about.endswith("alone"), about, method


def _share(rows: list[Scored], name: str) -> str | None:
    values = [value for row in rows if (value := getattr(row, name)) is not None]
    if not values:
        return None
    share = f"{fmean(values):.1%}"
    if set(values) <= {0.0, 1.0}:
        low, high = wilson_interval(int(sum(values)), len(values))
        share += f" ({low:.1%} to {high:.1%})"
    return share


def _mean(rows: list[Scored], name: str) -> str | None:
    values = [value for row in rows if (value := getattr(row, name)) is not None]
    if len(values) < 2:
        return None
    return f"{fmean(values):.3f} ± {1.96 * stdev(values) / math.sqrt(len(values)):.3f}"


def _holds(box: Any, x: float, y: float) -> bool:
    left, top, right, bottom = box
    return bool(left <= x <= right and top <= y <= bottom)


def _overlap(one: Any, other: Any) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    both = max(wide, 0.0) * max(tall, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(both / (sum(areas) - both))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--seed", type=int, default=88001)
    parser.add_argument("--fps", type=float, default=12.0, help="of the clips")
    parser.add_argument("--folder", type=Path, help="keep the clips here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
