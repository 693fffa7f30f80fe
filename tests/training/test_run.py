"""Whole training runs on a tiny model: what learns, what does not, and what a kill leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from crosslmm.checkpoints.headers import part_of
from crosslmm.errors import UsageError, VideoError
from crosslmm.modeling_crosslmm import CrossLMMForConditionalGeneration
from crosslmm.training.checkpoints import latest_checkpoint, list_checkpoints
from crosslmm.training.recipe import LoraOptions, Recipe
from crosslmm.training.run import RunPlan, TrainingResult, train
from crosslmm.training.trainer import TrainingDiverged, TrainingProgress
from tests.support.lessons import lesson, write_lessons
from tests.support.tiny import tiny_checkpoint, tiny_model

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lessons(tmp_path_factory.mktemp("lessons"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint: its gates are closed."""
    return tiny_checkpoint(tmp_path_factory.mktemp("start") / "tiny", gates=False)


def recipe(**options: Any) -> Recipe:
    defaults = {
        "stage": "tune", "learning_rate": 3e-3, "frames": 4, "batch_size": 4, "device_batch_size": 2,
        "steps": 12, "log_every": 1, "save_every": 4, "workers": 0, "precision": "fp32",
        "gradient_checkpointing": False,
    }  # fmt: skip
    return Recipe(**defaults | options)


def run_training(
    start: Path, data: Path, out: Path, *, report: Any = None, **options: Any
) -> tuple[TrainingResult, list[TrainingProgress]]:
    seen: list[TrainingProgress] = []
    own = {key: options.pop(key) for key in ("eval_data", "on_start") if key in options}
    trained = train(
        recipe(**options), model=start, data=data, out=out, on_progress=seen.append, **own
    )
    assert trained is not None
    return trained, seen


def weights(folder: Path) -> Weights:
    return load_file(folder / "model.safetensors")


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def changed_parts(before: Weights, after: Weights) -> dict[str, bool]:
    """By part: whether any of its weights is different."""
    assert before.keys() == after.keys()
    changed: dict[str, bool] = {}
    for name in before:
        part = part_of(name)
        changed[part] = changed.get(part, False) or not torch.equal(before[name], after[name])
    return changed


class TestStages:
    def test_align_trains_projector_and_v2v_and_nothing_else_by_a_bit(
        self, lessons: Path, tmp_path: Path
    ) -> None:
        # Stored in bfloat16, as real checkpoints are: the frozen part must come back as it was.
        start = tiny_checkpoint(tmp_path / "start", gates=False)
        _to_bfloat16(start)
        trained, seen = run_training(
            start, lessons, tmp_path / "run", stage="align", steps=30, learning_rate=1e-2,
            precision="bf16", gradient_checkpointing=True,
        )  # fmt: skip
        before, after = weights(start), weights(trained.folder)
        assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
        changed = changed_parts(before, after)
        assert [part for part, is_changed in changed.items() if not is_changed] == [
            "T2V cross-attention", "language model", "vision encoder",
        ]  # fmt: skip
        assert seen[-1].loss < 0.8 * seen[0].loss  # type: ignore[operator]
        first, last = seen[-1].gates["v2v"]
        assert abs(first) > 0.01
        assert last == 0, "nothing reads the visual positions after the last decoder layer"
        assert seen[-1].gates["t2v"] == [0, 0]

    def test_shared_keys_and_values_are_trained_with_v2v(
        self, lessons: Path, tmp_path: Path
    ) -> None:
        start = tiny_checkpoint(tmp_path / "start", gates=False, cross_kv="shared")
        trained, _ = run_training(start, lessons, tmp_path / "run", stage="align", steps=3)
        changed = changed_parts(weights(start), weights(trained.folder))
        assert [part for part, is_changed in changed.items() if not is_changed] == [
            "T2V cross-attention", "language model", "vision encoder",
        ]  # fmt: skip
        assert changed["shared keys and values"]
        assert json.loads((trained.folder / "config.json").read_text())["cross_kv"] == "shared"

    def test_tune_trains_everything_and_both_gates_open(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        plans: list[RunPlan] = []
        trained, seen = run_training(
            start, lessons, tmp_path / "run", steps=30, vision_learning_rate=1e-3,
            eval_data=lessons, evaluate_every=15, on_start=plans.append,
        )  # fmt: skip
        assert all(changed_parts(weights(start), weights(trained.folder)).values())
        losses = [entry.loss for entry in seen if entry.loss is not None]
        measured = [entry.eval_loss for entry in seen if entry.eval_loss is not None]
        assert losses[-1] < 0.3 * losses[0]
        assert len(measured) == 2
        assert measured[1] < measured[0]
        assert abs(seen[-1].gates["v2v"][0]) > 1e-3
        assert min(map(abs, seen[-1].gates["t2v"])) > 1e-3
        (plan,) = plans
        assert plan.steps == 30
        assert {part.name: part.trained == part.total for part in plan.parts} == {
            "vision encoder": False,  # its last norm is not on the way
            "projector": True, "language model": True, "cross-attention norms": True,
            "V2V cross-attention": False, "T2V cross-attention": True,
        }  # fmt: skip

    def test_precision_is_what_the_device_computes_in(
        self, start: Path, lessons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out, plans = tmp_path / "run", list[RunPlan]()
        options: Any = {"model": start, "data": lessons, "out": out, "on_start": plans.append}
        automatic = recipe(steps=1, precision="auto")
        monkeypatch.setattr("crosslmm.training.run.computes_bfloat16", lambda device: True)
        train(automatic, **options, dry_run=True)
        monkeypatch.setattr("crosslmm.training.run.computes_bfloat16", lambda device: False)
        train(automatic, **options)
        assert [plan.recipe.precision for plan in plans] == ["bf16", "fp32"]
        record = json.loads((out / "run.json").read_text())
        assert record["recipe"]["precision"] == "auto"
        assert record["sessions"][0]["precision"] == "fp32"

    def test_a_part_learns_at_its_own_rate(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        trained, seen = run_training(
            start, lessons, tmp_path / "run", steps=3,
            vision_learning_rate=0.0, gate_learning_rate=0.0,
        )  # fmt: skip
        changed = changed_parts(weights(start), weights(trained.folder))
        assert not changed["vision encoder"]
        assert changed["language model"]
        assert seen[-1].gates == {"v2v": [0, 0], "t2v": [0, 0]}

    def test_norms_biases_and_gates_do_not_decay(self) -> None:
        from crosslmm.training.stages import freeze, group_names

        model = tiny_model()
        freeze(model, "tune")
        groups = group_names(model, recipe(weight_decay=0.1, vision_learning_rate=1e-6))
        decays = {name for name, (_, decay) in groups.items() if decay}
        assert "model.cross_attention_layers.1.t2v.k_proj.weight" in decays
        assert not any(name.endswith(("bias", "gate", "norm.weight")) for name in decays)
        rates = {part_of(name): rate for name, (rate, _) in groups.items()}
        assert rates["vision encoder"] == 1e-6
        assert rates["T2V cross-attention"] == 3e-3

    def test_the_new_checkpoint_is_an_ordinary_one(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        from crosslmm.checkpoints.loading import load_model, load_processor

        trained, _ = run_training(start, lessons, tmp_path / "run", steps=1, tokens_per_frame=1)
        assert {path.name for path in trained.folder.iterdir()} == {
            path.name for path in start.iterdir()
        }
        config = json.loads((trained.folder / "config.json").read_text())
        before = json.loads((start / "config.json").read_text())
        assert config == {**before, "tokens_per_frame": 1}
        model = load_model(trained.folder, device=torch.device("cpu"), dtype=torch.float32)
        assert model.config.tokens_per_frame == 1
        assert load_processor(trained.folder).tokens_per_frame == 1
        notes = json.loads((tmp_path / "run" / "run.json").read_text())
        assert notes["recipe"]["seed"] == 0
        assert notes["sessions"][0]["versions"]["torch"] == torch.__version__


def _to_bfloat16(folder: Path) -> None:
    from safetensors.torch import save_file

    stored = {name: tensor.bfloat16() for name, tensor in weights(folder).items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))


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
        logged = [json.loads(line) for line in _lines(out / "log.jsonl")]
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
        lines = _lines(tmp_path / "run" / "skipped.jsonl")
        origins = {json.loads(line)["origin"] for line in lines}
        assert origins == {f"{data}, record {number}" for number in (9, 10, 11, 12)}
        with pytest.raises(VideoError, match=r"of 12 samples cannot be trained on.*\n.*broken.mp4"):
            run_training(start, data, tmp_path / "strict", steps=6, max_skipped=0.1)
        (lessons.parent / "broken.mp4").unlink()
        (lessons.parent / "broken.mp4").symlink_to(lessons.parent / records[0]["video"])
        fixed, _ = run_training(start, data, tmp_path / "strict", steps=6, max_skipped=0.1)
        assert fixed.skipped == 0
        assert not _lines(tmp_path / "strict" / "skipped.jsonl")

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
        assert len(_lines(tmp_path / "run" / "log.jsonl")) < 12

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
        logged = [json.loads(line) for line in _lines(tmp_path / "both" / "log.jsonl")]
        losses = [entry["loss"] for entry in logged if "loss" in entry]
        assert losses == pytest.approx([entry.loss for entry in alone], rel=1e-4)


def _count_calls(module: torch.nn.Module) -> list[None]:
    calls: list[None] = []
    module.q_proj.register_forward_hook(lambda *_: calls.append(None))
    return calls


class TestAdapters:
    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    @pytest.mark.parametrize("quantization", ["none", "4bit"])
    def test_adapters_learn_in_place_of_the_language_model(
        self, start: Path, lessons: Path, tmp_path: Path, quantization: Any
    ) -> None:
        options = LoraOptions(rank=4, alpha=8.0, dropout=0.0, quantization=quantization)
        trained, seen = run_training(
            start, lessons, tmp_path / "run", steps=8, lora=options, learning_rate=1e-2,
            gradient_checkpointing=True,
        )  # fmt: skip
        losses = [entry.loss for entry in seen if entry.loss is not None]
        assert losses[-1] < losses[0]
        before, after = weights(start), weights(trained.folder)
        assert changed_parts(before, after) == {
            "cross-attention norms": True, "T2V cross-attention": True, "V2V cross-attention": True,
            "language model": True, "projector": True, "vision encoder": False,
        }  # fmt: skip
        linears = ("_proj.weight", "_proj.bias")
        for name, tensor in before.items():
            if part_of(name) == "language model":
                moved = not torch.equal(tensor, after[name])
                assert moved == name.endswith(linears[0]), name
        adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
        name = "model.language_model.layers.0.self_attn.q_proj"
        update = 2.0 * (
            adapter[f"base_model.model.{name}.lora_B.weight"]
            @ adapter[f"base_model.model.{name}.lora_A.weight"]
        )
        assert torch.allclose(before[f"{name}.weight"] + update, after[f"{name}.weight"], atol=1e-6)


class TestCommand:
    def test_from_a_recipe_file_to_a_model_that_answers(
        self, run: Callable[..., Any], start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "mine.yaml").write_text(
            "stage: tune\nlearning_rate: 1e-3\nframes: 2\nbatch_size: 2\nsteps: 2\nworkers: 0\n"
        )
        common = ("--model", start, "--data", lessons, "--out", tmp_path / "run")
        shown = run("train", tmp_path / "mine.yaml", *common, "--dry-run")
        assert shown.code == 0
        assert shown.out == ""
        assert "T2V" in shown.err
        assert "2 steps, batch size 2" in shown.err
        assert not (tmp_path / "run").exists()
        done = run("train", tmp_path / "mine.yaml", *common)
        assert (done.code, done.out) == (0, f"{tmp_path / 'run' / 'model'}\n")
        assert "step 2 of 2, loss" in done.err
        assert run("models", "show", tmp_path / "run" / "model").code == 0

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("tune-3b",), "neither a file nor a recipe"),
            (("tune-2b", "--set", "frmes=3"), "unknown option 'frmes'"),
            (("tune-2b", "--set", "batch_size=7", "--set", "device_batch_size=2"), "no multiple"),
            (
                ("tune-2b", "--set", "tokens_per_frame=36"),
                "`tokens_per_frame` 36 is too many: the model has 25 patches per frame",
            ),
        ],
    )
    def test_wrong_use(
        self, run: Callable[..., Any], start: Path, lessons: Path, tmp_path: Path,
        arguments: tuple[str, ...], words: str,
    ) -> None:  # fmt: skip
        finished = run(
            "train", *arguments, "--model", start, "--data", lessons, "--out", tmp_path / "run"
        )
        assert finished.code == 2
        assert words in finished.err
        assert len(finished.err.splitlines()) <= 2

    def test_a_wrong_folder_is_found_at_once(
        self, start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match="give their folder as `media_folder`"):
            train(recipe(), model=start, data=lessons, out=tmp_path / "run", media_folder=tmp_path)
