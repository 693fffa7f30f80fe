"""Training that was stopped goes on as if it had not been."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crosslmm.errors import CheckpointError, UsageError, VideoError
from crosslmm.training.checkpoints import latest_checkpoint, list_checkpoints
from crosslmm.training.run import RunPlan, train
from crosslmm.training.trainer import TrainingProgress
from tests.support.training_runs import read_lines, recipe, run_training, weights

KILLED_WHILE_SAVING = """
import os, signal, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from tests.training.test_run import recipe
from crosslmm.training.run import train
from crosslmm.training.trainer import CrossLMMTrainer

def die(self, folder):
    if self.state.global_step == 8:
        os.kill(os.getpid(), signal.SIGKILL)

CrossLMMTrainer.finish_checkpoint = die
train(recipe(lora=None), model={start!r}, data={data!r}, out={out!r})
"""


class Stopped(Exception):
    pass


def _stop_at(step: int, start: Path, data: Path, out: Path, **options: int) -> None:
    def stop(entry: TrainingProgress) -> None:
        if entry.step == step:
            raise Stopped

    with pytest.raises(Stopped):
        train(recipe(**options), model=start, data=data, out=out, on_progress=stop)


class TestResuming:
    @pytest.mark.timeout(600)
    def test_killed_in_the_middle_it_ends_where_an_undisturbed_run_does(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        whole, seen = run_training(start, lessons, tmp_path / "whole")
        script = KILLED_WHILE_SAVING.format(
            tests=str(Path(__file__).parents[2]), start=str(start), data=str(lessons),
            out=str(tmp_path / "killed"),
        )  # fmt: skip
        killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
        out = tmp_path / "killed"
        assert latest_checkpoint(out) == out / "checkpoint-4", (
            "the one that was half written is not it"
        )
        assert (out / ".partial" / "checkpoint-8" / "optimizer.pt").exists()
        assert not (out / "model").exists()

        plans: list[RunPlan] = []
        resumed, rest = run_training(start, lessons, out, on_start=plans.append)
        assert plans[0].resumed_at == 4
        assert [entry.step for entry in rest] == list(range(5, 13))
        assert [entry.loss for entry in rest] == [entry.loss for entry in seen[4:]]
        before, after = weights(whole.folder), weights(resumed.folder)
        assert all(torch.equal(before[name], after[name]) for name in before)
        logged = [json.loads(line) for line in read_lines(out / "log.jsonl")]
        assert [entry["step"] for entry in logged if "loss" in entry] == list(range(1, 13))
        assert [path.name for path in list_checkpoints(out)] == ["checkpoint-8", "checkpoint-12"]
        assert not (out / ".partial").exists()

        again, nothing = run_training(start, lessons, out)
        assert again == resumed
        assert nothing == []

    def test_a_run_that_ended_within_an_epoch_takes_no_further_step(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        first, _ = run_training(start, lessons, tmp_path / "run", steps=3)
        before = weights(first.folder)
        shutil.rmtree(first.folder)  # as if killed before it was written
        again, nothing = run_training(start, lessons, tmp_path / "run", steps=3)
        assert again == first
        assert nothing == []
        after = weights(again.folder)
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_what_leaves_the_weights_as_they_are_may_change(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        """Less memory above all: that is what a run which ran out of it is told."""
        _, seen = run_training(start, lessons, tmp_path / "whole", steps=8)
        _stop_at(5, start, lessons, tmp_path / "run", steps=8)
        plans: list[RunPlan] = []
        _, rest = run_training(
            start, lessons, tmp_path / "run", steps=8, device_batch_size=1, log_every=2, save_every=2,
            gradient_checkpointing=True, on_start=plans.append,
        )  # fmt: skip
        assert (plans[0].resumed_at, plans[0].accumulation) == (4, 4)
        assert [entry.step for entry in rest] == [6, 8]
        means = [(seen[i].loss + seen[i + 1].loss) / 2 for i in (4, 6)]  # type: ignore[operator]
        assert [entry.loss for entry in rest] == pytest.approx(means, rel=1e-3)
        checkpoints = [path.name for path in list_checkpoints(tmp_path / "run")]
        assert checkpoints == ["checkpoint-6", "checkpoint-8"]

    def test_a_run_of_an_earlier_version_has_the_defaults_of_new_options(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        _stop_at(5, start, lessons, tmp_path / "run", steps=8)
        path = tmp_path / "run" / "run.json"
        record = json.loads(path.read_text())
        del record["recipe"]["warmup"]
        path.write_text(json.dumps(record))
        with pytest.raises(UsageError, match=r"warmup 0.03 → 0.5"):
            run_training(start, lessons, tmp_path / "run", steps=8, warmup=0.5)
        _, rest = run_training(start, lessons, tmp_path / "run", steps=8)
        assert [entry.step for entry in rest] == [5, 6, 7, 8]

    def test_too_many_skipped_samples_stop_it_each_time(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        records = json.loads(lessons.read_text())
        (lessons.parent / "broken.mp4").write_bytes(b"no video")
        records[3] = {**records[3], "video": "broken.mp4"}
        data = lessons.with_name("with-broken.json")
        data.write_text(json.dumps(records))
        options = {"steps": 16, "batch_size": 1, "device_batch_size": 1, "save_every": 1}
        for _ in range(2):
            with pytest.raises(VideoError, match="1 of 8 samples cannot be trained on"):
                run_training(start, data, tmp_path / "run", **options)
            assert latest_checkpoint(tmp_path / "run") is not None
        run_training(start, data, tmp_path / "run", **options, max_skipped=0.2)

    def test_once_a_skipped_video_is_put_right_the_run_goes_on(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        data = lessons.with_name("with-repaired.json")
        records = json.loads(lessons.read_text())
        repaired = lessons.parent / "repaired.mp4"
        repaired.write_bytes(b"no video")
        data.write_text(json.dumps([*records[1:], {**records[0], "video": "repaired.mp4"}]))
        options = {"steps": 16, "batch_size": 1, "device_batch_size": 1, "save_every": 1}
        with pytest.raises(VideoError, match="1 of 8 samples cannot be trained on"):
            run_training(start, data, tmp_path / "run", **options)
        assert latest_checkpoint(tmp_path / "run") is not None
        shutil.copy(lessons.parent / records[0]["video"], repaired)
        trained, _ = run_training(start, data, tmp_path / "run", **options)
        assert trained.skipped == 0
        assert (tmp_path / "run" / "skipped.jsonl").read_text() == ""

    def test_another_folder_of_videos_is_another_run(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        options = {"model": start, "data": lessons, "out": tmp_path / "run"}
        train(recipe(steps=1), **options, media_folder=lessons.parent)
        with pytest.raises(UsageError, match=r"differs: `media_folder` .* → None"):
            train(recipe(steps=1), **options)

    def test_the_same_seed_gives_the_same_losses(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        losses = [
            [
                entry.loss
                for entry in run_training(start, lessons, tmp_path / name, steps=4, seed=seed)[1]
            ]
            for name, seed in (("a", 1), ("b", 1), ("c", 2))
        ]
        assert losses[0] == losses[1]
        assert losses[0] != losses[2]

    def test_a_checkpoint_without_its_optimizer_is_not_gone_on_from(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        _stop_at(6, start, lessons, tmp_path / "run")
        for name in ("optimizer.pt", "scheduler.pt"):
            (tmp_path / "run" / "checkpoint-4" / name).rename(tmp_path / name)
            with pytest.raises(
                CheckpointError, match=f"has no {name[:-3]}; move checkpoint-4 away"
            ):
                run_training(start, lessons, tmp_path / "run")
            (tmp_path / name).rename(tmp_path / "run" / "checkpoint-4" / name)
        run_training(start, lessons, tmp_path / "run")

    def test_another_run_in_the_folder_is_left_alone(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        run_training(start, lessons, tmp_path / "run", steps=1)
        with pytest.raises(UsageError, match=r"learning_rate 0.003 → 0.1; steps 1 → 2"):
            run_training(start, lessons, tmp_path / "run", steps=2, learning_rate=0.1)
        more = lessons.with_name("more.json")
        more.write_text(json.dumps(json.loads(lessons.read_text())[:4]))
        run_training(start, more, tmp_path / "fewer", steps=1)
        more.write_text(lessons.read_text())
        with pytest.raises(UsageError, match="had 4 samples and now has 8"):
            run_training(start, more, tmp_path / "fewer", steps=1)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").touch()
        with pytest.raises(UsageError, match="not empty"):
            run_training(start, lessons, tmp_path / "mine", steps=1)
