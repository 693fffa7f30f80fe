"""Whether looking again pays: the needle test by one uniform pass and by zooming, at the same tokens.

    python -m benchmarks.needles --clips 10 --seed 90901
    python -m benchmarks.needles --ordinary --clips 10 --seed 36500318 --methods uniform zoom few
    python -m benchmarks.needles --questions clips/questions.jsonl --frames 8 --methods uniform codec

The built-in model, greedy, on clips of several lengths. `uniform` is one pass over `--frames` frames,
`codec` one over as many that `--sampler codec` chooses; `zoom` skims and looks again within as many
tokens, `zoom, codec` skims frames of that sampler;
`uniform, all frames` is one pass over as many frames as the skim has, at full tokens: what the second
look saves; `few` is one over as many frames as the second look has. With `--ordinary` the questions are
those about ordinary clips of 2 to 60 seconds; with `--questions` those of a file of `crosslmm synth`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.record import Record, say, table
from crosslmm.evaluation.mergers import wilson_interval
from crosslmm.evaluation.scoring import is_right
from crosslmm.evaluation.tasks.questions import read_questions
from crosslmm.inference.answer import Answer
from crosslmm.synthetic import write_needles
from crosslmm.synthetic.clips import write_clips

METHODS = ("uniform", "codec", "zoom", "zoom, codec", "few", "uniform, all frames")


@dataclass(frozen=True)
class Asked:
    """One answer. seconds: of the processor, for opening the video too where it is the first about it;
    shown: whether any frame that it rests on shows the needle."""

    method: str
    length: int
    type: str
    right: bool
    shown: bool
    tokens: int
    first: bool
    seconds: float


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="crosslmm-benchmark-") as scratch:
        folder = options.folder or Path(scratch)
        if options.questions:
            path = options.questions
        elif options.ordinary:
            path = write_clips(
                folder,
                clips=options.clips,
                seed=options.seed,
                seconds=(2.0, 60.0),
                fps=12.0,
                questions_per_clip=8,
            )
        else:
            path = write_needles(
                folder, clips=options.clips, seed=options.seed, lengths=options.lengths
            )
        asked = list(_measure(path.parent, read_questions(path), options))
    rows = list(summarize(asked))
    settings = {
        name: getattr(options, name)
        for name in ("model", "clips", "seed", "lengths", "frames", "ordinary")
    }
    kind = "ordinary" if options.ordinary else "needles"
    name = f"{kind}_{Path(options.model).name}_{options.seed}"
    if options.questions:
        settings |= {"questions": str(path), "clips": None, "seed": None}
        name = f"questions_{Path(options.model).name}_{path.parent.name}"
    record = Record(name, settings, rows)
    print(table(rows))
    say(f"wrote {record.write(options.out)}")


def _measure(folder: Path, rows: list[Any], options: argparse.Namespace) -> Iterator[Asked]:
    import crosslmm
    from crosslmm.inference.zoom import ZoomBudget

    assistant = crosslmm.load(options.model, device="cpu", dtype="float32")
    parts = ZoomBudget.of(options.frames, assistant.tokens_per_frame)
    opens: dict[str, Callable[[Path], Any]] = {
        "uniform": lambda video: assistant.open_video(video, frames=options.frames),
        "codec": lambda video: assistant.open_video(video, frames=options.frames, sampler="codec"),
        "zoom": lambda video: assistant.open_zoomed(video, frames=options.frames),
        "few": lambda video: assistant.open_video(video, frames=parts.look),
        "uniform, all frames": lambda video: assistant.open_video(video, frames=parts.skim),
        "zoom, codec": lambda video: assistant.open_zoomed(
            video, frames=options.frames, sampler="codec"
        ),
    }
    videos = list(dict.fromkeys(row["video"] for row in rows))
    for number, video in enumerate(videos):
        for method in options.methods:
            began = time.process_time()
            session = opens[method](folder / video)
            for turn, row in enumerate(row for row in rows if row["video"] == video):
                answer = session.ask(row["question"], max_new_tokens=1024)
                ended = time.process_time()
                yield _asked(method, row, answer, turn == 0, ended - began)
                began = time.process_time()
        say(f"{number + 1} of {len(videos)} clips")


def _asked(method: str, row: Any, answer: Answer, first: bool, seconds: float) -> Asked:
    again = answer.looked_again
    start, end = (row.get(edge, 0.0) for edge in ("start", "end"))
    shown = any(start - 1e-3 <= frame.time < end - 1e-3 for frame in answer.frames)
    tokens = answer.tokens.visual if again is None else again.tokens
    right = is_right(row, answer.text)
    return Asked(method, row.get("length", 0), row["type"], right, shown, tokens, first, seconds)


def summarize(asked: list[Asked]) -> Iterator[dict[str, Any]]:
    """A row for each length and method."""
    for length in sorted({each.length for each in asked}):
        for method in dict.fromkeys(each.method for each in asked):
            group = [each for each in asked if (each.length, each.method) == (length, method)]
            if not group:
                continue
            right = sum(each.right for each in group)
            low, high = wilson_interval(right, len(group))
            later = [each.seconds for each in group if not each.first]
            yield {
                "frames of the clip": length,
                "method": method,
                "questions": len(group),
                "right": f"{right / len(group):.1%} ({low:.1%} to {high:.1%})",
                "without when": _share([each for each in group if each.type != "when"], "right"),
                "needle in a frame": _share(group, "shown"),
                "tokens": max(each.tokens for each in group),
                "first question, s": round(fmean(e.seconds for e in group if e.first), 2),
                "next, s": round(fmean(later), 2) if later else None,
            }


def _share(group: list[Asked], name: str) -> str | None:
    return f"{fmean(getattr(each, name) for each in group):.1%}" if group else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clips", type=int, default=10, help="of each length")
    parser.add_argument("--seed", type=int, default=90901)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--frames", type=int, default=16, help="of the uniform pass")
    parser.add_argument("--ordinary", action="store_true")
    parser.add_argument("--questions", type=Path, help="in place of clips that are made")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--folder", type=Path, help="keep the clips here")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
