"""Whole training runs on a tiny model: what learns, what does not, and what a kill leaves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from crosslmm.checkpoints.headers import part_of
from crosslmm.errors import UsageError
from crosslmm.training.collator import Collator
from crosslmm.training.dataset import VideoDataset
from crosslmm.training.recipe import LoraOptions
from crosslmm.training.records import Records
from crosslmm.training.run import RunPlan, train
from crosslmm.training.trainer import TrainingProgress, training_arguments
from tests.support.tiny import tiny_checkpoint, tiny_model
from tests.support.training_runs import Weights, recipe, run_training, weights


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

    def test_the_precision_of_accelerate_config_does_not_replace_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
        for precision, expected in (("fp32", "no"), ("bf16", "bf16")):
            arguments = training_arguments(recipe(precision=precision), tmp_path, evaluates=False)
            assert arguments.mixed_precision == expected

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
        from crosslmm.checkpoints.loading import load_processor

        trained, _ = run_training(start, lessons, tmp_path / "run", steps=1, tokens_per_frame=1)
        assert {path.name for path in trained.folder.iterdir()} == {
            path.name for path in start.iterdir()
        }
        config = json.loads((trained.folder / "config.json").read_text())
        before = json.loads((start / "config.json").read_text())
        assert config == before  # tokens_per_frame too: positions refer to it, as in training
        assert load_processor(trained.folder).tokens_per_frame == 1
        notes = json.loads((tmp_path / "run" / "run.json").read_text())
        assert notes["recipe"]["seed"] == 0
        assert notes["sessions"][0]["versions"]["torch"] == torch.__version__

    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    @pytest.mark.parametrize("adapters", [False, True])
    def test_its_positions_are_those_it_was_trained_with(
        self, start: Path, lessons: Path, tmp_path: Path, adapters: bool
    ) -> None:
        """With another number of tokens than the checkpoint's, too."""
        from crosslmm.checkpoints.loading import load_model, load_processor

        chosen = recipe(
            tokens_per_frame=1, steps=8, batch_size=8, device_batch_size=8, evaluate_every=8,
            lora=LoraOptions(rank=2) if adapters else None,
        )  # fmt: skip
        seen: list[TrainingProgress] = []
        trained = train(
            chosen, model=start, data=lessons, eval_data=lessons, out=tmp_path / "run",
            on_progress=seen.append,
        )  # fmt: skip
        assert trained is not None
        model = load_model(trained.folder, device=torch.device("cpu"), dtype=torch.float32).eval()
        processor = load_processor(trained.folder)
        data = VideoDataset(
            Records(lessons), recipe=chosen, processor=processor, context=10_000,
            stop_token_ids=[processor.tokenizer.eos_token_id],
        )  # fmt: skip
        batch = Collator(processor, tokens_per_frame=processor.tokens_per_frame)(
            [data[index] for index in range(8)]
        )
        frames = batch.pop("frames")
        del batch["skipped"]
        pixels = processor.normalise(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        with torch.no_grad():
            loss = float(model(pixel_values_videos=pixels, **batch).loss)
        assert loss == pytest.approx(seen[-1].eval_loss, rel=1e-4)


def _to_bfloat16(folder: Path) -> None:
    from safetensors.torch import save_file

    stored = {name: tensor.bfloat16() for name, tensor in weights(folder).items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))


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

    def test_data_may_be_a_pattern_of_folders(
        self, run: Callable[..., Any], start: Path, lessons: Path, tmp_path: Path
    ) -> None:
        for name in "ab":
            (tmp_path / f"part_{name}").mkdir()
            (tmp_path / f"part_{name}" / "data.json").write_text(lessons.read_text())
        shown = run(
            "train", "tune-2b", "--model", start, "--data", tmp_path / "part_{a,b}" / "data.json",
            "--video-folder", lessons.parent, "--out", tmp_path / "run", "--dry-run",
            "--set", "frames=2", "--set", "tokens_per_frame=1",
        )  # fmt: skip
        assert shown.code == 0, shown.err
        assert "16 samples" in shown.err

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
