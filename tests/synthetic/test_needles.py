"""The needle test: what its clips show, what is asked of them, and how results are laid out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crosslmm.errors import UsageError
from crosslmm.evaluation.heat_map import draw_heat_map
from crosslmm.evaluation.runner import Report, ScoredAnswer
from crosslmm.evaluation.tasks.questions import Questions, read_questions
from crosslmm.synthetic import write_needles
from crosslmm.synthetic.needles import NEEDLE_FRAMES, plan_needle
from crosslmm.video import sample
from tests.conftest import Finished

SMALL: dict[str, Any] = {"size": (64, 64), "fps": 8.0}
Run = Callable[..., Finished]


@pytest.mark.parametrize("length", [32, 101, 4096])
@pytest.mark.parametrize("depth", [0.1, 0.5, 0.9])
def test_a_needle_is_seen_in_four_frames_at_its_depth(length: int, depth: float) -> None:
    for index in range(8):
        needle = plan_needle(3, index, length, depth=depth, fps=24.0)
        seen = needle.clip.visible(np.arange(length) / length)  # (T, O)
        shown = np.flatnonzero(seen[:, -1])
        assert shown.tolist() == list(range(needle.first, needle.first + NEEDLE_FRAMES))
        assert needle.first == round(depth * (length - NEEDLE_FRAMES))
        assert seen.sum(axis=0).tolist()[2:] == [NEEDLE_FRAMES] * 3
        assert (seen[:, 2:].sum(axis=1) <= 1).all()  # they come and go at different times
        assert seen[:, :2].all()
        things = needle.clip.things
        for looks in zip(*((t.colour, t.shape, t.glyph) for t in things), strict=True):
            assert len(set(looks)) == len(things)


def test_files_with_length_and_depth_in_their_rows(tmp_path: Path) -> None:
    done: list[int] = []
    path = write_needles(tmp_path, clips=1, seed=4, lengths=(32, 48), on_clip=done.append, **SMALL)
    assert done == [1, 2]
    rows = read_questions(path)
    assert sorted(row["type"] for row in rows[:4]) == ["colour", "glyph", "shape", "when"]
    assert {(row["length"], row["depth"]) for row in rows} == {(32, 0.1), (48, 0.1)}
    for row in (rows[0], rows[-1]):
        frames = sample(tmp_path / row["video"], frames=row["length"])
        assert frames.source.frame_count == len(frames) == row["length"]
        first = round(row["start"] * 8)
        before, shown, after = (
            frames.pixels[number].astype(int) for number in (first - 1, first + 1, first + 4)
        )
        assert abs(shown - before).max() > 60 < abs(shown - after).max()
    more = read_questions(write_needles(tmp_path, clips=2, seed=4, lengths=(32, 48), **SMALL))
    assert more[: len(rows)] == rows
    assert {row["depth"] for row in more} == {0.1, 0.3}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"lengths": (31,)}, "from 32 to 4,096"),
        ({"lengths": (32, 4097)}, "from 32 to 4,096"),
        ({"lengths": (32, 32)}, "twice"),
        ({"clips": 0}, "at least 1"),
        ({"clips": 10**9}, "are free"),
        ({"codec": "nothing"}, "no encoder"),
    ],
)
def test_impossible_needles_leave_nothing_behind(
    tmp_path: Path, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        write_needles(tmp_path / "new", **{"clips": 1, "seed": 1, **SMALL} | wrong)
    assert not (tmp_path / "new").exists()


def test_a_folder_of_other_clips_is_not_mixed_with_needles(tmp_path: Path) -> None:
    write_needles(tmp_path, clips=1, seed=4, lengths=(32,), **SMALL)
    with pytest.raises(UsageError, match="`lengths`"):
        write_needles(tmp_path, clips=1, seed=4, lengths=(33,), **SMALL)


def test_the_command(run: Run, tmp_path: Path) -> None:
    command = ("synth", tmp_path / "d", "--needles", "--lengths", "32", "--clips", 1, "--fps", 8)
    done = run(*command, "--size", "64x64", "--questions", 2)
    assert (done.code, done.out) == (0, f"{tmp_path / 'd' / 'questions.jsonl'}\n")
    assert len(read_questions(Path(done.out.strip()))) == 2
    for extra, words in (
        (("--needles", "--seconds", "2-3"), "--needles and --seconds exclude each other"),
        (("--lengths", "32"), "--lengths belongs to --needles"),
    ):
        refused = run("synth", tmp_path / "e", *extra)
        assert refused.code == 2
        assert words in refused.err


def test_results_by_length_and_depth() -> None:
    def answer(length: Any, depth: Any, right: bool) -> ScoredAnswer:
        row = {"video": "v", "type": "glyph", "question": "q", "answer": "A"}
        return ScoredAnswer(row | {"length": length, "depth": depth}, "", right)

    known = [answer(512, 0.9, True), answer(32, 0.1, True), answer(512, 0.9, False)]
    summary = Report(tuple(known)).summary()
    assert summary["depths"] == [
        {"length": 32, "depth": 0.1, "accuracy": 1.0, "count": 1},
        {"length": 512, "depth": 0.9, "accuracy": 0.5, "count": 2},
    ]
    assert json.dumps(summary)
    for odd in (answer("long", 0.1, True), answer(True, 0.1, True), answer(32, 2.0, True)):
        assert "depths" not in Report((*known, odd)).summary()


def test_eval_shows_a_map_of_length_and_depth(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Questions, "max_new_tokens", 1)
    path = write_needles(tmp_path, clips=2, seed=4, lengths=(32,), questions_per_clip=1, **SMALL)
    plot = tmp_path / "map.png"
    shown = run("eval", path, "--model", checkpoint, "--frames", 2, "--plot", plot)
    with Image.open(plot) as image:
        assert image.format == "PNG"
    assert f"wrote {plot}" in shown.err
    *_, head, line = shown.out.splitlines()
    assert head.split() == ["frames", "at", "10%", "at", "30%", "all"]
    assert line.split() == ["32", "0%", "0%", "0.0%"]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--plot", "map.gif"), "--plot needs a file ending in .png, .svg, .pdf"),
        (("--plot", "map.png"), "--plot is for the needle test"),
        (("--plot", "map.png", "--merge", "area,folder", "--keep", "50%"), "--plot is for"),
    ],
)
def test_a_map_is_of_needles(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: tuple, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"video": "v.mp4", "type": "glyph", "question": "q", "answer": "A"}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    done = run("eval", "q.jsonl", "--model", "demo", *extra)
    assert done.code == 2
    assert words in done.err
    assert not list(tmp_path.glob("map.*"))


def test_a_map_of_many_lengths_stays_small(tmp_path: Path) -> None:
    row = {"video": "v", "type": "glyph", "question": "q", "answer": "A"}
    rows = [row | {"length": n, "depth": n / 200} for n in range(200)]
    report = Report(tuple(ScoredAnswer(each, "", True) for each in rows))
    draw_heat_map(tmp_path / "map.png", report, title="many")
    with Image.open(tmp_path / "map.png") as image:
        assert max(image.size) <= 18 * 130
