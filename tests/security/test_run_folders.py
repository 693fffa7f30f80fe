"""The folder of a run, damaged or planted: what `train` reads back is bounded, and named where it is not
its own."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import nn

from crosslmm.demo.stage import StageOptions, run_stage
from crosslmm.errors import CheckpointError
from crosslmm.files import read_lines
from crosslmm.training import answers, trainer
from crosslmm.training.answers import read_answers
from crosslmm.training.checkpoints import explain_unsaved, find_resume_point
from crosslmm.training.lora import save_adapter
from crosslmm.training.trainer import read_skipped


@pytest.fixture
def short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (answers, trainer):
        monkeypatch.setattr(module, "read_lines", functools.partial(read_lines, longest=200))


@pytest.mark.usefixtures("short_lines")
def test_lines_of_answers_and_of_skipped_samples_are_bounded(tmp_path: Path) -> None:
    answered = [{"video": name, "prompt": "What?", "answer": "A dog."} for name in "abc"]
    answered[1]["answer"] *= 100
    path = tmp_path / "answers-0.jsonl"
    path.write_text("\n".join(map(json.dumps, answered)))
    assert list(read_answers(path)) == [("a", "What?")]
    skipped = [{"origin": name, "reason": "dark"} for name in "abc"]
    skipped[1]["reason"] *= 100
    path.write_text("\n".join(map(json.dumps, skipped)))
    assert read_skipped(path) == {"a": "dark"}


def test_skipped_samples_are_bounded_and_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "skipped.jsonl"
    assert read_skipped(path) == {}
    path.write_text('{"origin": "a", "reason": "b"}\n' * 10)
    monkeypatch.setattr(trainer, "MAX_LIST_BYTES", 100)
    with pytest.raises(CheckpointError, match=r"skipped\.jsonl: longer than 100 bytes"):
        read_skipped(path)
    (tmp_path / "link.jsonl").symlink_to(path)
    with pytest.raises(OSError, match="a link"):
        read_skipped(tmp_path / "link.jsonl")


@pytest.mark.parametrize("before", [False, True])
def test_an_adapter_is_written_as_a_whole_or_not(tmp_path: Path, before: bool) -> None:
    class Killed:
        def save_pretrained(self, folder: Path) -> None:
            (folder / "adapter_config.json").write_text("{}")
            raise KeyboardInterrupt

    folder = tmp_path / "adapter"
    if before:
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_text("earlier")
    with pytest.raises(KeyboardInterrupt):
        save_adapter(Killed(), folder)
    left = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))]
    assert left == (["adapter", "adapter/adapter_model.safetensors"] if before else [])


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (x @ self.weight).square().mean()}


class Numbers:
    def at(self, number: int) -> dict[str, Any]:
        return {"x": torch.ones(2, 4) * number}


def run(folder: Path) -> list[dict[str, float]]:
    return run_stage(Line(), Numbers(), StageOptions(steps=1, warmup_steps=0), folder=folder)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    save_model(Line(), str(folder / "model.safetensors"))
    (folder / "trainer_state.json").write_text('{"global_step": 1, "log_history": [{"loss": 0.5}]}')
    return folder


def test_a_finished_stage_is_loaded(finished: Path) -> None:
    assert run(finished.parent) == [{"loss": 0.5}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0", r"checkpoint-1: is damaged \(.*\); move"),
        ("trainer_state.json", b'{"global_step": 1, "log_hi', r"trainer_state\.json: cannot be"),
        ("trainer_state.json", b"[" * 200_000, r"trainer_state\.json: cannot be read \(nested"),
    ],
)
def test_a_damaged_checkpoint_of_the_demo_is_named(
    finished: Path, name: str, content: bytes, words: str
) -> None:
    (finished / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        run(finished.parent)


def test_what_stands_in_the_way_of_checkpoints_is_named_before_training(tmp_path: Path) -> None:
    (tmp_path / ".partial").write_text("mine")
    with pytest.raises(CheckpointError, match=r"\.partial: in the way of a folder .*move it away"):
        run(tmp_path)
    assert (tmp_path / ".partial").read_text() == "mine"
    (tmp_path / ".partial").unlink()
    (tmp_path / ".partial").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(CheckpointError, match="in the way"):
        find_resume_point(tmp_path)


def test_room_is_asked_for_where_the_disk_is_full_alone(tmp_path: Path) -> None:
    for error, advice in (
        (PermissionError(13, "Permission denied", "x"), "once that is put right, start again"),
        (OSError(28, "No space left on device", "x"), "make room and start again"),
        (SafetensorError("I/O error: no space (os error 28)"), "make room and start again"),
        (SafetensorError("I/O error: no file (os error 2)"), "once that is put right, start again"),
        (RuntimeError("Parent directory x does not exist."), "once that is put right, start again"),
        (RuntimeError("[enforce fail at inline_container.cc]"), "make room and start again"),
    ):
        with pytest.raises(CheckpointError, match=advice), explain_unsaved(tmp_path):
            raise error
