"""Data for `train` and `eval` that somebody else wrote: faults are said in words, before any work."""

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from crosslmm.errors import UsageError
from crosslmm.evaluation.tasks.questions import read_questions
from crosslmm.synthetic.questions import QUESTION_TYPES
from crosslmm.training.records import Records, choose

STRANGE: list[Any] = [
    *(None, True, -1, 10**400, 1e308, float("nan"), float("inf"), "", "\ud800", "a\0b"),
    *("x" * 5000, [], [[]], ["x"], {}, {"a": [1]}, "../../etc/passwd"),
]
RECORD = {
    "video": "a.mp4",
    "start": 0,
    "end": 1,
    "conversations": [{"from": "human", "value": "<video>q"}, {"from": "gpt", "value": "a"}],
}
ROW = {"video": "a.mp4", "question": "q", "answer": "1", "tolerance": 1, "options": ["a", "b"]}


def read(path: Path, content: str) -> None:
    """Its records, or an error in words."""
    path.write_text(content, "utf-8")
    with suppress(UsageError):
        list(Records(path))


@pytest.mark.parametrize("key", [*RECORD, "image", "messages"])
def test_records_for_training(tmp_path: Path, key: str) -> None:
    for value in STRANGE:
        read(tmp_path / "a.json", json.dumps([RECORD | {key: value}, value]))


@pytest.mark.parametrize("key", ["from", "value", "role", "content"])
def test_turns(tmp_path: Path, key: str) -> None:
    question, answer = RECORD["conversations"]  # type: ignore[misc]
    for value in STRANGE:
        record = RECORD | {"conversations": [question | {key: value}, answer]}
        read(tmp_path / "a.jsonl", json.dumps(record))


@pytest.mark.parametrize("key", ["json_path", "sampling_strategy", "media_folder", "datasets", 3])
def test_mixes(tmp_path: Path, key: Any) -> None:
    (tmp_path / "ok.json").write_text(json.dumps([RECORD]))
    for value in STRANGE:
        entry = {"json_path": "ok.json", key: value}
        mix = {key: value} if key == "datasets" else {"datasets": [entry]}
        read(tmp_path / "mix.yaml", json.dumps(mix))
    read(tmp_path / "mix.yaml", "datasets: [{json_path: ok.json, media_folder: 2020-01-01}]")
    read(tmp_path / "mix.yaml", "datasets: [{json_path: ok.json, 1: 2, a: 3}]")


def test_a_number_of_many_digits() -> None:
    assert choose(3, "random:" + "9" * 400, random.Random(0)) == [0, 1, 2]
    assert choose(3, "first:" + "9" * 400 + "%", random.Random(0)) == [0, 1, 2]


def test_a_pattern_of_a_billion_files(tmp_path: Path) -> None:
    """All of them the same one."""
    (tmp_path / "a.json").write_text(json.dumps([RECORD]))
    path = "{/,/}" * 30 + "a.json"
    (tmp_path / "mix.yaml").write_text(f"datasets: [{{json_path: '.{path}'}}]")
    with pytest.raises(UsageError, match="names 1,073,741,824 files; give at most 10,000"):
        Records(tmp_path / "mix.yaml")


def test_a_file_that_is_named_often_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text(json.dumps([RECORD]))
    (tmp_path / "mix.yaml").write_text("datasets:\n" + "- {json_path: a.json}\n" * 50)
    reads: list[Path] = []

    def read_once(path: Path, **_: Any) -> Any:
        reads.append(path)
        return json.loads(path.read_text())

    monkeypatch.setattr("crosslmm.training.records.read_json", read_once)
    assert len(Records(tmp_path / "mix.yaml")) == 50
    assert reads == [tmp_path / "a.json"]


def test_a_mix_of_many_megabytes(tmp_path: Path) -> None:
    """YAML is slow: it took a quarter of an hour for what a file may have otherwise."""
    (tmp_path / "mix.yaml").write_text("datasets: [" + "{json_path: a.json}," * 60_000 + "]")
    with pytest.raises(UsageError, match="a mix of data is YAML"):
        Records(tmp_path / "mix.yaml")


@pytest.mark.parametrize("kind", QUESTION_TYPES)
def test_questions_of_a_benchmark(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "questions.jsonl"
    for key in (*ROW, "type"):
        for value in STRANGE:
            path.write_text(json.dumps(ROW | {"type": kind, key: value}), "utf-8")
            with suppress(UsageError):
                read_questions(path)
