"""Our own records, damaged: a line that names the file and what to do, and nothing lost."""

import json
import math
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from crosslmm.checkpoints.loading import save_checkpoint
from crosslmm.errors import CheckpointError, CrossLMMError, UsageError
from crosslmm.evaluation.tasks.questions import read_questions
from crosslmm.training.checkpoints import TrainingDiverged, latest_checkpoint, list_checkpoints
from crosslmm.training.recipe import Recipe, load_recipe
from crosslmm.training.records import Records
from crosslmm.training.run import train
from crosslmm.training.trainer import CrossLMMTrainer, read_skipped
from crosslmm.video import sample
from tests.conftest import Finished
from tests.support.clips import write_clip
from tests.support.flushed import record_flushes
from tests.support.lessons import write_lessons
from tests.support.tiny import tiny_model, tiny_processor

Run = Callable[..., Finished]  # the fixture `run`
DEEP = "[" * 200_000


def run_training(checkpoint: Path, data: Path, out: Path, steps: int = 4) -> Any:
    recipe = Recipe(
        stage="tune", learning_rate=1e-3, frames=2, batch_size=2, device_batch_size=2, steps=steps,
        log_every=1, save_every=2, workers=0, precision="fp32", gradient_checkpointing=False,
    )  # fmt: skip
    return train(recipe, model=checkpoint, data=data, out=out)


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lessons(tmp_path_factory.mktemp("lessons"))


@pytest.fixture(scope="module")
def trained(checkpoint: Path, lessons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    run_training(checkpoint, lessons, out)
    shutil.rmtree(out / "model")
    return out


@pytest.fixture
def stopped(trained: Path, tmp_path: Path) -> Path:
    """A run that can be resumed."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


HALF = '{"recipe": {"stage": "tu'


@pytest.mark.parametrize(
    "text", ["", HALF, DEEP, "[]", "{}", '{"recipe": 3, "model": 1}', "\udc80"]
)
def test_a_damaged_run_file_is_named(
    checkpoint: Path, lessons: Path, stopped: Path, text: str
) -> None:
    (stopped / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=r"run\.json: cannot be read .*restore it"):
        run_training(checkpoint, lessons, stopped)
    assert len(list_checkpoints(stopped)) == 2, "nothing lost"


@pytest.mark.parametrize(
    "text", ["", '{"global_step": 4, "log_', DEEP, "[]", '{"global_step": 4}',
             '{"global_step": 4, "log_history": [{"loss": NaN}]}',
             '{"global_step": 4, "log_history": [3]}'],
)  # fmt: skip
def test_a_damaged_state_is_named_and_the_one_before_resumes(
    checkpoint: Path, lessons: Path, stopped: Path, text: str
) -> None:
    last = latest_checkpoint(stopped)
    assert last is not None
    (last / "trainer_state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"trainer_state\.json.*move checkpoint-4 away"):
        run_training(checkpoint, lessons, stopped)
    assert last.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="folders are not flushed on Windows")
def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    checkpoint: Path, lessons: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(stopped / "checkpoint-4")
    seen = record_flushes(monkeypatch)
    run_training(checkpoint, lessons, stopped)
    named = seen.index(("name", "checkpoint-4"))
    flushed = {what for kind, what in seen[:named] if kind == "flush"}
    written = stopped / "checkpoint-4"
    assert flushed >= {path.stat().st_ino for path in (written, *written.iterdir())}
    assert seen[named + 1] == ("flush", stopped.stat().st_ino)


def test_once_the_damaged_checkpoint_is_moved_the_run_resumes(
    checkpoint: Path, lessons: Path, stopped: Path, tmp_path: Path
) -> None:
    last = latest_checkpoint(stopped)
    assert last is not None
    shutil.move(last, tmp_path / "moved")
    assert run_training(checkpoint, lessons, stopped).steps == 4


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt"]
)
def test_a_damaged_file_of_a_checkpoint_is_told_and_never_loaded_as_a_pickle(
    checkpoint: Path, lessons: Path, stopped: Path, name: str
) -> None:
    shutil.rmtree(stopped / "checkpoint-4")
    (stopped / "checkpoint-2" / name).write_bytes(pickle.dumps(Planted()))
    with pytest.raises(CheckpointError, match=r"checkpoint-2: is damaged .*move checkpoint-2 away"):
        run_training(checkpoint, lessons, stopped)


def break_weights(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).flatten()[0] = math.nan
    save_file(weights, path, {"format": "pt"})


def break_optimizer(checkpoint: Path) -> None:
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    state["state"][0]["exp_avg_sq"].flatten()[0] = math.inf
    torch.save(state, checkpoint / "optimizer.pt")


def break_schedule(checkpoint: Path) -> None:
    state = torch.load(checkpoint / "scheduler.pt", weights_only=True)
    state["base_lrs"][0] = math.nan
    torch.save(state, checkpoint / "scheduler.pt")


@pytest.mark.parametrize("damage", [break_weights, break_optimizer, break_schedule])
def test_a_run_does_not_go_on_from_what_is_not_a_number(
    checkpoint: Path, lessons: Path, stopped: Path, damage: Callable[[Path], None]
) -> None:
    shutil.rmtree(stopped / "checkpoint-4")
    damage(stopped / "checkpoint-2")
    with pytest.raises(
        CheckpointError, match=r"checkpoint-2: holds NaN or infinity.*move checkpoint-2 "
    ):
        run_training(checkpoint, lessons, stopped)
    assert not (stopped / "model").exists()


def test_a_finished_run_whose_weights_are_not_numbers_exports_nothing(
    checkpoint: Path, lessons: Path, stopped: Path
) -> None:
    before = sorted(stopped.iterdir())
    break_weights(stopped / "checkpoint-4")
    with pytest.raises(CheckpointError, match="checkpoint-4: holds NaN or infinity"):
        run_training(checkpoint, lessons, stopped)
    assert sorted(stopped.iterdir()) == before


def test_weights_that_are_not_numbers_are_not_saved_between_entries_of_the_log(
    checkpoint: Path, lessons: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is logged at the step, so that no loss tells it."""
    shutil.rmtree(stopped / "checkpoint-4")
    monkeypatch.setattr(CrossLMMTrainer, "log", lambda *arguments: None)
    original = CrossLMMTrainer.training_step

    def training_step(self: Any, *arguments: Any, **options: Any) -> Any:
        loss = original(self, *arguments, **options)
        next(iter(self.network.parameters())).data.fill_(math.nan)
        return loss

    monkeypatch.setattr(CrossLMMTrainer, "training_step", training_step)
    with pytest.raises(
        TrainingDiverged, match=r"of step 4 is not a finite number.*\n.*checkpoint-2"
    ):
        run_training(checkpoint, lessons, stopped)
    assert [path.name for path in list_checkpoints(stopped)] == ["checkpoint-2"]
    assert not (stopped / "model").exists()


def test_no_checkpoint_is_written_with_what_is_not_a_number(tmp_path: Path) -> None:
    model = tiny_model()
    model.lm_head.weight.data[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"NaN or infinity \(in float16\), first "):
        save_checkpoint(tmp_path / "new", model.half(), tiny_processor())
    assert list(tmp_path.iterdir()) == []


class Planted:
    def __reduce__(self) -> Any:
        return pytest.fail, ("loaded as a pickle",)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_while_saving_is_told_and_the_run_resumes(
    checkpoint: Path, lessons: Path, tmp_path: Path, name: str
) -> None:
    """In a process of its own, since the limit on the size of files cannot be raised again."""
    pytest.importorskip("resource")
    sizes = {"model.safetensors": 60_000, "optimizer.pt": 1_000_000}
    out = tmp_path / "run"
    script = f"""
import resource, signal
from pathlib import Path
from tests.security.test_broken_records import run_training
from crosslmm.errors import CheckpointError
from crosslmm.training import checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save = checkpoints.Trainer._save_checkpoint
def full(self, *arguments):
    if self.state.global_step == 4:
        resource.setrlimit(resource.RLIMIT_FSIZE, ({sizes[name]}, {sizes[name]}))
    save(self, *arguments)
checkpoints.Trainer._save_checkpoint = full
try:
    run_training(Path({str(checkpoint)!r}), Path({str(lessons)!r}), Path({str(out)!r}))
except CheckpointError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert "a checkpoint could not be written" in done.stdout, done.stderr[-2000:]
    assert "the run resumes from checkpoint-2" in done.stdout
    assert [path.name for path in list_checkpoints(out)] == ["checkpoint-2"]
    assert not (out / ".partial").exists()
    assert run_training(checkpoint, lessons, out).steps == 4


def test_skipped_samples_of_another_kind_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    lines = ['{"origin": "a", "reason": "b"}', "[]", "{}", "3", DEEP, '{"origin": "half']
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    assert read_skipped(path) == {"a": "b"}


@pytest.mark.parametrize("name", ["data.json", "data.jsonl", "data.yaml"])
def test_training_data_that_is_nested_too_deeply(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(DEEP)
    with pytest.raises(UsageError, match=name):
        Records(path)


def test_a_recipe_that_is_nested_too_deeply_or_endless(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("[" * 20_000)
    with pytest.raises(UsageError, match="not YAML"):
        load_recipe(path)
    path.write_text("#" * (1 << 21))
    with pytest.raises(UsageError, match="longer than 1,048,576 bytes"):
        load_recipe(path)


def test_questions_that_are_nested_too_deeply(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(DEEP)
    with pytest.raises(UsageError, match=r"line 1: not JSON \(nested too deeply\)"):
        read_questions(path)


@pytest.mark.parametrize("tolerance", ["Infinity", "NaN", "-1", "1e400", "9" * 400, "true", '"2"'])
def test_a_tolerance_that_makes_any_time_right(tmp_path: Path, tolerance: str) -> None:
    row = '{"video": "a.mp4", "type": "when", "question": "When?", "answer": "3.0 s", "tolerance": '
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{row}0.5}}\n{row}{tolerance}}}\n")
    with pytest.raises(UsageError, match=r"line 2: tolerance .* is not a number of seconds"):
        read_questions(path)


@pytest.mark.parametrize("text", ["", '{"default": "de', DEEP, "[]", "7"])
def test_damaged_settings_are_named(home: Path, run: Run, text: str) -> None:
    home.mkdir(parents=True)
    (home / "settings.json").write_text(text)
    done = run("models", "list")
    assert done.code == 2
    assert "settings.json" in done.err
    assert "fix or delete it" in done.err
    assert (home / "settings.json").read_text() == text


def test_shared_settings_of_captions_nested_too_deeply(tmp_path: Path) -> None:
    from crosslmm.captioning.outputs.jsonl import _read_shared
    from crosslmm.files import HeldFolder

    (tmp_path / "captions.settings.json").write_text(DEEP)
    with HeldFolder(tmp_path) as root, pytest.raises(CrossLMMError, match="move it away"):
        _read_shared(tmp_path / "captions.settings.json", root)


def test_a_file_with_a_pattern_for_a_name_is_read_as_any_other(tmp_path: Path) -> None:
    path = tmp_path / "img%03d.png"
    write_clip(tmp_path / "clip.mp4", frames=3)
    (tmp_path / "clip.mp4").rename(path)
    assert sample(path, frames=3).indices == (0, 1, 2)


def test_a_half_downloaded_checkpoint_can_be_profiled(
    checkpoint: Path, tmp_path: Path, run: Run
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "half"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    done = run("profile", "-m", folder, "-n", "8")
    assert (done.code, done.err) == (0, "")


def test_captions_that_the_shell_names_on_a_second_run_are_no_videos(
    checkpoint: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "a.mp4", frames=3)
    write_clip(tmp_path / "b.mp4", frames=4)
    monkeypatch.chdir(tmp_path)
    options = ("-m", checkpoint, "--frames", 2, "-f", "txt", "--readers", 0)
    for _ in range(2):
        done = run("caption", *sorted(path.name for path in tmp_path.glob("[!.]*")), *options)
        assert done.code == 0, done.err
    names = {path.name for path in tmp_path.glob("[!.]*")}
    assert names == {"a.mp4", "a.txt", "b.mp4", "b.txt"}
