"""How well `ask --when` says when something is seen: on synthetic clips, where that is known.

    python -m benchmarks.spans --clips 60 --seed 77001

Asked are questions about one object that is seen for at most nine tenths of its clip, because it comes,
goes, or is in one scene of several. Mean intersection over union of the spans and the time in which
it is seen; only of right answers: a wrong one was read from something else.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from benchmarks.evidence import ATTRIBUTES, SECONDS, conclusion_of
from benchmarks.record import Record, say, table
from crosslmm.evaluation.scoring import is_right
from crosslmm.synthetic.clips import clip_questions, plan_clip, question_row, write_clips
from crosslmm.synthetic.questions import Question
from crosslmm.synthetic.scenes import SyntheticClip

PER_CLIP = 12
MOST = 0.9  # of the clip
FPS = 12.0

Seconds = tuple[float, float]


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
            fps=FPS,
            questions_per_clip=PER_CLIP,
        )
        found = list(_measure(folder, options))
    rows = [
        {
            "method": method,
            "questions": len(found),
            "intersection over union": _mean([each[method] for each in found]),
        }
        for method in found[0]
    ]
    settings = {name: getattr(options, name) for name in ("model", "clips", "seed")}
    record = Record(f"spans_{Path(options.model).name}_{options.seed}", settings, rows)
    print(table(rows))
    say(f"wrote {record.write(options.out)}")


def _measure(folder: Path, options: argparse.Namespace) -> Iterator[dict[str, float]]:
    """The overlap of each method, question by question."""
    import crosslmm

    assistant = crosslmm.load(options.model, device="cpu", dtype="float32")
    rng = np.random.default_rng(0)
    for index in range(options.clips):
        clip = plan_clip("eval", options.seed, index, seconds=SECONDS, aspect=1.0)
        asked = clip_questions(clip, "eval", options.seed, index, fps=FPS, count=PER_CLIP)
        known = [(each, seen) for each in asked if (seen := seen_during(each, clip)) is not None]
        if not known:
            continue
        session = assistant.open_video(folder / f"clip-{options.seed}-{index:05d}.mp4")
        for question, seen in known:
            answer = session.ask(question.text)
            if not is_right(question_row(question, "", ""), answer.text):
                continue
            evidence = session.evidence(answer, part=conclusion_of(answer.text))
            moment = evidence.moments[0]
            frames = [[seen[0] <= time < seen[1]] for time in evidence.times]
            ends = sorted((rng.random(2) * clip.duration).tolist())
            yield {
                "spans": overlap([(span.start, span.end) for span in evidence.spans], seen),
                "top moment": overlap([(moment.start, moment.end)], seen),
                "all of the video": overlap([(0.0, clip.duration)], seen),
                "a random span": overlap([(ends[0], ends[1])], seen),
                "the right frames": overlap(_around(frames, evidence.times, clip.duration), seen),
            }
        say(f"{index + 1} of {options.clips} clips")


def seen_during(question: Question, clip: SyntheticClip) -> Seconds | None:
    """In seconds, when the object of a question is seen; None where it is about no single one, or one
    that is seen nearly all the time, or blinks."""
    things = {span.index for span in question.spans if span.kind == "thing"}
    if question.type not in ATTRIBUTES or len(things) != 1:
        return None
    thing = clip.things[things.pop()]
    scenes = (0.0, *clip.cuts, 1.0)
    start = max(thing.seen_from, scenes[thing.scene])
    end = min(thing.seen_until, scenes[thing.scene + 1])
    if thing.motion == "blinking" or end - start > MOST:
        return None
    return start * clip.duration, end * clip.duration


def overlap(spans: Sequence[Seconds], truth: Seconds) -> float:
    """Intersection over union of spans, which do not overlap, and one."""
    both = sum(max(0.0, min(end, truth[1]) - max(start, truth[0])) for start, end in spans)
    lengths = sum(end - start for start, end in spans) + truth[1] - truth[0]
    return both / (lengths - both)


def _around(frames: Any, times: Sequence[float], duration: float) -> list[Seconds]:
    """What spans would be where evidence is in all frames that show the object, and in no others."""
    from crosslmm.evidence.maps import EvidenceMaps, EvidenceVideo

    heat = np.asarray(frames, dtype=float)[:, :, None]
    video = EvidenceVideo("", duration, len(times))
    maps = EvidenceMaps((video,), "", "", "", (), tuple(times), heat, (), "", 0.0)
    return [(span.start, span.end) for span in maps.spans]


def _mean(values: list[float]) -> str:
    return f"{fmean(values):.3f} ± {1.96 * stdev(values) / math.sqrt(len(values)):.3f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=77001)
    parser.add_argument("--folder", type=Path, help="keep the clips here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
