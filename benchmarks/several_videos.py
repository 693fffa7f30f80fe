"""Questions about one of two videos that are shown together: where evidence and a second look point to.

    python -m benchmarks.several_videos --clips 40 --seed 31338

- Evidence: questions about an object of one of two ordinary clips, of which the other has no object that
  shares its colour, shape or glyph. Of right answers: how often the top moment is in the right clip.
- Looking again: the needle test with two clips at a time, `--frames` of both together, by one uniform
  pass and by zooming.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.evidence import ATTRIBUTES, SECONDS, conclusion_of
from benchmarks.record import Record, say, table
from crosslmm.evaluation.mergers import wilson_interval
from crosslmm.evaluation.scoring import is_right
from crosslmm.evaluation.tasks.questions import read_questions
from crosslmm.synthetic import write_needles
from crosslmm.synthetic.clips import clip_questions, plan_clip, question_row, write_clips

PER_CLIP = 8
FPS = 12.0


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    import crosslmm

    assistant = crosslmm.load("demo", device="cpu", dtype="float32")
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as scratch:
        rows = [*_evidence(assistant, Path(scratch, "clips"), options)]
        rows += _looking(assistant, Path(scratch, "needles"), options)
    settings = {name: getattr(options, name) for name in ("clips", "seed", "length", "frames")}
    print(table(rows))
    path = Record(f"several_videos_{options.seed}", settings, rows).write(options.out)
    say(f"wrote {path}")


def _evidence(
    assistant: Any, folder: Path, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    write_clips(
        folder,
        clips=options.clips,
        seed=options.seed,
        seconds=SECONDS,
        fps=FPS,
        questions_per_clip=PER_CLIP,
    )
    asked, found, shares, alone = 0, [], [], []
    for index, other in _pairs(options.clips):
        clips = [
            plan_clip("eval", options.seed, each, seconds=SECONDS, aspect=1.0)
            for each in (index, other)
        ]
        names = [folder / f"clip-{options.seed}-{each:05d}.mp4" for each in (index, other)]
        order = slice(None) if index % 4 < 2 else slice(None, None, -1)  # first or second by turns
        session = None
        for question in clip_questions(
            clips[0], "eval", options.seed, index, fps=FPS, count=PER_CLIP
        ):
            things = {span.index for span in question.spans if span.kind == "thing"}
            if question.type not in ATTRIBUTES or len(things) != 1:
                continue
            thing = clips[0].things[things.pop()]
            if any(_alike(thing, each) for each in clips[1].things):
                continue
            session = session or assistant.open_videos(names[order], frames=options.frames)
            answer = session.ask(question.text)
            asked += 1
            if not is_right(question_row(question, "", ""), answer.text):
                continue
            evidence = session.evidence(answer, part=conclusion_of(answer.text))
            place = names[order].index(names[0])
            own = evidence.ranges[place]
            found.append(evidence.video_of(evidence.moments[0].frame) == place)
            shares.append(sum(evidence.scores[own.start : own.stop]))
            alone.append(not evidence.spans_by_video[1 - place])
        say(f"clips {index} and {other}")
    yield {
        "method": "evidence",
        "questions": asked,
        "right": _share(sum(1 for _ in found), asked),
        "right clip": _share(sum(found), len(found)),
        "share of the evidence in it": f"{fmean(shares):.2f}",
        "no span in the other": _share(sum(alone), len(alone)),
        "tokens": None,
    }


def _looking(assistant: Any, folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    path = write_needles(folder, clips=options.clips, seed=options.seed, lengths=[options.length])
    rows = read_questions(path)
    videos = list(dict.fromkeys(row["video"] for row in rows))
    opens = {"uniform": assistant.open_videos, "zoom": assistant.open_zoomed}
    for method, opening in opens.items():
        right, shown, tokens = [], [], 0
        for index, other in _pairs(len(videos)):
            pair = [str(folder / videos[each]) for each in sorted((index, other))]
            session = opening(pair, frames=options.frames)
            for row in (row for row in rows if row["video"] == videos[index]):
                answer = session.ask(row["question"], max_new_tokens=1024)
                right.append(is_right(row, answer.text))
                own = [f for f in answer.frames if f.video == str(folder / videos[index])]
                shown.append(any(row["start"] <= f.time + 1e-3 < row["end"] for f in own))
                again = answer.looked_again
                tokens = max(tokens, again.tokens if again else answer.tokens.visual)
            say(f"{method}: needles {index} and {other}")
        yield {
            "method": f"needles, {method}",
            "questions": len(right),
            "right": _share(sum(right), len(right)),
            "right clip": _share(sum(shown), len(shown)),
            "share of the evidence in it": None,
            "no span in the other": None,
            "tokens": tokens,
        }


def _pairs(clips: int) -> Iterator[tuple[int, int]]:
    """Each clip that is asked about, with one that is shown beside it."""
    for index in range(clips - clips % 2):
        yield index, index ^ 1


def _alike(one: Any, other: Any) -> bool:
    return any(getattr(one, name) == getattr(other, name) for name in ("colour", "shape", "glyph"))


def _share(count: int, of: int) -> str:
    low, high = wilson_interval(count, of)
    return f"{count / of:.1%} ({low:.1%} to {high:.1%})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=40, help="of each kind")
    parser.add_argument("--seed", type=int, default=31338)
    parser.add_argument("--length", type=int, default=128, help="of needle clips, in frames")
    parser.add_argument("--frames", type=int, default=16, help="of both clips together")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
