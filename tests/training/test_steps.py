"""Single steps of training: what they compute, measure and keep."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crosslmm.errors import VideoError
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.training.checkpoints import TrainingDiverged
from crosslmm.training.run import RunPlan, train
from tests.support.lessons import lesson
from tests.support.tiny import tiny_model
from tests.support.training_runs import read_lines, recipe, run_training, weights


class TestSteps:
    def test_accumulation_is_a_larger_batch(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        # The samples' answers differ in length: a mean of the small batches' means would show.
        results = [
            run_training(
                start, lessons, tmp_path / str(size), steps=2, batch_size=8, device_batch_size=size,
                schedule="constant_with_warmup", warmup=0.0, learning_rate=1e-3,
            )
            for size in (8, 4, 1)
        ]  # fmt: skip
        for _, seen in results[1:]:
            losses = [entry.loss for entry in seen]
            assert losses == pytest.approx([entry.loss for entry in results[0][1]], rel=2e-5)
        together = weights(results[0][0].folder)
        for trained, _ in results[1:]:
            for name, tensor in weights(trained.folder).items():
                assert torch.allclose(tensor, together[name], atol=2e-4), name

    def test_gradient_checkpointing_changes_no_gradient(self) -> None:
        gradients = []
        for checkpointing in (False, True):
            model = tiny_model().train()
            if checkpointing:
                model.activation_checkpointing_enable({"use_reentrant": False})
            calls = _count_calls(model.model.cross_attention_layers["1"].t2v)
            generator = torch.Generator().manual_seed(0)
            pixels = torch.randn(2, 3, 3, 30, 30, generator=generator)
            text = torch.randint(5, 260, (2, 6), generator=generator)
            ids = torch.cat([torch.full((2, 12), 4), text], dim=1)
            labels = ids.masked_fill(ids == 4, -100)
            model(input_ids=ids, pixel_values_videos=pixels, labels=labels).loss.backward()
            assert len(calls) == 1 + checkpointing, "a layer is computed again for the gradients"
            gradients.append({name: p.grad for name, p in model.named_parameters()})
        for name, gradient in gradients[0].items():
            if gradient is None:
                assert gradients[1][name] is None
            else:
                assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name

    def test_broken_videos_are_counted_and_too_many_end_the_run(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        records = json.loads(lessons.read_text())
        (lessons.parent / "broken.mp4").write_bytes(b"no video at all" * 40)
        data = lessons.parent / "with-broken.json"
        broken = lesson("broken.mp4", ("<image>\nWhich colour?", "black"))
        data.write_text(json.dumps([*records, broken, broken, broken, broken]))
        trained, seen = run_training(
            start, data, tmp_path / "run", steps=6, max_skipped=0.4, batch_size=2,
            device_batch_size=1,
        )  # fmt: skip
        assert trained.skipped == seen[-1].skipped == 4
        assert all(entry.loss is not None and entry.loss == entry.loss for entry in seen)
        lines = read_lines(tmp_path / "run" / "skipped.jsonl")
        origins = {json.loads(line)["origin"] for line in lines}
        assert origins == {f"{data}, record {number}" for number in (9, 10, 11, 12)}
        with pytest.raises(VideoError, match=r"of 12 samples cannot be trained on.*\n.*broken.mp4"):
            run_training(start, data, tmp_path / "strict", steps=6, max_skipped=0.1)
        (lessons.parent / "broken.mp4").unlink()
        (lessons.parent / "broken.mp4").symlink_to(lessons.parent / records[0]["video"])
        fixed, _ = run_training(start, data, tmp_path / "strict", steps=6, max_skipped=0.1)
        assert fixed.skipped == 0
        assert not read_lines(tmp_path / "strict" / "skipped.jsonl")

    def test_broken_videos_do_not_better_the_evaluation(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        records = json.loads(lessons.read_text())
        (lessons.parent / "torn.mp4").write_bytes(b"no video at all" * 40)
        torn = lesson("torn.mp4", ("<image>\nWhich colour?", "black"))
        data = lessons.parent / "half-torn.json"
        data.write_text(json.dumps([*records, *[torn] * len(records)]))
        losses = []
        for measured_on in (lessons, data):
            _, seen = run_training(
                start, lessons, tmp_path / measured_on.stem, steps=1, max_skipped=0.5,
                eval_data=measured_on, evaluate_every=1, device_batch_size=1,
            )  # fmt: skip
            losses += [entry.eval_loss for entry in seen if entry.eval_loss is not None]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        assert losses[0] > 0

    def test_a_run_that_is_lost_stops(self, start: Path, lessons: Path, tmp_path: Path) -> None:
        with pytest.raises(TrainingDiverged, match="not a finite number"):
            run_training(start, lessons, tmp_path / "run", learning_rate=1e20, save_every=1)
        assert len(read_lines(tmp_path / "run" / "log.jsonl")) < 12

    @pytest.mark.parametrize("stage", ["align", "tune"])
    def test_full_precision_from_a_checkpoint_of_half(
        self, start: Path, lessons: Path, tmp_path: Path, stage: str
    ) -> None:
        half = shutil.copytree(start, tmp_path / "half")
        model = CrossLMMForConditionalGeneration.from_pretrained(start, dtype=torch.bfloat16)
        model.save_pretrained(half)
        trained, seen = run_training(half, lessons, tmp_path / "run", stage=stage, steps=2)
        assert len(seen) >= 2
        assert {w.dtype for w in weights(trained.folder).values()} == {torch.bfloat16}

    def test_text_alone_trains_beside_videos(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        data = lessons.parent / "with-text.json"
        text = [lesson(None, ("Which colour?", "none")) for _ in range(4)]
        data.write_text(json.dumps([*json.loads(lessons.read_text()), *text]))
        _, seen = run_training(
            start, data, tmp_path / "run", steps=6, batch_size=2, device_batch_size=1
        )
        losses = [entry.loss for entry in seen if entry.loss is not None]
        assert len(losses) == 6
        assert losses[-1] < losses[0]

    def test_a_single_step_trains_too(self, start: Path, lessons: Path, tmp_path: Path) -> None:
        trained, seen = run_training(start, lessons, tmp_path / "run", steps=1)
        before, after = weights(start), weights(trained.folder)
        assert any(not torch.equal(before[name].float(), after[name].float()) for name in after)
        assert [entry.learning_rate for entry in seen] == [3e-3]

    def test_the_learning_rate_shown_is_that_of_most_of_the_model(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        rates = {"vision_learning_rate": 1e-6, "gate_learning_rate": 1.0}
        _, seen = run_training(
            start, lessons, tmp_path / "run", steps=2, warmup=0.0, schedule="linear", **rates
        )
        assert [entry.learning_rate for entry in seen] == pytest.approx([3e-3, 1.5e-3])

    def test_one_process_where_accelerate_was_asked_for_more_is_said(
        self, start: Path, lessons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`accelerate launch --cpu --num_processes 2` starts one, and tells it of no other."""
        plans: list[RunPlan] = []
        for launcher in ("False", "True"):
            monkeypatch.setenv("ACCELERATE_USE_CPU", launcher)
            train(
                recipe(), model=start, data=lessons, out=tmp_path / "run",
                on_start=plans.append, dry_run=True,
            )  # fmt: skip
        assert plans[0].notes == ()
        assert "starts one process on the CPU" in plans[1].notes[0]

    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("stage", ["align", "tune"])
    def test_several_processes_share_a_batch(
        self, start: Path, lessons: Path, tmp_path: Path, stage: str
    ) -> None:
        # Some of the time one process has text only, and the other a video.
        data = lessons.parent / "half-text.json"
        text = [lesson(None, ("Which colour?", "none")) for _ in range(4)]
        data.write_text(json.dumps([*json.loads(lessons.read_text())[:4], *text]))
        (tmp_path / "both.yaml").write_text(
            recipe(stage=stage, steps=4, batch_size=2, device_batch_size=1).to_yaml()
        )
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "crosslmm_cli", "train", tmp_path / "both.yaml", "--model", start, "--data", data,
            "--out", tmp_path / "both",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, check=False, env=environment, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout == f"{tmp_path / 'both' / 'model'}\n"
        _, alone = run_training(
            start, data, tmp_path / "alone", stage=stage, steps=4, batch_size=2, device_batch_size=1
        )
        logged = [json.loads(line) for line in read_lines(tmp_path / "both" / "log.jsonl")]
        losses = [entry["loss"] for entry in logged if "loss" in entry]
        assert losses == pytest.approx([entry.loss for entry in alone], rel=1e-4)


def _count_calls(module: torch.nn.Module) -> list[None]:
    calls: list[None] = []
    module.q_proj.register_forward_hook(lambda *_: calls.append(None))
    return calls
