"""`crosslmm eval`: what it accepts, what it reports, and that finished work is kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crosslmm.errors import UsageError
from crosslmm.evaluation.tasks import TASKS, QuestionRow, get_task
from crosslmm.evaluation.tasks.questions import Questions, read_questions
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from tests.conftest import Finished

Run = Callable[..., Finished]  # the fixture `run`


def row(**changes: Any) -> dict[str, Any]:
    return {
        "video": "clip.mp4",
        "type": "size",
        "question": "How large?",
        "answer": "small",
    } | changes


def write_questions(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path, clip: Path) -> Path:
    """A folder with one video that can be read and one that cannot."""
    (tmp_path / "clip.mp4").symlink_to(clip)
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    return tmp_path


@pytest.mark.parametrize(
    ("faulty", "words"),
    [
        (row(question=" "), "question ' ' is empty or no text"),
        (row(question=7), "question 7 is empty or no text"),
        (row(question="\ud800"), "not valid Unicode"),
        (row(video=None), "video None is empty or no text"),
        (row(answer=""), "answer '' is empty"),
        (row(answer=["small"]), "is empty or no text"),
        (row(type="multiple_choice", answer="red", options=["red", "blue"]), "cannot be scored"),
        (row(type="multiple_choice", answer="C", options=["red", "blue"]), "cannot be scored"),
        (row(type="when", answer="at noon", tolerance=0.5), "'at noon' cannot be scored as when"),
        (row(type="when", answer="at 2.0 seconds", tolerance="wide"), "tolerance 'wide' is not"),
    ],
)
def test_a_row_that_would_fail_later_is_named_at_once(
    tmp_path: Path, faulty: dict[str, Any], words: str
) -> None:
    path = write_questions(tmp_path / "q.jsonl", row(), faulty)
    with pytest.raises(UsageError, match="line 2: ") as caught:
        read_questions(path)
    assert words in str(caught.value)


def test_separators_of_lines_may_stand_within_a_row(tmp_path: Path) -> None:
    rows = [row(question="one\u2028two"), row(question="one\x85two")]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path = tmp_path / "q.jsonl"
    path.write_bytes("\r\n".join(lines).encode())
    assert read_questions(path) == rows


@pytest.mark.parametrize(
    ("answers", "words"), [("results/a.jsonl", "no folder"), (".", "a folder")]
)
def test_where_answers_cannot_go_is_said_first(
    run: Run, home: Path, folder: Path, answers: str, words: str
) -> None:
    questions = write_questions(folder / "q.jsonl", row())
    done = run("eval", questions, "--model", "no/model", "--answers", folder / answers)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_the_table_is_there_even_where_the_answers_fail(
    run: Run, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crosslmm.evaluation.runner.atomic_write", full)
    monkeypatch.setattr(Questions, "max_new_tokens", 2)
    questions = write_questions(folder / "q.jsonl", row())
    done = run("eval", questions, "-m", checkpoint, "-n", 2, "--answers", folder / "a.jsonl")
    assert done.code == 1
    assert "No space left" in done.err
    assert "size" in done.out


def test_json_tells_failures_from_wrong_answers(
    run: Run, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Questions, "max_new_tokens", 2)
    questions = write_questions(folder / "q.jsonl", row(), row(video="broken.mp4"))
    done = run("eval", questions, "-m", checkpoint, "-n", 2, "--json")
    assert done.code == 3
    summary = json.loads(done.out)
    assert summary["count"] == 2
    assert summary["failures"]["count"] == 1
    assert set(summary["failures"]["reasons"]) == {"broken.mp4"}
    assert summary["model"] == str(checkpoint)
    assert summary["settings"]["frames"] == 2
    assert "torch" in summary["versions"]


def test_the_tokens_per_frame_can_be_chosen(
    run: Run, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Questions, "max_new_tokens", 2)
    questions = write_questions(folder / "q.jsonl", row())
    options = ("-m", checkpoint, "-n", 2, "--json", "--tokens-per-frame")
    done = run("eval", questions, *options, 1)
    assert json.loads(done.out)["settings"]["tokens_per_frame"] == 1
    refused = run("eval", questions, *options, 5)
    assert refused.code == 2
    assert "--tokens-per-frame 5 is not a perfect square" in refused.err


def test_questions_too_many_for_the_memory_are_asked_in_halves(
    run: Run, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, batches = CrossLMMForConditionalGeneration.generate, []

    def small(
        self: CrossLMMForConditionalGeneration, *, input_ids: torch.Tensor, **rest: Any
    ) -> Any:
        batches.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("pretended: CUDA out of memory")
        return generate(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(Questions, "max_new_tokens", 4)
    rows = [row(question=f"How large is it? {number}") for number in range(5)]
    questions = write_questions(folder / "q.jsonl", *rows)
    told, answers = [], folder / "a.jsonl"
    for _ in range(2):
        done = run("eval", questions, "-m", checkpoint, "-n", 2, "--answers", answers)
        assert done.code == 0, done.err
        told.append([json.loads(line) for line in answers.read_text().splitlines()])
        monkeypatch.setattr(CrossLMMForConditionalGeneration, "generate", small)
    assert told[0] == told[1]
    assert batches == [5, 2, 3, 1, 2]


def test_tasks_are_found_by_name() -> None:
    task = get_task("questions")
    assert (task.name, task.max_new_tokens) == ("questions", 1024)
    assert task.score(row(), "It is small.")
    assert not task.score(row(), "It is large.")
    with pytest.raises(UsageError, match="riddles: not a task; give one of questions"):
        get_task("riddles")


class Always:
    """A benchmark whose file is a bare question per line, and that any answer satisfies."""

    name = "always"
    max_new_tokens = 3

    def read(self, path: Path) -> list[QuestionRow]:
        lines = path.read_text("utf-8").splitlines()
        return [{"video": "clip.mp4", "type": "bare", "question": line} for line in lines]

    def score(self, row: QuestionRow, said: str) -> bool:
        return True


def test_a_registered_benchmark_is_read_and_scored_by_its_own_rules(
    run: Run, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "always", Always())
    questions = folder / "bare.txt"
    questions.write_text("What?\nWhere?\n")
    finished = run("eval", questions, "--task", "always", "--model", checkpoint, "--json")
    assert finished.code == 0, finished.err
    report = json.loads(finished.out)
    assert (report["task"], report["count"], report["accuracy"]) == ("always", 2, 1.0)
    assert list(report["types"]) == ["bare"]


def test_an_unknown_benchmark_is_refused_with_the_known_ones(run: Run, folder: Path) -> None:
    questions = write_questions(folder / "q.jsonl", row())
    finished = run("eval", questions, "--task", "mvbench")
    assert finished.code == 2
    assert "mvbench: not a task; give one of questions" in finished.err
