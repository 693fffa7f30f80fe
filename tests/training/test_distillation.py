"""Distillation without labels, from a tiny random LLaVA-OneVision checkpoint."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from crosslmm.checkpoints.headers import part_of
from crosslmm.checkpoints.loading import load_model, load_processor, save_checkpoint
from crosslmm.errors import UsageError, VideoError
from crosslmm.training import answers
from crosslmm.training.answers import AnswerProgress
from crosslmm.training.recipe import DistillOptions, LoraOptions, Recipe, load_recipe
from crosslmm.training.run import RunPlan, TrainingResult, train
from crosslmm.training.trainer import TrainingProgress
from tests.support.tiny import tiny_checkpoint

CPU = torch.device("cpu")
FULL = 16  # tokens per frame of the teacher: patches of 49 pixels by 6, pooled to half the grid


def recipe(distill: dict[str, Any] | None = None, **options: Any) -> Recipe:
    chosen = {"answer_tokens": 8, "prompts_per_video": 1} | (distill or {})
    defaults: dict[str, Any] = {
        "stage": "distill", "learning_rate": 3e-3, "gate_learning_rate": 3e-2, "frames": 2,
        "batch_size": 4, "device_batch_size": 2, "steps": 12, "log_every": 1, "save_every": 4,
        "workers": 0, "precision": "fp32", "gradient_checkpointing": False,
        "distill": DistillOptions(**chosen),
    }  # fmt: skip
    return Recipe(**defaults | options)


def distil(
    start: Path, videos: Path, out: Path, chosen: Recipe | None = None, **options: Any
) -> tuple[TrainingResult, list[TrainingProgress]]:
    seen: list[TrainingProgress] = []
    trained = train(
        chosen or recipe(), model=start, data=videos, out=out, on_progress=seen.append, **options
    )
    assert trained is not None
    return trained, seen


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def like(start: Path, folder: Path, **changes: Any) -> Path:
    """The checkpoint with another configuration."""
    model = load_model(start, device=CPU, dtype=torch.float32)
    for name, value in changes.items():
        setattr(model.config, name, value)
    save_checkpoint(folder, model, load_processor(start))
    return folder


def logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


class TestLearning:
    def test_the_loss_falls_and_only_the_cross_attention_changes(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        plans: list[RunPlan] = []
        fixed = recipe(
            {"tokens": (1,), "progressive": 0.0},
            steps=60,
            learning_rate=1e-2,
            save_every=60,
            schedule="constant_with_warmup",
        )
        trained, _ = distil(
            llava, videos, tmp_path / "run", fixed, on_start=plans.append,
            eval_data=videos,
        )  # fmt: skip
        entries = [entry for entry in logged(tmp_path / "run") if "loss" in entry]
        first, last = (
            sum(entry["divergence"] for entry in part) / 5 for part in (entries[:5], entries[-5:])
        )
        assert last < 0.7 * first
        before = load_model(llava, device=CPU, dtype=torch.float32).state_dict()
        after = weights(trained.folder)
        changed = {
            part_of(name)
            for name, tensor in after.items()
            if not torch.equal(tensor, before[name]) and ".7.v2v." not in name
        }
        assert changed == {"cross-attention norms", "V2V cross-attention", "T2V cross-attention"}
        (plan,) = plans
        assert {part.name for part in plan.parts if part.trained} == changed
        assert "16 tokens per frame; student: 1, 1 by default" in plan.notes[0]
        assert "estimated memory per device" in plan.notes[1]
        assert plan.notes[2] == "before the first step the teacher answers all 8 prompts"

    def test_the_new_checkpoint_answers_with_fewer_tokens_and_keeps_its_positions(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        trained, _ = distil(llava, videos, tmp_path / "run", recipe(steps=2))
        assert load_processor(trained.folder).tokens_per_frame == 9
        model = load_model(trained.folder, device=CPU, dtype=torch.float32)
        assert model.config.tokens_per_frame == FULL

    def test_a_merged_student_learns_and_keeps_all_tokens_to_merge_from(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        plans: list[RunPlan] = []
        merged = recipe({"merge": "folder", "tokens": (4, 1), "progressive": 0.5}, steps=4)
        trained, seen = distil(llava, videos, tmp_path / "run", merged, on_start=plans.append)
        assert "student: 4, 1, merged by `folder`" in plans[0].notes[0]
        losses = [entry.loss for entry in seen]
        assert losses[0] == losses[1]  # the same four videos, and the first step's rate is zero
        assert len({*losses[1:]}) == 3
        assert load_processor(trained.folder).tokens_per_frame == FULL
        with pytest.raises(UsageError, match="did you mean folder"):
            load_recipe("distill", ["distill.merge=foldr"])
        with pytest.raises(UsageError, match="merge is a name, not 4"):
            load_recipe("distill", ["distill.merge=4"])

    @pytest.mark.parametrize("term", ["divergence", "hidden"])
    def test_a_batch_may_be_divided_anyhow(
        self, llava: Path, videos: Path, tmp_path: Path, term: str
    ) -> None:
        weighed = {"divergence_weight": 0.0, "hidden_weight": 0.0} | {f"{term}_weight": 1.0}
        losses = []
        for size in (4, 1):
            chosen = recipe(weighed, steps=3, device_batch_size=size)
            _, seen = distil(llava, videos, tmp_path / str(size), chosen)
            losses.append([entry.loss for entry in seen])
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    def test_with_adapters_on_queries_and_values(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        adapted = recipe(steps=4, lora=LoraOptions(rank=2, alpha=4.0, dropout=0.0))
        trained, _ = distil(llava, videos, tmp_path / "run", adapted)
        before = load_model(llava, device=CPU, dtype=torch.float32).state_dict()
        changed = {
            name for name, tensor in weights(trained.folder).items()
            if not torch.equal(tensor, before[name]) and "cross_attention" not in name
        }  # fmt: skip
        assert changed - {"model.feature_norm.weight"} == {
            f"model.language_model.layers.{layer}.self_attn.{name}_proj.weight"
            for layer in range(8) for name in "qv"
        }  # fmt: skip

    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    def test_over_frozen_weights_in_4_bits(self, llava: Path, videos: Path, tmp_path: Path) -> None:
        small = recipe({"quantization": "4bit"}, steps=8, gradient_checkpointing=True, save_every=4)
        trained, _ = distil(llava, videos, tmp_path / "run", small)
        before = load_model(llava, device=CPU, dtype=torch.float32).state_dict()
        for name, tensor in weights(trained.folder).items():
            assert torch.equal(tensor, before[name]) == (
                part_of(name) in ("vision encoder", "projector", "language model")
                or name.endswith("7.v2v.gate")
            ), name
        shutil.rmtree(tmp_path / "run" / "model")
        shutil.rmtree(tmp_path / "run" / "checkpoint-8")
        again, _ = distil(llava, videos, tmp_path / "run", small)
        for name, tensor in weights(again.folder).items():
            assert torch.isfinite(tensor).all(), name

    def test_the_evaluation_is_on_held_out_videos(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        held_out = tmp_path / "held-out"
        held_out.mkdir()
        shutil.copy(videos / "red.mp4", held_out)
        _, seen = distil(
            llava, videos, tmp_path / "run", recipe(steps=2, evaluate_every=1), eval_data=held_out
        )
        assert len([entry for entry in seen if entry.eval_loss is not None]) == 2


class TestAnotherTeacher:
    def test_it_reads_its_own_number_of_tokens(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        student = like(llava, tmp_path / "student", tokens_per_frame=9)
        given: Any = {"out": tmp_path / "run", "teacher": llava, "data": videos, "model": student}
        with pytest.raises(UsageError, match="has 9 tokens per frame and `teacher` 16"):
            train(recipe(steps=1), **given)
        plans: list[RunPlan] = []
        train(recipe(steps=1, tokens_per_frame=FULL), **given, on_start=plans.append)
        assert plans[0].notes[0].startswith("teacher: 16 tokens per frame; student: 9")

    def test_it_reads_what_the_student_reads(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        student = like(llava, tmp_path / "student", video_newline=False)
        with pytest.raises(UsageError, match="has video_newline False and `teacher` True"):
            distil(student, videos, tmp_path / "run", recipe(steps=1), teacher=llava)


class TestResuming:
    def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        whole, _ = distil(llava, videos, tmp_path / "whole")

        def stop(progress: TrainingProgress) -> None:
            if progress.step == 6:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(recipe(), model=llava, data=videos, out=tmp_path / "cut", on_progress=stop)
        stored = load_file(tmp_path / "cut" / "checkpoint-4" / "model.safetensors")
        assert not {part_of(name) for name in stored} & {"language model", "vision encoder"}
        plans: list[RunPlan] = []
        resumed, _ = distil(llava, videos, tmp_path / "cut", on_start=plans.append)
        assert plans[0].resumed_at == 4
        before, after = weights(whole.folder), weights(resumed.folder)
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_shared_keys_and_values_are_trained_and_resumed(
        self, videos: Path, tmp_path: Path
    ) -> None:
        start = tiny_checkpoint(tmp_path / "start", gates=False, cross_kv="shared")
        short = recipe({"tokens": (1,)}, steps=4, save_every=2)
        whole, _ = distil(start, videos, tmp_path / "run", short)
        kept = weights(whole.folder)
        shutil.rmtree(tmp_path / "run" / "model")
        shutil.rmtree(tmp_path / "run" / "checkpoint-4")
        plans: list[RunPlan] = []
        resumed, _ = distil(start, videos, tmp_path / "run", short, on_start=plans.append)
        assert plans[0].resumed_at == 2
        before, after = weights(start), weights(resumed.folder)
        assert all(torch.equal(kept[name], after[name]) for name in after)
        changed = {part_of(name) for name in after if not torch.equal(before[name], after[name])}
        assert "shared keys and values" in changed
        assert not changed & {"language model", "vision encoder", "projector"}
        assert (
            load_model(resumed.folder, device=CPU, dtype=torch.float32).config.cross_kv == "shared"
        )

    def test_the_teacher_is_asked_once(
        self, llava: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        answer = answers.answer_batch

        def count(runtime: Any, clips: Any, questions: Any, **options: Any) -> Any:
            asked.extend(questions)
            if len(asked) > 2:
                raise KeyboardInterrupt
            return answer(runtime, clips, questions, **options)

        monkeypatch.setattr(answers, "answer_batch", count)
        with pytest.raises(KeyboardInterrupt):
            distil(llava, videos, tmp_path / "run")
        path = tmp_path / "run" / "answers-0.jsonl"
        assert len(path.read_text().splitlines()) == 2
        with path.open("a") as file:
            known = json.loads(path.read_text().splitlines()[0])
            for wrong in ({"answer": 5}, {"answer": "\udc80"}, {"prompt": ["?"]}, {"problem": {}}):
                file.write(json.dumps(known | wrong) + "\n")
            file.write('{"video": "cut o')  # as a kill leaves it
        monkeypatch.setattr(answers, "answer_batch", answer)
        distil(llava, videos, tmp_path / "run", recipe(log_every=2))
        assert len([json.loads(line) for line in path.read_text().splitlines()]) == 4
        monkeypatch.setattr(answers, "answer_batch", None)
        shutil.rmtree(tmp_path / "run" / "checkpoint-12")
        with pytest.raises(UsageError, match="model: already exists, though this run has not"):
            distil(llava, videos, tmp_path / "run", recipe(log_every=2))
        shutil.rmtree(tmp_path / "run" / "model")
        distil(llava, videos, tmp_path / "run", recipe(log_every=2))

    def test_answers_that_other_processes_keep_elsewhere_are_not_taken_for_empty(
        self, llava: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(answers, "_complete", lambda samples, folder: None)
        with pytest.raises(UsageError, match="a folder that all of them share"):
            distil(llava, videos, tmp_path / "run")

    def test_other_prompts_are_another_run(self, llava: Path, videos: Path, tmp_path: Path) -> None:
        (tmp_path / "prompts.txt").write_text("Which colour?\n")
        distil(llava, videos, tmp_path / "run", recipe(steps=1), prompts=tmp_path / "prompts.txt")
        with pytest.raises(UsageError, match="holds a run that differs: other `prompts`"):
            distil(llava, videos, tmp_path / "run", recipe(steps=1))

    def test_a_change_inside_of_distill_is_named_alone(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        distil(llava, videos, tmp_path / "run", recipe(steps=1))
        with pytest.raises(UsageError, match=r"differs: distill.answer_tokens 8 → 9\n"):
            distil(llava, videos, tmp_path / "run", recipe({"answer_tokens": 9}, steps=1))

    def test_a_model_that_is_its_own_teacher_may_be_named_as_such(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        distil(llava, videos, tmp_path / "run", recipe(steps=1))
        distil(llava, videos, tmp_path / "run", recipe(steps=1), teacher=llava)

    def test_broken_videos_are_skipped_and_counted(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        mixed = tmp_path / "videos"
        shutil.copytree(videos, mixed)
        (mixed / "broken.mp4").write_bytes(b"no video at all" * 40)
        trained, _ = distil(llava, mixed, tmp_path / "run", recipe(steps=3, max_skipped=0.5))
        assert trained.skipped == 1
        assert "broken.mp4" in (tmp_path / "run" / "skipped.jsonl").read_text()
        for _ in range(2):
            with pytest.raises(
                VideoError, match=r"1 of 5 prompts have no answer.*broken.mp4"
            ) as told:
                distil(llava, mixed, tmp_path / "strict", recipe(steps=3, max_skipped=0.1))
            assert str(told.value).count(str(mixed / "broken.mp4")) == 1
        shutil.copy(mixed / "red.mp4", mixed / "broken.mp4")
        trained, _ = distil(llava, mixed, tmp_path / "strict", recipe(steps=3, max_skipped=0.1))
        assert trained.skipped == 0

    def test_a_video_that_the_context_cannot_hold_is_skipped(
        self, llava: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = answers.answer_batch

        def refuse(runtime: Any, clips: Any, questions: Any, **options: Any) -> Any:
            if any("grey" in str(clip.source.path) for clip in clips):
                raise UsageError("more than the model's context")
            return answer(runtime, clips, questions, **options)

        monkeypatch.setattr(answers, "answer_batch", refuse)
        trained, _ = distil(llava, videos, tmp_path / "run", recipe(steps=3, max_skipped=0.5))
        assert trained.skipped == 1
        assert "grey.mp4" in (tmp_path / "run" / "skipped.jsonl").read_text()

    def test_answers_that_were_cut_are_known_as_such_and_counted(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        told: list[AnswerProgress] = []
        distil(llava, videos, tmp_path / "run", recipe({"answer_tokens": 1}, steps=1),
               on_answers=told.append)  # fmt: skip
        lines = (tmp_path / "run" / "answers-0.jsonl").read_text().splitlines()
        cut = [json.loads(line).get("cut", False) for line in lines]
        assert (told[-1].cut, told[-1].done) == (sum(cut), 4)
        assert sum(cut) >= 3  # of a random model, whose first token ends an answer by chance only


class TestProcesses:
    @pytest.mark.timeout(600)
    def test_several_share_the_asking_and_the_batch(
        self, llava: Path, videos: Path, tmp_path: Path
    ) -> None:
        chosen = recipe(steps=4, batch_size=2, device_batch_size=1)
        (tmp_path / "both.yaml").write_text(chosen.to_yaml())
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "crosslmm_cli", "train", tmp_path / "both.yaml", "--teacher", llava,
            "--videos", videos, "--out", tmp_path / "both",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, check=False, env=environment, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout == f"{tmp_path / 'both' / 'model'}\n"
        asked = [(tmp_path / "both" / f"answers-{rank}.jsonl").read_text() for rank in (0, 1)]
        assert [len(text.splitlines()) for text in asked] == [2, 2]
        _, alone = distil(llava, videos, tmp_path / "alone", chosen)
        losses = [entry["loss"] for entry in logged(tmp_path / "both") if "loss" in entry]
        assert losses == pytest.approx([entry.loss for entry in alone], rel=1e-3)
