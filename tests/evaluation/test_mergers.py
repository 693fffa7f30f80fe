"""The merge table: every method at every budget, on the same questions."""

import json
from pathlib import Path

import pytest

from crosslmm.evaluation.mergers import wilson_interval
from crosslmm.evaluation.tasks.questions import Questions


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    (folder / "clip.mp4").write_bytes(clip.read_bytes())
    row = {"video": "clip.mp4", "type": "yes_no", "question": "is it?", "answer": "yes"}
    rows = [row, {**row, "question": "was it?"}, {**row, "video": "gone.mp4"}]
    (folder / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    (folder / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Questions, "max_new_tokens", 2)


def test_a_row_for_each_method_and_budget(run, questions: Path, checkpoint: Path) -> None:
    line = ("eval", questions / "good.jsonl", "-m", checkpoint, "--frames", 5)
    done = run(*line, "--merge", "folder,random", "--tokens-per-frame", "1,3", "--json")
    assert done.code == 0, done.err
    rows = [json.loads(each) for each in done.out.splitlines()]
    assert [(row["merge"], row["tokens_per_frame"], row["kept_tokens"]) for row in rows] == [
        (None, 4, 20),
        ("folder", 1, 5),
        ("random", 1, 5),
        ("folder", 3, 15),
        ("random", 3, 15),
    ]
    assert all(row["count"] == 2 and row["encode_seconds"] > 0 for row in rows)
    assert all(row["interval"][0] <= row["accuracy"] <= row["interval"][1] for row in rows)


def test_budgets_may_be_shares(run, questions: Path, checkpoint: Path) -> None:
    line = ("eval", questions / "good.jsonl", "-m", checkpoint, "--frames", 5)
    done = run(*line, "--merge", "folder", "--keep", "50%,7")
    assert done.code == 0, done.err
    heading, *lines = done.out.splitlines()
    assert heading.split() == [
        "merge",
        "budget",
        "accuracy",
        "95",
        "%",
        "tokens",
        "encode,",
        "s",
        "prefill,",
        "s",
    ]
    assert [line.split()[:2] for line in lines] == [
        ["none", "4"],
        ["folder", "50%"],
        ["folder", "7"],
    ]
    assert [line.split()[-3] for line in lines] == ["20", "10", "7"]


def test_numbers_of_tokens_alone_make_a_table_too(run, questions: Path, checkpoint: Path) -> None:
    line = ("eval", questions / "good.jsonl", "-m", checkpoint, "--tokens-per-frame", "1,4")
    done = run(*line, "--json")
    rows = [json.loads(each) for each in done.out.splitlines()]
    assert [(row["merge"], row["tokens_per_frame"]) for row in rows] == [
        (None, 4),
        (None, 1),
        (None, 4),
    ]


def test_a_video_that_fails_is_said(run, questions: Path, checkpoint: Path) -> None:
    line = ("eval", questions / "bad.jsonl", "-m", checkpoint, "--merge", "random", "--keep", "50%")
    done = run(*line)
    assert done.code == 3
    assert "gone.mp4: no such file" in done.err
    assert len(done.out.splitlines()) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("--merge", "foldr", "--keep", "10%"), "did you mean folder"),
        (("--keep", "10%"), "--keep needs --merge"),
        (("--merge", "folder", "--keep", "10%", "--tokens-per-frame", "1"), "exclude each other"),
        (("--merge", "folder", "--keep", "10%", "--answers", "a.jsonl"), "--answers needs one way"),
        (("--tokens-per-frame", "1,7"), "7 is not a perfect square"),
    ],
)
def test_wrong_usage(
    run,
    questions: Path,
    checkpoint: Path,
    line: tuple[str, ...],
    message: str,
    tmp_path,
    monkeypatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("eval", questions / "good.jsonl", "-m", checkpoint, *line)
    assert done.code == 2
    assert message in " ".join(done.err.split())


def test_wilson_interval() -> None:
    low, high = wilson_interval(90, 100)  # by hand: (0.9 + 1.92 / 100 ± …) / 1.0384
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(10, 10)[1] == 1.0
