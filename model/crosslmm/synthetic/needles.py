"""The needle test: clips of many lengths, each with one short event that its questions are about.

For four frames something appears, then it is gone: what a pass over few frames misses. Two others come
and go at other times, so that a model which finds something short but not the right thing fails, and
two are there all the time. All five differ in colour, shape and glyph.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from crosslmm.errors import UsageError
from crosslmm.files import gigabytes
from crosslmm.synthetic.clips import question_row, write_video
from crosslmm.synthetic.folder import begin_folder, write_questions
from crosslmm.synthetic.phrasing import HELD_OUT, QUESTIONS, describe_event, name_thing
from crosslmm.synthetic.questions import Question, QuestionType
from crosslmm.synthetic.scenes import Event, SyntheticClip, Thing, Trajectory
from crosslmm.synthetic.seeds import derive_seed
from crosslmm.synthetic.vocabulary import COLOUR_NAMES, GLYPHS, SHAPES, SIZES

NEEDLE_FRAMES = 4
"""For so long it is seen: in the shortest clip, of 32, eight frames show it."""

DEPTHS = 5
"""Fifths of a clip, in the middle of which needles begin, by turns."""

LENGTHS = (32, 128, 512)
_SHORTEST, _LONGEST = 32, 4096
_APART = 4  # frames, at least, between two things that come and go
_LANES = (0.17, 0.5, 0.83)
_BYTES_PER_PIXEL = 0.05  # of the files, at most; H.264 takes a tenth of it


@dataclass(frozen=True)
class Needle:
    """A clip of `length` frames whose last thing is shown from frame `first` on; depth: 0 to 1."""

    clip: SyntheticClip
    length: int
    first: int
    depth: float

    @property
    def thing(self) -> Thing:
        return self.clip.things[-1]


def write_needles(
    folder: Path,
    *,
    clips: int,
    seed: int,
    lengths: Sequence[int] = LENGTHS,
    size: tuple[int, int] = (256, 256),
    fps: float = 24.0,
    codec: str = "libx264",
    questions_per_clip: int = 4,
    on_clip: Callable[[int], None] | None = None,
) -> Path:
    """Write `clips` mp4s of each length, in frames, and `questions.jsonl`; returns the latter's path.

    Its rows also have `length`, `depth`, and the seconds `start` and `end` between which the needle is
    seen. The rest is as for `write_clips`.
    """
    if clips < 1:
        raise UsageError(f"{clips} clips were asked for: at least 1 is needed")
    if not lengths or min(lengths) < _SHORTEST or max(lengths) > _LONGEST:
        raise UsageError(f"`lengths` must be from {_SHORTEST} to {_LONGEST:,} frames")
    if len(set(lengths)) < len(lengths):
        raise UsageError("`lengths` holds a number twice")
    count = clips * len(lengths)
    settings = {"lengths": list(lengths), "size": list(size), "fps": fps, "codec": codec}
    _check_disk(folder, int(clips * sum(lengths) * size[0] * size[1] * _BYTES_PER_PIXEL))
    begin_folder(folder, settings, seed=seed, clips=count, questions_per_clip=questions_per_clip)
    rows: list[dict[str, Any]] = []
    for index in range(count):
        turn, length = index // len(lengths), lengths[index % len(lengths)]
        depth = (turn % DEPTHS + 0.5) / DEPTHS
        needle = plan_needle(seed, index, length, depth=depth, fps=fps, aspect=size[0] / size[1])
        name = f"needle-{seed}-{index:05d}.mp4"
        if not (folder / name).exists():
            write_video(needle.clip, folder / name, size=size, fps=fps, codec=codec)
        where = {
            "length": length,
            "depth": depth,
            "start": round(needle.first / fps, 3),
            "end": round((needle.first + NEEDLE_FRAMES) / fps, 3),
        }
        asked = needle_questions(needle, seed, index, fps=fps)[:questions_per_clip]
        rows += [
            question_row(q, f"{seed}-{index:05d}-{i}", name) | where for i, q in enumerate(asked)
        ]
        if on_clip is not None:
            on_clip(index + 1)
    return write_questions(folder, rows)


def plan_needle(
    seed: int, index: int, length: int, *, depth: float, fps: float, aspect: float = 1.0
) -> Needle:
    """The `index`-th clip of a seed, whose needle begins at `depth` of the `length` frames."""
    rng = np.random.default_rng(derive_seed("eval", "needle", seed, index, length))
    looks = [rng.permutation([*names])[:5].tolist() for names in (COLOUR_NAMES, SHAPES, GLYPHS)]
    lanes = rng.permutation(len(_LANES))
    first = round(depth * (length - NEEDLE_FRAMES))

    def thing(number: int, motion: str, path: Trajectory) -> Thing:
        colour, shape, glyph = (kind[number] for kind in looks)
        size = ("small", "large")[rng.integers(2)]
        return Thing(colour, shape, size, glyph, motion, path, (SIZES[size],) * 2)

    def resting(number: int, lane: int) -> Thing:
        motion, step = [("still", 0.0), ("left", -0.5), ("right", 0.5)][rng.integers(3)]
        x = rng.uniform(max(0.2, 0.2 - step), min(0.8, 0.8 - step))
        return thing(number, motion, Trajectory(float(x), _LANES[lane], step))

    def passing(number: int, start: int) -> Thing:
        path = Trajectory(float(rng.uniform(0.2, 0.8)), _LANES[lanes[2]])
        # Half a frame early, for the times of frames are fractions that need not be exact.
        seen = [(frame - 0.5) / length for frame in (start, start + NEEDLE_FRAMES)]
        return replace(thing(number, "still", path), seen_from=seen[0], seen_until=seen[1])

    starts = [first, first, first]
    while min(abs(a - b) for a, b in combinations(starts, 2)) < NEEDLE_FRAMES + _APART:
        starts[1:] = rng.integers(1, length - NEEDLE_FRAMES, 2).tolist()
    things = (
        *(resting(number, int(lanes[number])) for number in range(2)),
        *(passing(number, starts[number - 1]) for number in (2, 3)),
        passing(4, first),
    )
    clip = SyntheticClip(
        things, (), (), length / fps, aspect, derive_seed("eval", "style", seed, index) % 2**31
    )
    return Needle(clip, length, first, depth)


def needle_questions(needle: Needle, seed: int, index: int, *, fps: float) -> list[Question]:
    """One of each type, in an order that changes from clip to clip."""
    rng = np.random.default_rng(derive_seed("eval", "needle questions", seed, index))
    thing, clip = needle.thing, needle.clip
    event = Event("appears", 0.0, len(clip.things) - 1)
    seconds = needle.first / fps
    appears = describe_event(clip, event).text
    happen = describe_event(clip, event, infinitive=True).text
    marked = f"the object marked {thing.glyph}"

    def ask(
        kind: QuestionType, answer: str, tolerance: float | None = None, **slots: str
    ) -> Question:
        wordings = QUESTIONS[kind][:-HELD_OUT]
        text = wordings[rng.integers(len(wordings))].format(**slots)
        text = text[0].upper() + text[1:]
        return Question(kind, text, answer, answer, tolerance=tolerance)

    lasts = round((NEEDLE_FRAMES + 1) / fps, 3)
    asked = [
        ask("glyph", str(thing.glyph), thing=name_thing(thing)),
        ask("colour", thing.colour, thing=marked),
        ask("shape", thing.shape, thing=marked),
        ask("when", f"at {seconds:.2f} seconds", lasts, event=appears, happen=happen),
    ]
    return [asked[number] for number in rng.permutation(len(asked))]


def _check_disk(folder: Path, size: int) -> None:
    """Raises UsageError where files of so many bytes may not fit."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise UsageError(
            f"{folder}: the clips may take {gigabytes(size)} and {gigabytes(free)} are free; "
            "ask for fewer `clips`, shorter `lengths` or a smaller `size`"
        )
